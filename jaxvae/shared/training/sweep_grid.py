"""The runs of a sweep: every combination of seeds, betas and learning rates of one configuration."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import tyro

from jaxvae.shared.config.parts import ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

_MAX_RUNS = 1000

# Suppressed flags, since a sweep has several values of each.
_Float = tyro.conf.SuppressFixed[tyro.conf.Fixed[float]]
_Int = tyro.conf.SuppressFixed[tyro.conf.Fixed[int]]


@dataclass(frozen=True)
class _Objective(ObjectiveSpec):
    beta: _Float = 1.0


@dataclass(frozen=True)
class _Training(TrainingSpec):
    learning_rate: _Float = 1e-3
    seed: _Int = 0


@dataclass(frozen=True)
class SharedSpec(Spec):
    """The configuration that all runs of a sweep share. Each run's configuration is checked with its own beta."""

    objective: _Objective = field(default_factory=_Objective)
    training: _Training = field(default_factory=_Training)

    def __post_init__(self) -> None:
        pass


def shared_spec(spec: Spec) -> SharedSpec:
    """Copy a configuration for a sweep."""
    objective, training = _Objective(**vars(spec.objective)), _Training(**vars(spec.training))
    return SharedSpec(**{**vars(spec), "objective": objective, "training": training})


def grid(
    shared: SharedSpec, seeds: Sequence[str], betas: Sequence[float], learning_rates: Sequence[float]
) -> dict[str, Spec]:
    """List the runs of a sweep.

    Args:
        shared: The configuration that they share.
        seeds: Seeds, or ranges such as `0:8`.
        betas: Weights of the KL divergence.
        learning_rates: Adam's learning rates.

    Returns:
        The configuration of each run by its name, the seeds of a setting one after another.

    Raises:
        InputError: If a flag has no value, one twice or an invalid one, if there are too many runs, or if the options
            of a configuration are incompatible.
    """
    values = {"seeds": _parse_seeds(seeds), "beta": betas, "learning-rate": learning_rates}
    for flag, given in values.items():
        if not given:
            raise InputError(f"--{flag} must name at least one value, found none.")
        twice = [value for i, value in enumerate(given) if value in given[:i]]
        if twice:
            raise InputError(f"--{flag} must name each value once, found {short_number(twice[0])} twice.")
    numbers = values["seeds"]
    if len(numbers) * len(betas) * len(learning_rates) > _MAX_RUNS:
        raise InputError(
            f"A sweep has at most {_MAX_RUNS:,} runs, found {len(numbers):,} seeds, {len(betas):,} betas and "
            f"{len(learning_rates):,} learning rates; give fewer."
        )
    specs = {}
    for beta, rate, seed in itertools.product(betas, learning_rates, numbers):
        objective = ObjectiveSpec(**{**vars(shared.objective), "beta": beta})
        training = TrainingSpec(**{**vars(shared.training), "learning_rate": rate, "seed": seed})
        spec = Spec(**{**vars(shared), "objective": objective, "training": training})
        specs[f"seed-{seed}-beta-{short_number(beta)}-learning-rate-{short_number(rate)}"] = spec
    return specs


def short_number(value: float) -> str:
    """Format a number with as few digits as identify it."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _parse_seeds(given: Sequence[str]) -> tuple[int, ...]:
    seeds: list[int] = []
    for text in given:
        numbers = re.fullmatch(r"([0-9]{1,20})(?::([0-9]{1,20}))?", text)
        if numbers is None:
            raise InputError(f"--seeds must be numbers, or a range such as 0:8, found {shown(text)}.")
        first, end = int(numbers[1]), int(numbers[2] or int(numbers[1]) + 1)
        if not 0 < end - first <= _MAX_RUNS:
            raise InputError(f"--seeds A:B must be A to B - 1, from 1 to {_MAX_RUNS:,} seeds, found {text}.")
        seeds += range(first, end)
    return tuple(seeds)
