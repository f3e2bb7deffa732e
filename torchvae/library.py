"""What the commands do, as functions of a model: figures, reports and run folders."""

import torchvae
from jaxvae.shared.library import Library
from jaxvae.shared.library import picture_grid as picture_grid
from torchvae.checks import check_params

_library = Library(torchvae, check_params)
plot_samples = _library.plot_samples
plot_reconstructions = _library.plot_reconstructions
plot_traversals = _library.plot_traversals
plot_interpolations = _library.plot_interpolations
plot_manifold = _library.plot_manifold
plot_latents = _library.plot_latents
plot_curves = _library.plot_curves
save_run = _library.save_run
write_report = _library.write_report
