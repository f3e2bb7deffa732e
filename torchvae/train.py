"""Training: one step, one epoch."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.config.spec import Spec, require_spec, resolved
from jaxvae.shared.data.mean_image import last_bias
from jaxvae.shared.model.argument_checks import require_bytes, require_kind, require_labels, require_state
from jaxvae.shared.model.noise_blocks import steps_at_once
from jaxvae.shared.model.optimizer_state import (
    other_optimizer,
    require_kind_of_optimizer,
    require_plain_training,
    trained,
)
from jaxvae.shared.model.requirements import require_batches, require_drawn_anew, require_images
from torchvae import compiled, random
from torchvae.augmentation import augment
from torchvae.checks import check_params, check_pixels, require_key, require_own
from torchvae.draws import Draws, draw, image_keys
from torchvae.keys import root_key, static_key, streams
from torchvae.nets import bind, init
from torchvae.networks import VAE
from torchvae.objectives import AnyTerms, Inputs, Phase, collect, inputs, minimized, phases, training_loss
from torchvae.parallel import all_rows, is_sharded, processes, rows, shard_layers, sharded, split, sum_gradients
from torchvae.pixels import prepare_pixels
from torchvae.updates import averaged, clipped, learning_rate

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


class TrainState(NamedTuple):
    """All that resuming a run needs.

    `key` is the run's root key and never changes: step t draws from fold_in(noise stream, t), epoch e shuffles by
    fold_in(order stream, e).
    """

    model: VAE
    optimizer: dict[str, torch.optim.Optimizer]
    """The optimizer state of each `objectives.Phase`, by its name, which is empty if there is one phase."""
    step: int
    key: random.Key
    average: VAE | None = None
    """The moving average of the parameters, if the configuration has an `ema`."""

    @property
    def evaluated(self) -> VAE:
        """What is evaluated, drawn and saved: the average, if there is one, or else the weights."""
        return self.model if self.average is None else self.average


class _Adam(torch.optim.Adam):
    """The configuration's Adam, told from the user's own."""


class _AdamW(torch.optim.AdamW):
    """The same with weight decay."""


def make_optimizer(spec: Spec, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Make Adam with eps outside the root, or AdamW, at the first epoch's learning rate without a schedule by step.

    A gradient is clipped first if the configuration says so.

    Args:
        spec: The configuration.
        parameters: The tensors that it updates.

    Returns:
        The optimizer.

    References:
        Kingma & Ba 2015, algorithm 1. Loshchilov & Hutter 2019, algorithm 2, for the decay of the weights.
    """
    require_spec(spec)
    training = spec.training
    betas = (training.beta1, training.beta2)
    adam = _AdamW if training.weight_decay else _Adam
    rate, shrink = training.learning_rates()[0], training.weight_decay
    optimizer = adam(parameters, rate, betas, training.eps, shrink, fused=True)

    def clip(optimizer: torch.optim.Optimizer, *_: object) -> None:
        tensors = [tensor for tensor in _tensors(optimizer) if tensor.grad is not None]
        for tensor, grad in zip(tensors, clipped(spec, [tensor.grad for tensor in tensors]), strict=True):
            tensor.grad = grad

    if training.clip:
        optimizer.register_step_pre_hook(clip)
    return optimizer


def init_optimizers(spec: Spec, model: VAE, optimizer: MakeOptimizer | None = None) -> dict[str, torch.optim.Optimizer]:
    """Make the optimizer of each phase of a step.

    Args:
        spec: The configuration.
        model: The model.
        optimizer: Makes another optimizer than the configuration's Adam, of a list of parameters.

    Returns:
        The optimizers by the names of `Spec.phases`, each with its parameters in the order of `layout.table`.

    Raises:
        InputError: If the model is not the configuration's, or if the configuration has settings of Adam's that
            another optimizer would not follow.
    """
    require_spec(spec)
    check_params("init_optimizers", spec.model, model)
    if optimizer is not None:
        needed = "a function of a list of parameters that returns a torch.optim.Optimizer"
        require_kind_of_optimizer("init_optimizers", optimizer, Callable, needed)  # type: ignore[arg-type]
        require_plain_training("init_optimizers", spec)
    tensors = dict(model.named_parameters())
    make = functools.partial(make_optimizer, spec) if optimizer is None else optimizer
    made = {}
    for phase, networks in spec.phases.items():
        own: list[Tensor] = [tensors[parameter.name] for parameter in trained(spec, networks)]
        numbers = [tensor for tensor in own if not tensor.ndim] if sharded() else []
        one = made[phase] = make([tensor for tensor in own if tensor.ndim] if numbers else own)
        require_kind_of_optimizer("init_optimizers", one, torch.optim.Optimizer, "a torch.optim.Optimizer of it")
        if numbers:  # which have no rows: torch updates sharded tensors and others apart
            one.add_param_group({"params": numbers})
    return made


def require_optimizer(function: str, spec: Spec, state: TrainState, optimizer: Any) -> None:
    """Check that a state was made for an optimizer.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        state: The state.
        optimizer: The optimizer; None for the configuration's Adam.

    Raises:
        InputError: If it is another one's, or if the configuration has settings of Adam's that it would not follow.
    """
    if optimizer is not None:
        require_plain_training(function, spec)
    if any(is_adam(made) == (optimizer is not None) for made in state.optimizer.values()):
        raise other_optimizer(function, optimizer is not None)


def is_adam(optimizer: Any) -> bool:
    """Whether a phase's optimizer is the configuration's Adam."""
    return isinstance(optimizer, _Adam | _AdamW)


def init_state(
    spec: Spec,
    images: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    *,
    optimizer: MakeOptimizer | None = None,
) -> TrainState:
    """Make the state before the first step.

    Args:
        spec: The configuration.
        images: The training images, uint8 `[n, height, width, channels]`; only `glorot-data` needs them.
        device: Where the model goes.
        optimizer: Makes another optimizer than the configuration's Adam, of a list of parameters, for the functions
            that train to be given too.

    Returns:
        The state.

    Raises:
        InputError: If `spec` is not a Spec, if the images are needed and missing, or not the model's, or if the
            configuration has settings that the optimizer would not follow.
    """
    require_spec(spec)
    key = root_key(spec.training.seed, device)
    if images is not None:
        require_bytes("init_state", images, spec.model.image)
    bias = last_bias(spec, images)
    model = init(spec, streams(key).init, None if bias is None else torch.tensor(bias, device=device))
    average = copy.deepcopy(model).requires_grad_(False) if spec.training.ema else None
    return TrainState(model, init_optimizers(spec, model, optimizer), 0, key, average)


def train_step(
    spec: Spec,
    state: TrainState,
    x: Tensor,
    labels: Tensor | None = None,
    epoch: int = 0,
    *,
    optimizer: MakeOptimizer | None = None,
    compile: bool = False,
) -> tuple[TrainState, AnyTerms]:
    """Take one training step.

    Args:
        spec: The configuration.
        state: The state, whose model and optimizers are updated in place; do not use the argument again.
        x: Pixels in the configuration's range, `[batch, pixels]`, which are seen as they are: `augment` is for images.
            Each of several processes gets all of them.
        labels: Classes, `[batch]`, for a model with classes.
        epoch: From 0, for the learning rate.
        optimizer: The function that `init_state` was given, if it was given one.
        compile: Compute the gradient by torch.compile.

    Returns:
        The new state, and the mean terms, nats per image.

    Raises:
        InputError: If the state's model, the pixels or the labels are not the configuration's, or if the state is
            another optimizer's, or if the step can't be compiled.
    """
    require_spec(spec)
    require_state("train_step", state, TrainState, spec.training)
    check_pixels("train_step", spec, state.model, x, labels)
    require_optimizer("train_step", spec, state, optimizer)
    if compile:
        compiled.require_one_process("train_step")
    draws = draw(spec, random.fold_in(streams(state.key).noise, state.step), len(x))
    own_labels = None if labels is None else split(labels)
    batch = inputs(spec, split(x), _split(draws), own_labels, split(_shares(x, x.dtype)), state.step)
    state.model.train()
    gradient = compiled.gradient(spec, state.model) if compile else functools.partial(_gradient, spec, state.model)
    state, terms = _update(spec, state, batch, learning_rate(spec, epoch, state.step), gradient)
    state.model.eval()
    return state, terms


def loss(
    spec: Spec,
    model: VAE,
    images: Tensor,
    key: random.Key,
    labels: Tensor | None = None,
    step: int = 0,
    phase: Phase | None = None,
) -> tuple[Tensor, tuple[dict[str, Tensor], VAE]]:
    """Compute what a training step minimizes on a batch of images, with all that it draws from one key.

    It is all that a training loop of one's own needs of the package, beside an optimizer.

    Args:
        spec: The configuration.
        model: The model.
        images: uint8, `[batch, height, width, channels]`.
        key: The key of the step; use it once.
        labels: Classes, `[batch]`, for a model with classes.
        step: The step, from 0, for an objective that changes while it trains.
        phase: One of `phases`; by default the only one.

    Returns:
        What `training_loss` returns.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's, if the objective has several
            phases and none is given, or if each image is to be binarised once for a whole run.
    """
    require_spec(spec)
    require_key("loss", key)
    check_params("loss", spec.model, model, spec.training.stored)
    require_bytes("loss", images, spec.model.image)
    require_kind("loss", "images", images, Tensor)
    require_own("loss", labels=labels)
    require_labels("loss", spec, labels, len(images))
    require_drawn_anew(spec)
    n = len(images)
    if spec.images.augments:
        images = augment(spec, images, key)
    dynamic = image_keys(random.fold_in(key, 0), torch.arange(n, device=key.device))
    x = prepare_pixels(spec, images, None, dynamic)
    batch = inputs(spec, x, draw(spec, key, n), labels, _shares(x, x.dtype), step)
    return training_loss(spec, model, batch, phase)


def epoch_order(spec: Spec, key: random.Key, epoch: int, n: int) -> Tensor:
    """Shuffle the images of an epoch.

    Args:
        spec: The configuration.
        key: The run's root key.
        epoch: From 0.
        n: Number of training images.

    Returns:
        The images' indices, one step's after another's, `[n]`.
    """
    return random.permutation(random.fold_in(streams(key).order, epoch), n)


def train_epoch(
    spec: Spec,
    state: TrainState,
    images: Tensor,
    labels: Tensor | None = None,
    last: int | None = None,
    order: Tensor | None = None,
    n: int | None = None,
    places: Tensor | None = None,
    *,
    optimizer: MakeOptimizer | None = None,
    compile: bool = False,
) -> tuple[TrainState, Tensor]:
    """Train from `state` to the end of its epoch.

    It stops earlier at step `last` or at the configuration's `max_steps`.

    Args:
        spec: The configuration.
        state: The state to start from; its step says where in the epoch it is. Its model and optimizers
            are updated in place.
        images: uint8, `[n, height, width, channels]`.
        labels: Classes, `[n]`, for a model with classes.
        last: Stop after this step, counted from the run's beginning.
        order: The epoch's `epoch_order`, if it is known.
        n: Number of training images, where `images` holds more or fewer.
        places: If `images` holds only part of the data: the index in it of each image of `order`, `[n]`.
        optimizer: The function that `init_state` was given, if it was given one.
        compile: Compute the gradient by torch.compile.

    Returns:
        The new state, and the mean terms of each step in nats per image, `[steps, terms]`. Rows of steps that were not
        taken here are 0.

    Raises:
        InputError: If there are no images, if the state's model, the images or the labels are not the configuration's,
            if the state is another optimizer's, if batch norm would see a batch of one number, or if the step can't be
            compiled.
    """
    require_spec(spec)
    require_state("train_epoch", state, TrainState, spec.training)
    check_params("train_epoch", spec.model, state.model, spec.training.stored)
    require_bytes("train_epoch", images, spec.model.image)
    require_kind("train_epoch", "images", images, Tensor)
    require_own("train_epoch", labels=labels)
    # A process may hold none of the images of a run of several.
    require_images(tuple(images.shape) if n is None else (n, *images.shape[1:]))
    require_labels("train_epoch", spec, labels, len(images) if n is None else n, more=n is not None)
    n, dtype = len(images) if n is None else n, spec.training.stored
    batch, steps = min(spec.training.batch_size, n), spec.training.epoch_steps(n)
    require_batches(spec, n)
    require_optimizer("train_epoch", spec, state, optimizer)
    if compile:
        compiled.require_one_process("train_epoch")
    keys, epoch = streams(state.key), state.step // steps
    order = epoch_order(spec, state.key, epoch, n) if order is None else order
    end = min(bound for bound in ((epoch + 1) * steps, spec.training.max_steps, last) if bound is not None)
    end = max(state.step, end)
    at = random.fold_in(keys.noise, torch.arange(state.step, end, device=state.key.device))
    static, spec = static_key(state.key, "train"), resolved(spec, n)

    log = torch.zeros(steps, len(spec.terms), dtype=getattr(torch, dtype), device=images.device)
    state.model.train()
    eager = functools.partial(_gradient, spec, state.model)
    gradient = compiled.gradient(spec, state.model) if compile else eager
    for key, draws in zip(at, _drawn(spec, at, batch), strict=True):
        place = state.step - epoch * steps
        these = slice(place * batch, (place + 1) * batch)
        whole = order[these]
        rows = split(whole)
        own = dynamic = None  # eager, torch would draw keys that nothing asks for
        if spec.images.binarization == "static":
            own = image_keys(static, rows)
        elif spec.images.binarization == "dynamic":
            dynamic = image_keys(random.fold_in(key, 0), split(torch.arange(len(whole), device=key.device)))
        # Not images[rows]: that copies byte by byte, for ten times as long.
        given = images.index_select(0, rows if places is None else split(places[these]))
        if spec.images.augments:
            given = augment(spec, given, key, split(torch.arange(len(whole), device=key.device)))
        x = prepare_pixels(spec, given, own, dynamic)
        row_labels = None if labels is None else labels[rows]
        draws = _split(_first(draws, len(whole)))
        batch_inputs = inputs(spec, x, draws, row_labels, split(_shares(whole, x.dtype)), state.step)
        # An epoch's last batch, if it has fewer images, is not worth a program of its own.
        how = gradient if len(whole) == batch else eager
        state, terms = _update(spec, state, batch_inputs, learning_rate(spec, epoch, state.step), how)
        torch.stack(terms, out=log[place])
    state.model.eval()
    return state, log


def copied(spec: Spec, state: TrainState, optimizer: MakeOptimizer | None = None) -> TrainState:
    """The state with a model and optimizers of its own, which steps taken in the other leave as they are."""
    if sharded():  # which deepcopy refuses
        return _changed(spec, state, lambda tensor, parameter: tensor.detach().clone(), optimizer, state.key.device)
    model = copy.deepcopy(state.model)
    optimizers = init_optimizers(spec, model, optimizer)
    for phase, adam in state.optimizer.items():
        optimizers[phase].load_state_dict(copy.deepcopy(adam.state_dict()))
    return state._replace(model=model, optimizer=optimizers, average=copy.deepcopy(state.average))


def spread(
    spec: Spec, state: TrainState, device: torch.device | str | None, optimizer: MakeOptimizer | None = None
) -> TrainState:
    """The state, which every process has, as each process trains it on its device: as it is, or some rows of it."""
    if not sharded():
        return state
    at = "cpu" if device is None else device

    def own(tensor: Tensor, parameter: Tensor | None) -> Tensor:
        cut = parameter is not None and tensor.ndim and tensor.shape == parameter.shape
        return rows(tensor, at) if cut else tensor.detach().to(at)

    return _changed(spec, state._replace(key=state.key.to(at)), own, optimizer, at)


def gathered(spec: Spec, state: TrainState, optimizer: MakeOptimizer | None = None) -> TrainState:
    """Return a state of which this process has all, for what not all processes do: to save, evaluate and draw it.

    Args:
        spec: The configuration.
        state: A TrainState as `Part` has it. All processes have to call this with theirs.
        optimizer: The function that `init_state` was given, if it was given one.

    Returns:
        The state, which may be the argument itself. Of sharded parameters it is on the CPU.

    Raises:
        InputError: If the state's model is not the configuration's.
    """
    require_spec(spec)
    require_state("gathered", state, TrainState, spec.training)
    check_params("gathered", spec.model, state.model, spec.training.stored)
    if not any(map(is_sharded, state.model.parameters())):
        return state
    return _changed(spec, state, lambda tensor, parameter: all_rows(tensor.detach()).cpu(), optimizer, None)


def _changed(
    spec: Spec,
    state: TrainState,
    change: Callable[[Tensor, Tensor | None], Tensor],
    optimizer: MakeOptimizer | None,
    device: torch.device | str | None,
) -> TrainState:
    """A state of changed tensors, each given with the parameter that it is or is of, on devices that share its
    parameters, or on none that do."""

    def wrap(model: VAE) -> None:
        if device is not None:
            shard_layers(model, device, spec.model.parts.networks)

    def bound(model: VAE) -> VAE:
        parameters = dict(model.named_parameters())
        tensors = {name: change(tensor, parameters.get(name)) for name, tensor in model.state_dict().items()}
        return bind(spec.model, tensors, wrap)

    model, average = bound(state.model), state.average and bound(state.average).requires_grad_(False)
    names: dict[Tensor, str] = {tensor: name for name, tensor in state.model.named_parameters()}
    parameters, optimizers = dict(model.named_parameters()), init_optimizers(spec, model, optimizer)
    for phase, before in state.optimizer.items():
        after = optimizers[phase]
        for tensor, held in before.state.items():
            after.state[parameters[names[tensor]]] = {
                name: change(value, tensor) if isinstance(value, Tensor) else value for name, value in held.items()
            }
        settings = {name: value for name, value in before.param_groups[0].items() if name != "params"}
        for group in after.param_groups:
            group.update(settings)
    return state._replace(model=model.train(state.model.training), optimizer=optimizers, average=average)


def _tensors(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The parameters of all groups."""
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _update(
    spec: Spec, state: TrainState, batch: Inputs, rate: float, gradient: compiled.Gradient
) -> tuple[TrainState, AnyTerms]:
    """One step: each phase's update of its optimizer, on its terms averaged with the batch's weights."""
    reported: dict[str, Tensor] = {}
    for phase in phases(spec):
        optimizer = state.optimizer[phase.name]
        reported |= gradient(batch, phase)
        sum_gradients(_tensors(optimizer))
        for group in optimizer.param_groups if is_adam(optimizer) else ():
            group["lr"] = rate
        optimizer.step()
    average = averaged(spec, state.average, state.model, state.step + 1)
    return state._replace(step=state.step + 1, average=average), collect(spec, reported)


def _gradient(spec: Spec, model: VAE, batch: Inputs, phase: Phase) -> dict[str, Tensor]:
    """The mean terms of a phase; the gradient goes into the parameters' `grad`."""
    loss, (terms, _) = minimized(spec, model, batch, phase)
    model.zero_grad(set_to_none=True)  # of all, since a phase's gradient reaches networks it doesn't train
    (loss if processes() == 1 else loss / processes()).backward()
    return {name: term.detach() for name, term in terms.items()}


def _drawn(spec: Spec, keys: random.Key, rows: int) -> Iterator[Draws]:
    """Yield the numbers that each of these keys draws, many steps drawn together."""
    for block in keys.split(steps_at_once(spec, rows)):
        draws = draw(spec, block, rows)
        yield from (_each(draws, lambda t, i=i: t[i]) for i in range(len(block)))


def _first(draws: Draws, rows: int) -> Draws:
    """The draws of a batch's first images, for an epoch's last batch, which has fewer."""
    return _each(draws, lambda t: t[:rows])._replace(eps=draws.eps[..., :rows, :])


def _split(draws: Draws) -> Draws:
    """The draws of the images that are this process's."""
    return _each(draws, split)._replace(eps=split(draws.eps, -2))


def _each(draws: Draws, change: Callable[[Tensor], Tensor]) -> Draws:
    prior, corruption = (None if t is None else change(t) for t in (draws.prior, draws.corruption))
    return Draws(change(draws.eps), prior, corruption, tuple(map(change, draws.masks)))


def _shares(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Equal weights of a batch's images: `[batch]`."""
    return torch.full((len(x),), 1 / len(x), dtype=dtype, device=x.device)
