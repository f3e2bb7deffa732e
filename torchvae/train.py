"""Training: one step, one epoch, one run."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.data import Dataset
from jaxvae.shared.metrics import require_finite
from jaxvae.shared.spec import Spec
from torchvae import random
from torchvae.evaluate import average_terms
from torchvae.keys import root_key, stream_key, streams
from torchvae.nets import VAE, init
from torchvae.objectives import Terms, negative_elbo
from torchvae.pixels import scale

_BLOCK = 64  # steps whose noise is drawn in one go: enough to share the cost of the calls, few enough for the cache


class TrainState(NamedTuple):
    """All that a resumed run needs. `key` is the run's root key and never changes: step t draws from fold_in of its
    noise stream with t, epoch e shuffles by fold_in of its order stream with e."""

    model: VAE
    optimizer: torch.optim.Optimizer
    step: int
    key: random.Key


class Progress(NamedTuple):
    """What `fit` reports after each epoch, and after the last step."""

    state: TrainState
    """Good until the callback returns: the next epoch takes it over."""
    epoch: int
    """From 1."""
    step: int
    """Steps taken so far."""
    train: np.ndarray
    """The epoch's steps, each with its mean terms: `[steps, 3]`, nats per image."""
    test: np.ndarray
    """The terms over the test images: `[3]`, float64, nats per image."""


def make_optimizer(spec: Spec, model: VAE) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015) with eps outside the root, over the model's parameters."""
    return torch.optim.Adam(model.parameters(), lr=spec.training.learning_rate, fused=True)


def init_state(spec: Spec, device: torch.device | str = "cpu") -> TrainState:
    """The state before the first step."""
    key = root_key(spec.training.seed, device)
    model = init(spec, streams(key).init)
    return TrainState(model, make_optimizer(spec, model), 0, key)


def train_step(spec: Spec, state: TrainState, x: Tensor) -> tuple[TrainState, Terms]:
    """One step on images `[batch, pixels]` in [0, 1], for loops of your own: the new state and the mean terms. The
    model and the optimizer are updated in place: do not use the argument again."""
    key = random.fold_in(streams(state.key).noise, state.step)
    eps = random.normal(key, (len(x), spec.model.latent), x.dtype)
    return _update(spec, state, x, eps)


def train_epoch(spec: Spec, state: TrainState, images: Tensor) -> tuple[TrainState, Tensor]:
    """One epoch over uint8 images `[n, height, width, channels]`, starting where `state` stands, at an epoch's first
    step, and ending with the epoch or at `max_steps`. The new state and the mean terms of each step, `[steps, 3]`. The
    model and the optimizer are updated in place."""
    n, dtype, last = len(images), spec.training.dtype, spec.training.max_steps
    batch, steps = min(spec.training.batch_size, n), spec.training.epoch_steps(n)
    keys = streams(state.key)
    order = random.permutation(random.fold_in(keys.order, state.step // steps), n)
    end = state.step + steps if last is None else max(state.step, min(state.step + steps, last))
    at = random.fold_in(keys.noise, torch.arange(state.step, end))
    shape, kind = (batch, spec.model.latent), getattr(torch, dtype)
    noise = (eps for block in at.split(_BLOCK) for eps in random.normal(block, shape, kind))

    log = torch.empty(len(at), len(Terms._fields), dtype=kind, device=images.device)
    for rows, eps, row in zip(order.split(batch), noise, log, strict=False):  # max_steps may come within the epoch
        state, terms = _update(spec, state, scale(images[rows], dtype), eps[: len(rows)])
        torch.stack(terms, out=row)
    return state, log


def fit(
    spec: Spec,
    data: Dataset,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    device: torch.device | str | None = None,
) -> TrainState:
    """Trains for the configured epochs or steps and returns the final state. After each epoch the model is evaluated on
    the test images and `on_epoch` is called. Raises NonFiniteError when a term leaves the finite numbers."""
    state = init_state(spec, device or "cpu")
    train, test = (torch.tensor(images, device=device) for images in (data.train, data.test))
    per_epoch, total = spec.training.epoch_steps(len(train)), spec.training.total_steps(len(train))
    for done in range(0, total, per_epoch):
        epoch, step = done // per_epoch + 1, min(done + per_epoch, total)
        state, terms = train_epoch(spec, state, train)
        terms = terms.cpu().numpy()
        require_finite(terms, done)
        key = stream_key(state.key, "evaluation", epoch)
        evaluated = average_terms(spec, state.model, test, key)
        require_finite(evaluated[None], step - 1)
        on_epoch(Progress(state, epoch, step, terms, evaluated))
    return state


def _update(spec: Spec, state: TrainState, x: Tensor, eps: Tensor) -> tuple[TrainState, Terms]:
    """One step of Adam on the terms averaged over the batch."""
    terms = Terms(*(term.mean() for term in negative_elbo(spec, state.model, x, eps)))
    state.optimizer.zero_grad(set_to_none=True)
    terms.loss.backward()
    state.optimizer.step()
    return state._replace(step=state.step + 1), Terms(*(term.detach() for term in terms))
