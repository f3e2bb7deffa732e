"""The place of a difference in both packages: a layer, and the function that computes what differs."""

import importlib
import inspect
import re
from operator import attrgetter

from parity_tests.harness.causes import Cause
from parity_tests.harness.findings import Layer, Source
from parity_tests.harness.modules.layers.owners import source
from parity_tests.harness.vae.layer_figures import DIRECTIONS, split

PACKAGES = ("jaxvae", "torchvae")
LEVELS = {
    "key streams": "keys.stream_key",
    "normals": "random.normal",
    "what a step draws": "draws.draw",
    "initial weights": "nets.init",
    "pixels": "pixels.prepare_pixels",
    "every layer's output": "networks.VAE",
    "every loss term": "objectives.image_terms",
    "every term and statistic in training": "objectives.training_loss",
    "every gradient": "objectives.training_loss",
    "outputs and losses at both ends of every head": "objectives.image_terms",
    "gradients at both ends of every head": "objectives.training_loss",
    "the optimizer on given gradients": "train.make_optimizer",
    "weights and optimizer state after a step": "train.train_step",
    "data order": "train.train_epoch",
    "evaluation figures": "evaluate.average_terms",
    "pictures": "generate.images_of",
}
"""The function that computes what a level compares, by its module and name in both packages."""
RUN = "train.train_epoch"


def located(level: str, name: str = "", cause: Cause | None = None) -> Layer:
    """Find where both packages compute what differs.

    Args:
        level: The name of the level; of a step of a run another.
        name: The array that differs.
        cause: The cause, if it is known, which may be of another function than the level's.

    Returns:
        The layer that the array is of, if it is one's, and the function in each package that has it.
    """
    if level in DIRECTIONS:
        layer = ".".join(split(level, name)[0])
    else:
        array = re.match(r"(?:encoder|decoder|discriminator)\.[\w.]*\w", name)
        layer = array and re.sub(r"\.(weight|bias|running_mean|running_var)$", "", array[0])
    code = (cause is not None and cause.code) or LEVELS.get(level, RUN)
    return Layer(layer, layer, *(_source(package, code) for package in PACKAGES))


def _source(package: str, code: str) -> Source | None:
    module, _, name = code.partition(".")
    try:
        return source(inspect.unwrap(attrgetter(name)(importlib.import_module(f"{package}.{module}"))))
    except (ImportError, AttributeError):  # as torchvae.random, which JAX has itself
        return None
