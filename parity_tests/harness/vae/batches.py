"""Inputs of a step: pixels, labels and random numbers, drawn here by jax.random directly."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxvae
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.model import layout
from parity_tests.harness.vae.batch import Batch

STREAMS = ("init", "order", "noise", "evaluation", "pictures", "binarization", "validation")


def stream(spec: Spec, name: str, *t: int) -> jax.Array:
    """Derive the key of a stream, or its key for step or epoch `t`."""
    key = jax.random.fold_in(jaxvae.root_key(spec.training.seed), STREAMS.index(name))
    return jax.random.fold_in(key, *t) if t else key


def drawn(spec: Spec, key: jax.Array, rows: int) -> Batch:
    """Draw the random numbers of a step from its key by jax.random directly; the batch has no pixels."""
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
    """Take the first `rows` images of a batch."""
    shorter = batch._replace(x=batch.x[:rows], eps=batch.eps[..., :rows, :], masks=tuple(m[:rows] for m in batch.masks))
    optional = {name: getattr(batch, name) for name in ("labels", "prior", "corruption")}
    return shorter._replace(**{name: array[:rows] for name, array in optional.items() if array is not None})


def prepared(spec: Spec, images: np.ndarray, places: np.ndarray, split: str, key: jax.Array | None) -> np.ndarray:
    """Convert uint8 images to pixels by the plain formulas: scaled, binarised and in their range.

    Args:
        spec: The configuration.
        images: uint8 `[n, height, width, channels]`.
        places: The index of each image in its split, `[n]`.
        split: `train`, `test` or `validation`.
        key: The key of the step; needed for dynamic binarisation only.

    Returns:
        `[n, pixels]` in the configuration's dtype.
    """
    flat, dtype = images.reshape(len(images), -1), np.dtype(spec.training.dtype).type
    match spec.images.binarization:
        case "none":
            x = flat.astype(dtype) / dtype(255)
        case "threshold":
            x = (flat > 127).astype(dtype)
        case how:
            if how == "static":
                own, at = stream(spec, "binarization", ("train", "test", "validation").index(split)), places
            else:
                assert key is not None
                own, at = jax.random.fold_in(key, 0), np.arange(len(flat))
            keys = jax.vmap(lambda place: jax.random.fold_in(own, place))(jnp.asarray(at))
            uniform = jax.vmap(lambda key: jax.random.uniform(key, flat.shape[1:], "float32"))(keys)
            x = (np.asarray(uniform) < flat.astype(np.float32) / np.float32(255)).astype(dtype)
    return 2 * x - 1 if spec.images.range == "signed" else x


def places(spec: Spec, images: int, t: int) -> np.ndarray:
    """Compute the indices of the training images of step `t`."""
    epoch, i = divmod(t, spec.training.epoch_steps(images))
    order = np.asarray(jax.random.permutation(stream(spec, "order", epoch), images))
    return order[i * spec.training.batch_size :][: spec.training.batch_size]


def step_batch(spec: Spec, data: Dataset, t: int) -> Batch:
    """Make the inputs of training step `t`."""
    return rows_batch(spec, data, places(spec, len(data.train), t), t)


def rows_batch(spec: Spec, data: Dataset, rows: np.ndarray, t: int) -> Batch:
    """Make a batch of these training images with the random numbers of step `t`."""
    key = stream(spec, "noise", t)
    batch = cut(drawn(spec, key, min(spec.training.batch_size, len(data.train))), len(rows))
    labels = data.train_labels[rows] if spec.model.classes else None
    images = augmented(spec, data.train[rows], t)
    return batch._replace(x=prepared(spec, images, rows, "train", key), labels=labels, step=t)


def augmented(spec: Spec, images: np.ndarray, t: int) -> np.ndarray:
    """Mirror and move the images of training step `t`, one by one."""
    flip, most, (height, width) = spec.images.flip, spec.images.shift, images.shape[1:3]
    seen = images.copy()
    for i in range(len(images)) if flip or most else ():
        key = jax.random.fold_in(jax.random.fold_in(stream(spec, "noise", t), 2**30), i)
        mirrored, *shares = np.asarray(jax.random.uniform(key, (3,), "float32"))
        if flip and mirrored < 0.5:
            seen[i] = seen[i, :, ::-1]
        down, right = (int(np.floor(share * np.float32(2 * most + 1))) - most for share in shares)
        padded = np.pad(seen[i], ((most, most), (most, most), (0, 0)), "edge")
        seen[i] = padded[most - down :, most - right :][:height, :width]
    return seen
