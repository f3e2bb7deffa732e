"""Inject faults into one of the two packages, and record whether the comparison detects and names them.

A fault replaces a function, in every module of its package that has imported it, or a method of a class.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

import jaxvae.nets
import torchvae
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.data.datasets import digits
from parity_tests.harness.vae import jax_backend, levels, torch_backend, trajectory
from parity_tests.harness.vae.diagnose import diagnose
from parity_tests.harness.vae.levels import LEVELS, Arrays, Case
from parity_tests.harness.vae.steps import bounded

# Small, and without symmetries that would hide a fault: beta is not 1, two layers are square, the seed has 41 bits.
SPEC = Spec(
    "digits",
    ModelSpec((6, 5, 1), (12, 12), 6),
    ObjectiveSpec(1.7),
    TrainingSpec(batch_size=16, seed=2**40 + 5, dtype="float64"),
)
STEPS = 45  # in epochs of 19
SMALL = TrainingSpec(batch_size=16, seed=2**40 + 5, dtype="float64")
COLOUR = (6, 5, 2)  # with two channels, and odd, so that a flatten in another order shows
_CONV = ModelSpec(COLOUR, (4, 6), 5, "conv", "leaky-relu", likelihood="squared-error")
_LAYERS = ModelSpec(
    (6, 8, 2),
    latent=5,
    network="layers",
    activation="tanh",
    encoder=("conv3k4s2p1+norm", "linear10"),
    decoder=("linear3x4x3+norm", "up4k4s2p1", "conv2k3p1"),
)
FAMILY = {
    "layers": Spec("digits", _LAYERS, ObjectiveSpec(1.7), SMALL),
    "conv": Spec(
        "digits",
        _CONV,
        ObjectiveSpec(form="capacity", units="mixed", gamma=0.1, capacity=3.0, capacity_steps=40),
        SMALL,
        ImagesSpec("signed"),
    ),
    "iwae": Spec(
        "digits",
        ModelSpec(COLOUR, (12, 12), 6, activation="tanh"),
        ObjectiveSpec(form="iwae", samples=3),
        SMALL,
        ImagesSpec(binarization="static"),
    ),
    "adversarial": Spec(
        "digits",
        ModelSpec(COLOUR, (12,), 6, posterior="point", likelihood="squared-error", discriminator=(10, 8)),
        ObjectiveSpec(form="adversarial", units="pixel"),
        SMALL,
        ImagesSpec("signed", corruption="gaussian", corruption_level=0.3),
    ),
    "conditional": Spec(
        "digits",
        ModelSpec(COLOUR, (12,), 6, posterior="relu-sigma", likelihood="gaussian-pixel", classes=10),
        ObjectiveSpec(1.7, warmup=30),
        SMALL,
        ImagesSpec(binarization="dynamic", corruption="hidden-dropout", corruption_level=0.3),
    ),
    "continuous": Spec(
        "digits", ModelSpec(COLOUR, (12,), 6, likelihood="continuous-bernoulli"), ObjectiveSpec(1.7), SMALL
    ),
    "averaged": Spec("digits", ModelSpec(COLOUR, (12,), 6), ObjectiveSpec(1.7), replace(SMALL, ema=0.9)),
    "learned": Spec("digits", ModelSpec(COLOUR, (12,), 6, likelihood="gaussian-learned"), ObjectiveSpec(1.7), SMALL),
}
UNKNOWN = "none known"


class Fault(NamedTuple):
    """A wrong function in place of a right one, and the cause that the comparison should name."""

    owner: Any
    """The module or the class of jaxvae or torchvae that has the function."""
    attribute: str
    """The function's name there."""
    name: str
    """The mistake, as a program would make it."""
    replacement: Callable[[Any], Any]
    """Make the wrong function from the right one."""
    cause: str
    """The cause that the comparison should name."""
    dtype: str = "float64"
    ground: str = "plain"
    """The model that it is tested on: the plain VAE, or a key of FAMILY."""

    @property
    def package(self) -> str:
        return self._owner.partition(".")[0]

    @property
    def place(self) -> str:
        return f"{self._owner.partition('.')[2]}.{self.attribute}"

    @property
    def _owner(self) -> str:
        method = isinstance(self.owner, type)
        return f"{self.owner.__module__}.{self.owner.__qualname__}" if method else self.owner.__name__


def during(owner: Any, **changed: Any) -> Callable[[Any], Any]:
    """Make the replacement of a function that changes attributes of a module or a class while the original runs."""

    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*args: Any, **kwargs: Any) -> Any:
            with mock.patch.multiple(owner, **changed):
                return original(*args, **kwargs)

        return wrong

    return replacement


def loss(combine: Callable[[Spec, Any, Any], Any]) -> Callable[[Any], Any]:
    """Make the replacement of an objective that combines reconstruction and KL to another loss."""

    def replacement(objective: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(spec: Spec, *args: Any) -> Any:
            terms = objective(spec, *args)
            return terms | {"loss": combine(spec, terms["reconstruction"], terms["kl"])}

        return wrong

    return replacement


@contextlib.contextmanager
def injected(fault: Fault) -> Iterator[None]:
    """Inject the fault inside the context."""
    for package in (jaxvae, torchvae):  # lazy names that are first resolved with the fault would keep it
        for name in dir(package):
            getattr(package, name)
    right = getattr(fault.owner, fault.attribute)
    wrong = fault.replacement(right)
    with contextlib.ExitStack() as stack:
        if fault.package == "jaxvae":  # drop compiled functions before and after
            stack.callback(_forget_compiled)
            _forget_compiled()
            stack.enter_context(jax.numpy_dtype_promotion("standard"))  # a fault may mix precisions
        modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == fault.package]
        for owner in [fault.owner] if isinstance(fault.owner, type) else modules:
            for name, value in list(vars(owner).items()):
                if value is right:
                    stack.enter_context(mock.patch.object(owner, name, wrong))
        yield


def _forget_compiled() -> None:
    """Clear the jitted and cached functions of jaxvae and of jax_backend. JAX's own operations stay compiled."""
    jaxvae.nets._graphdef.cache_clear()
    modules = [jax_backend, *(module for name, module in sys.modules.items() if name.partition(".")[0] == "jaxvae")]
    for value in {id(value): value for module in modules for value in vars(module).values()}.values():
        if callable(value) and hasattr(value, "clear_cache"):
            value.clear_cache()


@functools.cache
def ground(dtype: str, name: str = "plain") -> tuple[Spec, Dataset, Case]:
    """Return the configuration, data and case on which faults are tested."""
    spec = FAMILY.get(name, SPEC)
    data = digits((*spec.model.image[:2], 1))
    many = np.resize(data.test, (1100, *data.test.shape[1:])), np.resize(data.test_labels, 1100)
    data = Dataset(data.name, data.source, data.train[:300], data.train_labels[:300], *many)
    if spec.model.image[2] == 2:  # the second channel is another image
        train, test = (np.concatenate([images, images[::-1]], -1) for images in (data.train, data.test))
        data = data._replace(train=train, test=test)
    spec = bounded(replace(spec, training=replace(spec.training, dtype=dtype)), STEPS, len(data.train))
    case = levels.case(spec, data)
    data = data._replace(test=data.test[:297], test_labels=data.test_labels[:297])
    return spec, data, case


@functools.cache
def right(backend: ModuleType, level: str, dtype: str, name: str) -> Arrays:
    """Return a package's answer at a level without a fault."""
    return next(asked for asked in LEVELS if asked.name == level).ask(backend, ground(dtype, name)[2])


def tried(fault: Fault, at: str | None = None) -> tuple[str, str, str | None]:
    """Inject the fault and run the comparison.

    Args:
        fault: The fault.
        at: Run only this level and the one before it, which should pass; None runs all levels up to the one that fails.

    Returns:
        The level that failed, the cause that was named, and the package that was said to depart from the plain formula.
    """
    names = [level.name for level in LEVELS]
    place = names.index(at) if at in names else len(names)  # otherwise a name of the trajectory's
    asked = LEVELS if at is None else LEVELS[max(0, place - 1) : place + 1]
    wrong, other = (jax_backend, torch_backend) if fault.package == "jaxvae" else (torch_backend, jax_backend)
    with jax.enable_x64(fault.dtype == "float64"):
        spec, data, case = ground(fault.dtype, fault.ground)
        without = [right(other, level.name, fault.dtype, fault.ground) for level in asked]
        with injected(fault):
            for level, answer in zip(asked, without, strict=True):
                both = {wrong: level.ask(wrong, case), other: answer}
                answers = (both[jax_backend], both[torch_backend])
                finding = levels.judge(level, case, answers, jax_backend)
                if not finding.passed:
                    diagnosis = diagnose(level, case, answers, finding.tolerance)
                    return level.name, diagnosis.cause or UNKNOWN, diagnosis.backend
            if at in names:
                return "none", UNKNOWN, None
            findings, _, diagnosis = trajectory.follow(spec, data, case.start)
            failed = [finding.level for finding in findings if not finding.passed]
            if not failed:
                return "none", UNKNOWN, None
            return failed[0], (diagnosis and diagnosis.cause) or UNKNOWN, diagnosis and diagnosis.backend
