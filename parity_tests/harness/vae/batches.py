"""What a step is given: pixels, labels and the numbers drawn beside them, drawn here by jax.random itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxvae
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.model import layout


class Batch(NamedTuple):
    """Pixels and everything drawn beside them."""

    x: np.ndarray
    """What is to be reconstructed, `[batch, pixels]`."""
    eps: np.ndarray
    """Standard normals `[batch, latent]`, or `[samples, batch, latent]`."""
    labels: np.ndarray | None = None
    """`[batch]`, of a model with classes."""
    prior: np.ndarray | None = None
    corruption: np.ndarray | None = None
    masks: tuple[np.ndarray, ...] = ()
    step: int = 0
    """Steps taken before."""


STREAMS = ("init", "order", "noise", "evaluation", "pictures", "binarization")


def stream(spec: Spec, name: str, *t: int) -> jax.Array:
    """A stream's key, or its key of step or epoch t."""
    key = jax.random.fold_in(jaxvae.root_key(spec.training.seed), STREAMS.index(name))
    return jax.random.fold_in(key, *t) if t else key


def drawn(spec: Spec, key: jax.Array, rows: int) -> Batch:
    """What a step draws from its key, drawn by jax.random itself, around no pixels."""
    dtype, latent, level = spec.training.dtype, spec.model.latent, spec.images.corruption_level
    samples = spec.objective.samples

    def keep(i: int, shape: tuple[int, ...]) -> np.ndarray:
        uniform = np.asarray(jax.random.uniform(jax.random.fold_in(key, i), (rows, *shape), "float32"))
        return (uniform >= np.float32(level)).astype(dtype) * np.asarray(1 / (1 - level), dtype)

    def normal(key: jax.Array, *shape: int) -> np.ndarray:
        return np.asarray(jax.random.normal(key, shape, dtype))

    eps = normal(key, *([samples] if samples > 1 else []), rows, latent)
    prior = normal(jax.random.fold_in(key, 1), rows, latent) if spec.objective.form == "adversarial" else None
    corruption, masks = None, ()
    if spec.images.corruption == "gaussian":
        corruption = normal(jax.random.fold_in(key, 2), rows, spec.model.pixels)
    elif spec.images.corruption == "dropout":
        corruption = keep(2, (spec.model.pixels,))
    elif spec.images.corruption == "hidden-dropout":
        masks = tuple(keep(3 + i, shape) for i, shape in enumerate(layout.hidden_units(spec.model)))
    return Batch(np.zeros((rows, 0), dtype), eps, None, prior, corruption, masks)


def cut(batch: Batch, rows: int) -> Batch:
    """The first images of a batch."""
    found = batch._replace(x=batch.x[:rows], eps=batch.eps[..., :rows, :], masks=tuple(m[:rows] for m in batch.masks))
    optional = {name: getattr(batch, name) for name in ("labels", "prior", "corruption")}
    return found._replace(**{name: array[:rows] for name, array in optional.items() if array is not None})


def prepared(spec: Spec, images: np.ndarray, places: np.ndarray, split: str, key: jax.Array | None) -> np.ndarray:
    """uint8 images as pixels, plainly: scaled, binarised, in their range. `places` are those of the data set; `key` is
    the step's."""
    flat, dtype = images.reshape(len(images), -1), np.dtype(spec.training.dtype).type
    match spec.images.binarization:
        case "none":
            x = flat.astype(dtype) / dtype(255)
        case "threshold":
            x = (flat > 127).astype(dtype)
        case how:
            if how == "static":
                own, at = stream(spec, "binarization", ("train", "test").index(split)), places
            else:
                assert key is not None
                own, at = jax.random.fold_in(key, 0), np.arange(len(flat))
            keys = jax.vmap(lambda place: jax.random.fold_in(own, place))(jnp.asarray(at))
            uniform = jax.vmap(lambda key: jax.random.uniform(key, flat.shape[1:], "float32"))(keys)
            x = (np.asarray(uniform) < flat.astype(np.float32) / np.float32(255)).astype(dtype)
    return 2 * x - 1 if spec.images.range == "signed" else x


def places(spec: Spec, images: int, t: int) -> np.ndarray:
    """Which training images step `t` is given."""
    epoch, i = divmod(t, spec.training.epoch_steps(images))
    order = np.asarray(jax.random.permutation(stream(spec, "order", epoch), images))
    return order[i * spec.training.batch_size :][: spec.training.batch_size]


def step_batch(spec: Spec, data: Dataset, t: int) -> Batch:
    """What training step `t` is given."""
    return rows_batch(spec, data, places(spec, len(data.train), t), t)


def rows_batch(spec: Spec, data: Dataset, rows: np.ndarray, t: int) -> Batch:
    """These training images with what step `t` draws."""
    key = stream(spec, "noise", t)
    batch = cut(drawn(spec, key, min(spec.training.batch_size, len(data.train))), len(rows))
    labels = data.train_labels[rows] if spec.model.classes else None
    return batch._replace(x=prepared(spec, data.train[rows], rows, "train", key), labels=labels, step=t)
