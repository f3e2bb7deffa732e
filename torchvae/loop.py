"""Train a run epoch by epoch, in parts; callbacks get the state after each part and each epoch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.backend import Part, Progress
from jaxvae.shared.config.spec import Spec, require_spec, resolved
from jaxvae.shared.data import streaming
from jaxvae.shared.data.dataset import Dataset, as_dataset, trained_on
from jaxvae.shared.model.argument_checks import require_bytes, require_callback, require_labels, require_state
from jaxvae.shared.model.requirements import require_divisible_batch, require_images
from jaxvae.shared.runs.best_epoch import is_over
from jaxvae.shared.runs.metrics import first_bad, require_finite, stopped
from jaxvae.shared.training.interval import Pace
from torchvae import compiled, random
from torchvae.checks import check_params
from torchvae.evaluate import average_terms
from torchvae.keys import stream_key
from torchvae.parallel import agreed, home, own_rows, shares, split
from torchvae.params import optimizer_to_arrays, to_arrays
from torchvae.train import (
    MakeOptimizer,
    TrainState,
    copied,
    epoch_order,
    gathered,
    init_state,
    require_optimizer,
    spread,
    train_epoch,
)


def fit(
    spec: Spec,
    data: Dataset | np.ndarray,
    on_epoch: Callable[[Progress[TrainState]], None] = lambda progress: None,
    device: torch.device | str | None = None,
    start: tuple[TrainState, np.ndarray] | None = None,
    on_part: Callable[[Part[TrainState]], None] | None = None,
    every: Sequence[int] = (),
    stream: int | None = None,
    history: Sequence[float] = (),
    *,
    labels: np.ndarray | None = None,
    optimizer: MakeOptimizer | None = None,
    compile: bool = False,
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
        compile: Compute the gradient of a step by torch.compile, which takes a minute at first. It is the same run.

    Returns:
        The final state, which need not be the best epoch's.

    Raises:
        NonFiniteError: If a term, a gradient or a parameter becomes NaN or infinite.
        InputError: If the images, the labels or the state are not the configuration's, if the configuration has
            settings that the optimizer would not follow, if a streamed file has changed, or if the step can't be
            compiled.
    """
    require_spec(spec)
    require_callback("fit", on_epoch)
    if compile:
        compiled.require_one_process("fit")
    data = trained_on(as_dataset("fit", data, labels), spec.images)
    for images, classes in ((data.train, data.train_labels), (data.test, data.test_labels)):
        require_bytes("fit", images, spec.model.image)
        require_labels("fit", spec, classes if data.labelled else None, len(images))
    require_images(data.train.shape)
    spec = resolved(spec, len(data.train))
    if start is not None:
        require_state("fit", start[0], TrainState, spec.training)
        check_params("fit", spec.model, start[0].model, spec.training.stored)
        require_optimizer("fit", spec, start[0], optimizer)
    if start is None:
        made = init_state(spec, data.train, home(device) or "cpu", optimizer=optimizer)
        start = made, np.zeros((0, len(spec.terms)))
    now, before = spread(spec, start[0], device, optimizer), start[1]
    test = torch.tensor(data.test, device=device)
    validation = None if data.validation is None else torch.tensor(data.validation, device=device)
    train_labels, test_labels, validation_labels = (
        torch.tensor(labels, device=device) if spec.model.classes and labels is not None else None
        for labels in (data.train_labels, data.test_labels, data.validation_labels)
    )
    n = len(data.train)
    steps, total = spec.training.epoch_steps(n), spec.training.total_steps(n)
    require_divisible_batch(spec, n, shares())
    how = {"optimizer": optimizer, "compile": compile}
    done, terms = now.step, np.zeros((steps, len(spec.terms)), spec.training.stored)
    begun = len(before)
    terms[:begun] = before
    losses, pace = [*history], Pace(every, on_part is not None)
    if stream is None:
        blocks = contextlib.nullcontext(_whole(spec, data.train, now.key, done - begun, done))
    else:
        blocks = streaming.ahead(_streamed(spec, data.train, now.key, done - begun, done, stream))
    with blocks as coming:
        for block in coming:
            epoch, first = block.epoch + 1, block.epoch * steps
            while done < block.end:
                was, since = copied(spec, now, optimizer), done
                done = agreed(pace.next_stop(since, block.end))
                now, log = train_epoch(
                    *(spec, now, block.images, train_labels, done, block.order, n, block.places), **how
                )
                part = slice(since - first, done - first)
                terms[part] = log[part].cpu().numpy()
                pace.took(done - since)
                if not np.isfinite(terms[part]).all() or not _finite(now):
                    _stop(spec, was, block, train_labels, done, n, how)
                if on_part is not None:
                    on_part(Part(now, epoch, done, terms[: done - first].copy()))
            if done < min(first + steps, total):
                continue
            own = gathered(spec, now, optimizer)
            if own is not now:
                own.evaluated.to(device)
            key = stream_key(now.key, "evaluation", epoch)
            evaluated, validated = average_terms(spec, own.evaluated, test, key, test_labels), None
            require_finite(spec, evaluated, done)
            if validation is not None:
                key = stream_key(now.key, "validation", epoch)
                validated = average_terms(spec, own.evaluated, validation, key, validation_labels, "validation")
                require_finite(spec, validated, done)
                losses.append(float(validated[0]))
            on_epoch(Progress(own, epoch, done, terms[: done - first].copy(), evaluated, validated))
            if spec.training.patience and agreed(int(is_over(losses, spec.training.patience))):
                break
    return gathered(spec, now, optimizer)


class _Block(NamedTuple):
    """The images of an epoch's next steps."""

    epoch: int
    """From 0."""
    end: int
    """The step of the run that they go up to."""
    images: Tensor
    order: Tensor
    """The epoch's, `[n]`."""
    places: Tensor | None
    """The index in the images of each image of the order, `[n]`; None if they are all of the data."""


def _whole(spec: Spec, images: np.ndarray, key: random.Key, first: int, done: int) -> Iterator[_Block]:
    """One block of all images for each epoch."""
    train, n = torch.tensor(np.asarray(images), device=key.device), len(images)
    for epoch, spans in streaming.spans(spec.training, n, spec.training.epoch_steps(n), first, done):
        yield _Block(epoch, spans[-1].end, train, epoch_order(spec, key, epoch, n), None)


def _streamed(spec: Spec, images: np.ndarray, key: random.Key, first: int, done: int, size: int) -> Iterator[_Block]:
    """Blocks of this process's images. Run by a thread, nothing of which waits for what the device computes."""
    n, batch = len(images), min(spec.training.batch_size, len(images))
    per = streaming.steps_in_block(spec, n, size)
    own = np.concatenate([split(whole).numpy() for whole in torch.arange(n).split(batch)])
    for epoch, spans in streaming.spans(spec.training, n, per, first, done):
        order = epoch_order(spec, key.cpu(), epoch, n)
        rows, where = streaming.blocks(order.numpy(), per * batch, own)
        order, places = _on(key.device, order), _on(key.device, torch.from_numpy(where))
        for span in spans:
            block_images = torch.from_numpy(np.asarray(images[rows[span.block]]))
            yield _Block(epoch, span.end, _on(key.device, block_images), order, places)


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    """Copy a tensor to the device while that computes."""
    if device.type != "cuda":
        return tensor
    beside = torch.cuda.Stream(device)
    with torch.cuda.stream(beside):
        copy = tensor.pin_memory().to(device, non_blocking=True)
    beside.synchronize()
    # Its memory is used again once nobody holds it, and the run has then waited for all steps that were taken on it.
    return copy


def _stop(
    spec: Spec,
    state: TrainState,
    block: _Block,
    labels: Tensor | None,
    until: int,
    n: int,
    how: dict[str, Any],
) -> NoReturn:
    """Takes the steps of a part that went wrong one by one, and raises NonFiniteError naming what did first."""
    steps, since = spec.training.epoch_steps(n), state.step
    for step in range(since, until):
        state, log = train_epoch(*(spec, state, block.images, labels, step + 1, block.order, n, block.places), **how)
        own = gathered(spec, state, how["optimizer"])
        moments = optimizer_to_arrays(spec, own.optimizer) if how["optimizer"] is None else {}
        arrays = {**to_arrays(spec, own.model), **moments}
        if (bad := first_bad(spec, log[step % steps].cpu().numpy(), arrays)) is not None:
            raise stopped(bad, step + 1, since, until)
    # Some devices add in another order each time.
    raise stopped("a number became infinite, and did not when the steps were taken again,", until, since, until)


def _finite(state: TrainState) -> bool:
    adams = [adam.state[tensor] for adam in state.optimizer.values() for tensor in adam.state]
    held = [value for values in adams for value in values.values() if isinstance(value, Tensor)]
    tensors = [own_rows(tensor) for tensor in (*state.model.state_dict().values(), *held)]
    bad = not torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
    return not agreed(int(bad))
