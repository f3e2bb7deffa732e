"""Losses, gradients and terms of both packages as functions from numpy to numpy, with the draws as arguments."""

import dataclasses
import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxvae
import torchvae
from jaxvae import nets, objectives
from jaxvae.shared.config.parts import ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout, optimizer_state
from torchvae import objectives as torch_objectives

Arrays = dict[str, np.ndarray]
FLOAT64 = TrainingSpec(dtype="float64")


class Batch(NamedTuple):
    """Images and all the draws of a step."""

    x: np.ndarray
    """`[batch, pixels]`, in the configuration's range."""
    eps: np.ndarray
    prior: np.ndarray | None = None
    corruption: np.ndarray | None = None
    masks: tuple[np.ndarray, ...] = ()
    labels: np.ndarray | None = None
    weights: np.ndarray | None = None
    """Weight of each image in the mean, `[batch]`; None: equal weights."""


class Minimized(NamedTuple):
    """Losses and gradients of a training step, each phase at the same parameters."""

    losses: dict[str, float]
    gradients: dict[str, Arrays]
    statistics: Arrays
    """Running statistics of batch norm after the first phase."""


class Implementation(NamedTuple):
    """One package, with functions from numpy to numpy."""

    package: ModuleType
    array: Callable[[Any], Any]
    minimized: Callable[[Spec, Arrays, Batch, int], Minimized]
    image_terms: Callable[[Spec, Arrays, Batch], Arrays]


def lean() -> Iterator[None]:
    """Set up small tensors, here and in the processes that a test starts: one thread for torch, and little
    optimization by JAX's compiler, since each program runs once or twice. For a fixture."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    jax.config.update("jax_disable_most_optimizations", True)
    with mock.patch.dict(os.environ, JAX_DISABLE_MOST_OPTIMIZATIONS="1"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    torch.set_num_threads(threads)


def tiny(spec: Spec, model: ModelSpec) -> Spec:
    """Return the configuration with this model's sizes, in float64, on all images."""
    sizes = {"image": model.image, "hidden": model.hidden, "latent": model.latent}
    judge = model.discriminator if spec.model.discriminator else ()
    return dataclasses.replace(
        spec,
        model=dataclasses.replace(spec.model, **sizes, discriminator=judge),
        training=dataclasses.replace(spec.training, dtype="float64"),
        images=dataclasses.replace(spec.images, train_images=None),
    )


def some_arrays(spec: Spec, seed: int = 0) -> Arrays:
    """Draw parameters, none of them 0 or 1, in the weight file's names and layout."""
    rng, arrays = np.random.default_rng(seed), {}
    for parameter in layout.table(spec.model):
        scale = 1.5 * parameter.bound or 0.3
        arrays[parameter.name] = parameter.fill + rng.uniform(-scale, scale, parameter.shape)
    return arrays


def some_batch(spec: Spec, rows: int, seed: int = 0) -> Batch:
    """Draw images, labels and noise with numpy."""
    rng, model, level = np.random.default_rng(seed), spec.model, spec.images.corruption_level
    samples = () if spec.objective.samples == 1 else (spec.objective.samples,)
    x = rng.uniform(size=(rows, model.pixels))
    if spec.images.binarization != "none":
        x = np.round(x)
    batch = Batch(2 * x - 1 if spec.images.range == "signed" else x, rng.normal(size=(*samples, rows, model.latent)))
    if model.classes:
        batch = batch._replace(labels=rng.integers(0, model.classes, rows).astype(np.uint8))
    if spec.objective.form == "adversarial":
        batch = batch._replace(prior=rng.normal(size=(rows, model.latent)))
    match spec.images.corruption:
        case "gaussian":
            return batch._replace(corruption=rng.normal(size=(rows, model.pixels)))
        case "dropout":
            return batch._replace(corruption=(rng.uniform(size=(rows, model.pixels)) >= level) / (1 - level))
        case "hidden-dropout":
            units = layout.hidden_units(model)
            return batch._replace(masks=tuple((rng.uniform(size=(rows, *u)) >= level) / (1 - level) for u in units))
    return batch


def _inputs(package: ModuleType, array: Callable, spec: Spec, batch: Batch, step: Any = None, train: bool = True):
    prior, corruption, labels = (None if a is None else array(a) for a in (batch.prior, batch.corruption, batch.labels))
    draws = package.Draws(array(batch.eps), prior, corruption, tuple(array(mask) for mask in batch.masks))
    shares = np.full(len(batch.x), 1 / len(batch.x)) if batch.weights is None else batch.weights
    return package.inputs(spec, array(batch.x), draws, labels, array(shares) if train else None, step)


def _jax_minimized(spec: Spec, arrays: Arrays, batch: Batch, step: int = 0) -> Minimized:
    given = _inputs(jaxvae, jnp.asarray, spec, batch, jnp.int32(step))
    phases = _losses_and_gradients(spec, jaxvae.from_arrays(spec, arrays), given)
    table = layout.table(spec.model)
    losses = {name: float(value) for name, ((value, _), _) in phases.items()}
    gradients = {n: {p.name: _leaf(tree, p) for p in table if p.trained} for n, (_, tree) in phases.items()}
    statistics = next(iter(phases.values()))[0][1]
    return Minimized(losses, gradients, {p.name: _leaf(statistics, p) for p in table if "running" in p.name})


@functools.partial(jax.jit, static_argnums=0)
def _losses_and_gradients(spec: Spec, params: nets.Params, given: jaxvae.Inputs) -> OrderedDict:
    """Return losses and gradients by phase; an OrderedDict keeps their order in jit."""
    trained, rest = nets.partition(spec.model, params, ("encoder", "decoder", "discriminator"))
    assert given.training is not None
    shares, phases = given.training.weights, OrderedDict()
    for phase in jaxvae.phases(spec):

        def loss(trained: nets.Params, phase: jaxvae.Phase = phase) -> tuple[jax.Array, nets.Params]:
            model = jaxvae.bind(spec.model, nets.combine(rest, trained))
            means = objectives.average(spec, phase.terms(spec, model, given), shares, given.step)
            return next(iter(means.values())) * phase.share, nets.statistics(model)

        phases[phase.name] = jax.value_and_grad(loss, has_aux=True)(trained)
    return phases


def _torch_minimized(spec: Spec, arrays: Arrays, batch: Batch, step: int = 0) -> Minimized:
    losses, gradients, statistics = {}, {}, None
    for phase in torchvae.phases(spec):
        model = torchvae.from_arrays(spec, arrays).train()
        given = _inputs(torchvae, torch.as_tensor, spec, batch, step)
        assert given.training is not None
        means = torch_objectives.average(spec, phase.terms(spec, model, given), given.training.weights, step)
        loss = next(iter(means.values())) * phase.share
        loss.backward()
        losses[phase.name] = loss.item()
        named = model.named_parameters()
        gradients[phase.name] = {n: (torch.zeros_like(p) if p.grad is None else p.grad).numpy() for n, p in named}
        statistics = statistics or torchvae.to_arrays(spec, model)
    assert statistics is not None
    running = {p.name: statistics[p.name] for p in layout.table(spec.model) if "running" in p.name}
    order = [p.name for p in optimizer_state.trained(spec, ("encoder", "decoder", "discriminator"))]
    return Minimized(losses, {phase: {n: g[n] for n in order} for phase, g in gradients.items()}, running)


def _jax_terms(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    given = _inputs(jaxvae, jnp.asarray, spec, batch, train=False)
    terms = _image_terms(spec, jaxvae.from_arrays(spec, arrays), given.x, given.draws, given.labels)
    return {name: np.asarray(term) for name, term in terms._asdict().items()}


@functools.partial(jax.jit, static_argnums=0)
def _image_terms(spec: Spec, *given: Any) -> jaxvae.AnyTerms:
    """Compute the terms by one program, since each operation alone takes as long to compile as it does."""
    return jaxvae.image_terms(spec, *given)


@torch.no_grad()
def _torch_terms(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    given = _inputs(torchvae, torch.as_tensor, spec, batch, train=False)
    terms = torchvae.image_terms(spec, torchvae.from_arrays(spec, arrays), given.x, given.draws, given.labels)
    return {name: term.numpy() for name, term in terms._asdict().items()}


def _leaf(tree: Any, parameter: layout.Parameter) -> np.ndarray:
    for name in parameter.path:
        tree = tree[name]
    return layout.to_torch(parameter, np.asarray(tree))


def assert_gradients_equal(spec: Spec, actual: Arrays, expected: Arrays, tolerance: float, where: str = "") -> None:
    """Compare gradients relative to each tensor's largest entry.

    A bias that only the source trains, because batch norm cancels it, must have a gradient that is zero up to rounding.
    """
    held = expected.keys() - actual.keys()
    assert actual.keys() | held == expected.keys()
    for name in held:
        scale = np.abs(expected[name.replace("bias", "weight")]).max()
        assert np.abs(expected[name]).max() <= 1e-12 * scale, f"{where} {name} has a gradient"
    for parameter in layout.table(spec.model):
        if not parameter.trained:
            continue
        name = parameter.name
        scale = np.abs(expected[name]).max()
        gap = np.abs(actual[name] - expected[name]).max()
        assert gap <= tolerance * scale, f"{where} {name}: {gap:.3g} beside {scale:.3g}"


JAX = Implementation(jaxvae, jnp.asarray, _jax_minimized, _jax_terms)
TORCH = Implementation(torchvae, torch.as_tensor, _torch_minimized, _torch_terms)
IMPLEMENTATIONS = {"jaxvae": JAX, "torchvae": TORCH}
