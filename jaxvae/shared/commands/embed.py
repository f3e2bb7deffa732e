"""The command that shows where a run puts test images: their latents as points in a plane, in colours by label."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxvae.shared.analysis.latents import flat
from jaxvae.shared.commands.common import Device, RunPath, encode_first, open_images, open_run
from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import image_grid, labelled_figure
from jaxvae.shared.training import projector

By = Literal["auto", "latents", "pca", "tsne"]

_FEWEST = 5  # images of which t-SNE finds neighbours


@dataclass(frozen=True)
class Embed:
    """Picture the latents of test images as points, in colours by label. For example:

        embed runs/jaxvae-1 --out latents.png --by tsne --n 2000
        embed runs/jaxvae-1 --out latents.png --projector runs/jaxvae-1/projector

    and then `tensorboard --logdir runs/jaxvae-1/projector`."""

    run: RunPath
    """The run folder, whichever package wrote it."""
    out: Path
    """The PNG to write."""
    by: By = "auto"
    """Two latents as they are; of more the first two principal components, or t-SNE (a minute for thousands of images,
    and not to the digit the same in both packages: neighbourhoods are, places are not)."""
    n: int = 2000
    """How many images at most, from the test split's first on."""
    seed: int = 0
    """Of t-SNE."""
    projector: Path | None = None
    """A folder for the latents, labels and images in the form that TensorBoard's projector shows them in."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


def embed(side: Any, command: Embed) -> None:
    """Raises InputError for what can't be done as asked."""
    image_grid.require_png(command.out)
    require_seed(command.seed)
    if command.projector is not None and not command.projector.parent.is_dir():
        raise InputError(f"{command.projector} can't be made: its parent is no folder; give another --projector.")
    if command.n < 2:
        raise InputError(f"--n must be at least 2, found {command.n}.")
    run, weights = open_run(side, command.run, command.device)
    if command.by == "latents" and run.spec.model.latent != 2:
        raise InputError(f"--by latents shows two of them, and the model has {run.spec.model.latent}; choose another.")
    dataset = open_images(run, command.data_root)
    images, labels = dataset.test[: command.n], dataset.test_labels[: command.n]
    latents = encode_first(side, run, weights, dataset, command.n).mean
    places, names = placed(latents, command.by, command.seed)
    caption = f"The first {len(images):,} test images of {dataset.name}"
    image_grid.write(labelled_figure.points(places, labels, names, caption), command.out)
    print(f"{len(images):,} test images in {command.out}")
    if command.projector is not None:
        projector.write(command.projector, latents, labels, images)
        print(f"for TensorBoard's projector in {command.projector}")


def placed(latents: np.ndarray, by: By = "auto", seed: int = 0) -> tuple[np.ndarray, tuple[str, str]]:
    """Latents `[n, latent]` as points `[n, 2]`, and what their axes are. Raises InputError for t-SNE of too few."""
    if by in ("auto", "latents") and latents.shape[1] == 2:
        return latents, ("latent 1", "latent 2")
    if by == "tsne":
        from sklearn.manifold import TSNE

        if len(latents) < _FEWEST:
            raise InputError(f"t-SNE needs at least {_FEWEST} images, found {len(latents)}; give a larger --n.")
        perplexity = min(30.0, (len(latents) - 1) / 3)
        model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32)
        return model.fit_transform(latents), ("t-SNE 1", "t-SNE 2")
    directions, shares = flat(latents)
    names = [f"component {i + 1}, {100 * share:.0f} % of the variance" for i, share in enumerate(shares)]
    if latents.shape[1] == 1:
        names = ["latent 1", ""]
    return (latents - latents.mean(0)) @ directions.T, (names[0], names[1])
