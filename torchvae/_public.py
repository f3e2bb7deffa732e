"""The names of jaxvae.shared that torchvae exports as its own: a lazy stub takes relative imports alone."""

from jaxvae.shared.config.parts import ImagesSpec as ImagesSpec
from jaxvae.shared.config.parts import ModelSpec as ModelSpec
from jaxvae.shared.config.parts import ObjectiveSpec as ObjectiveSpec
from jaxvae.shared.config.parts import TrainingSpec as TrainingSpec
from jaxvae.shared.config.presets import preset as preset
from jaxvae.shared.config.spec import Spec as Spec
from jaxvae.shared.data.dataset import Dataset as Dataset
from jaxvae.shared.data.datasets import digits as digits
from jaxvae.shared.data.datasets import load_data as load_data
from jaxvae.shared.data.datasets import mnist as mnist
from jaxvae.shared.errors import InputError as InputError
from jaxvae.shared.errors import NonFiniteError as NonFiniteError
from jaxvae.shared.version import __version__ as __version__
