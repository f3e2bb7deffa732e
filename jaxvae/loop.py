"""Train a run epoch by epoch, in parts; callbacks get the state after each part and each epoch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxvae.checks import check_params
from jaxvae.compilation import program
from jaxvae.devices import Device
from jaxvae.evaluate import average_terms
from jaxvae.keys import stream_key
from jaxvae.parallel import agreed, everywhere, home, local, placed, shares, spread
from jaxvae.params import optimizer_to_arrays, to_arrays
from jaxvae.shared.backend import Part, Progress
from jaxvae.shared.config.spec import Spec, require_spec, resolved
from jaxvae.shared.data import streaming
from jaxvae.shared.data.dataset import Dataset, as_dataset, trained_on
from jaxvae.shared.model.argument_checks import require_bytes, require_callback, require_labels, require_state
from jaxvae.shared.model.requirements import require_divisible_batch, require_images
from jaxvae.shared.runs.best_epoch import is_over
from jaxvae.shared.runs.metrics import first_bad, require_finite, stopped
from jaxvae.shared.training.interval import Pace
from jaxvae.train import TrainState, epoch_order, gathered, init_state, require_optimizer, train_epoch


def fit(
    spec: Spec,
    data: Dataset | np.ndarray,
    on_epoch: Callable[[Progress[TrainState]], None] = lambda progress: None,
    device: Device | None = None,
    start: tuple[TrainState, np.ndarray] | None = None,
    on_part: Callable[[Part[TrainState]], None] | None = None,
    every: Sequence[int] = (),
    stream: int | None = None,
    history: Sequence[float] = (),
    *,
    labels: np.ndarray | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """Train for the configured epochs or steps, and evaluate on the test images after each epoch.

    How an epoch is cut into parts or blocks changes none of its numbers. With `ImagesSpec.validation` some training
    images are held out, and each epoch is evaluated on them too: `on_epoch` can keep the best epoch's weights. With
    `TrainingSpec.patience` training ends once that many epochs have brought no lower validation loss.

    Args:
        spec: The configuration.
        data: A data set, or uint8 images `[n, height, width, channels]`, of which every tenth is for testing. Of the
            others the first `ImagesSpec.train_images` are trained on, or all.
        on_epoch: Called after each epoch and its evaluation.
        device: Where to train.
        start: A state to resume from, with the terms of its epoch's steps so far as in `Part`.
        on_part: Called about once a second, at the multiples of `every`, and at an epoch's end before its evaluation.
        every: Numbers of steps at whose multiples `on_part` is called.
        stream: Bytes of a block, to load the training images in blocks of at least one batch; two are held at a time.
        history: The validation losses of the epochs before `start`'s, for the patience.
        labels: The classes of images that are given as an array, `[n]`.
        optimizer: Another optimizer than the configuration's Adam: in jaxvae an `optax.GradientTransformation`, in
            torchvae a function that makes a `torch.optim.Optimizer` of a list of parameters.

    Returns:
        The final state, which need not be the best epoch's.

    Raises:
        NonFiniteError: If a term, a gradient or a parameter becomes NaN or infinite.
        InputError: If the images, the labels or the state are not the configuration's, if the configuration has
            settings that the optimizer would not follow, or if a streamed file has changed.
    """
    require_spec(spec)
    require_callback("fit", on_epoch)
    data = trained_on(as_dataset("fit", data, labels), spec.images)
    for images, classes in ((data.train, data.train_labels), (data.test, data.test_labels)):
        require_bytes("fit", images, spec.model.image)
        require_labels("fit", spec, classes if data.labelled else None, len(images))
    require_images(data.train.shape)
    spec = resolved(spec, len(data.train))
    if start is not None:
        require_state("fit", start[0], TrainState, spec.training)
        check_params("fit", spec.model, start[0].params, spec.training.stored)
        require_optimizer("fit", spec, start[0], optimizer)
    with jax.default_device(device):
        if start is None:
            with jax.default_device(home(device)):
                start = init_state(spec, data.train, optimizer=optimizer), np.zeros((0, len(spec.terms)))
        now, before, n = spread(start[0]), start[1], len(data.train)
        require_divisible_batch(spec, n, shares())
        test, validation = jnp.asarray(data.test), None if data.validation is None else jnp.asarray(data.validation)
        train_labels = placed(data.train_labels) if spec.model.classes else None
        test_labels, validation_labels = (
            jnp.asarray(labels) if spec.model.classes and labels is not None else None
            for labels in (data.test_labels, data.validation_labels)
        )
        steps, total = spec.training.epoch_steps(n), spec.training.total_steps(n)
        done, terms = int(now.step), np.zeros((steps, len(spec.terms)), spec.training.stored)
        begun = len(before)
        terms[:begun] = before
        losses, pace = [*history], Pace(every, on_part is not None)
        if stream is None:
            blocks = contextlib.nullcontext(_whole(spec, data.train, now.key, done - begun, done))
        else:
            key = now.key.addressable_data(0)
            blocks = streaming.ahead(_streamed(spec, data.train, key, done - begun, done, device, stream))
        with blocks as coming:
            for block in coming:
                epoch, first = block.epoch + 1, block.epoch * steps
                while done < block.end:
                    was, since = now, done
                    done = agreed(pace.next_stop(since, block.end))
                    now, log = train_epoch(
                        *(spec, was, block.images, train_labels, done, block.order, n, block.places),
                        optimizer=optimizer,
                    )
                    part = slice(since - first, done - first)
                    terms[part] = np.asarray(log)[part]
                    pace.took(done - since)
                    if not np.isfinite(terms[part]).all() or not _finite(now):
                        _stop(spec, was, block, train_labels, done, n, optimizer)
                    if on_part is not None:
                        on_part(Part(local(now), epoch, done, terms[: done - first].copy()))
                if done < min(first + steps, total):
                    continue
                own = gathered(spec, now)
                key = stream_key(own.key, "evaluation", epoch)
                evaluated, validated = average_terms(spec, own.evaluated, test, key, test_labels), None
                require_finite(spec, evaluated, done)
                if validation is not None:
                    key = stream_key(own.key, "validation", epoch)
                    validated = average_terms(spec, own.evaluated, validation, key, validation_labels, "validation")
                    require_finite(spec, validated, done)
                    losses.append(float(validated[0]))
                on_epoch(Progress(own, epoch, done, terms[: done - first].copy(), evaluated, validated))
                if spec.training.patience and agreed(int(is_over(losses, spec.training.patience))):
                    break
        return gathered(spec, now)


class _Block(NamedTuple):
    """The images of an epoch's next steps."""

    epoch: int
    """From 0."""
    end: int
    """The step of the run that they go up to."""
    images: Array
    order: Array
    """The epoch's, `[steps, batch]`."""
    places: Array | None
    """The index in the images of each image of the order, `[steps, batch]`; None if they are all of the data."""


def _whole(spec: Spec, images: np.ndarray, key: Array, first: int, done: int) -> Iterator[_Block]:
    """One block of all images for each epoch."""
    train, n = placed(images), len(images)
    for epoch, spans in streaming.spans(spec.training, n, spec.training.epoch_steps(n), first, done):
        yield _Block(epoch, spans[-1].end, train, epoch_order(spec, key, epoch, n), None)


def _streamed(
    spec: Spec, images: np.ndarray, key: Array, first: int, done: int, device: Device | None, size: int
) -> Iterator[_Block]:
    """Blocks of images. Run by a thread, which JAX's defaults don't hold for, and which other processes' threads don't
    wait for: nothing here is computed by more than one device."""
    n, batch = len(images), min(spec.training.batch_size, len(images))
    per = streaming.steps_in_block(spec, n, size)
    for epoch, spans in streaming.spans(spec.training, n, per, first, done):
        with jax.default_device(device):
            own = np.asarray(epoch_order(spec, key, epoch, n))
            rows, where = streaming.blocks(own.ravel(), per * batch)
            order, places = everywhere((jnp.asarray(own), jnp.asarray(where.reshape(own.shape))))
        for span in spans:
            # Blocks of one size, or the epoch would be compiled again for the last.
            filled = np.pad(rows[span.block], (0, per * batch - len(rows[span.block])), "edge")
            with jax.default_device(device):
                block_images = placed(images[filled])
            yield _Block(epoch, span.end, block_images, order, places)


def _stop(
    spec: Spec,
    state: TrainState,
    block: _Block,
    labels: Array | None,
    until: int,
    n: int,
    optimizer: optax.GradientTransformation | None,
) -> NoReturn:
    """Takes the steps of a part that went wrong one by one, and raises NonFiniteError naming what did first."""
    steps, since = spec.training.epoch_steps(n), int(state.step)
    for step in range(since, until):
        state, log = train_epoch(
            *(spec, state, block.images, labels, step + 1, block.order, n, block.places), optimizer=optimizer
        )
        own = gathered(spec, state)
        moments = optimizer_to_arrays(spec, own.opt_state) if optimizer is None else {}
        arrays = {**to_arrays(spec, own.params), **moments}
        if (bad := first_bad(spec, np.asarray(log)[step % steps], arrays)) is not None:
            raise stopped(bad, step + 1, since, until)
    # Some devices add in another order each time.
    raise stopped("a number became infinite, and did not when the steps were taken again,", until, since, until)


@program()
def _finite(state: TrainState) -> Array:
    leaves = jax.tree.leaves((state.params, state.opt_state))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
