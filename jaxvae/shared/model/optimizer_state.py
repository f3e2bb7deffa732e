"""The state of the optimizers as named arrays: Adam's moments of the parameters that each phase trains."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxvae.shared.config.parts import TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout
from jaxvae.shared.model.tensor_checks import check, fit
from jaxvae.shared.text import shown

MOMENTS = "exp_avg", "exp_avg_sq"
STEP = "int32", ()
"""The dtype and the shape of Adam's count of steps."""


class Moments(NamedTuple):
    """The state of one Adam."""

    step: int
    exp_avg: dict[str, np.ndarray]
    """By the name of the weight."""
    exp_avg_sq: dict[str, np.ndarray]


def require_plain_training(function: str, spec: Spec) -> None:
    """Check that another optimizer than Adam would follow the configuration.

    Args:
        function: The function's name, for the message.
        spec: The configuration.

    Raises:
        InputError: If it has a schedule, a clip or a weight decay, which the package's Adam alone follows.
    """
    plain = TrainingSpec()
    for name in ("schedule", "decay", "rate_warmup", "clip", "weight_decay"):
        default, value = getattr(plain, name), getattr(spec.training, name)
        if value != default:
            raise InputError(
                f"{function}: another optimizer would not follow the configuration's {name} {shown(value)}; set "
                f"{name}={default!r}, and build such a thing into the optimizer."
            )


def require_kind_of_optimizer(function: str, optimizer: object, kind: type, needed: str) -> None:
    """Raises InputError unless what is given for an optimizer, or what it makes, is one; `needed` says what is."""
    if not isinstance(optimizer, kind):
        raise InputError(f"{function} needs for its optimizer {needed}, found {shown(optimizer)}; give one.")


def other_optimizer(function: str, given: bool) -> InputError:
    """Return the error of a state that was made for another optimizer than a function's; `given`: whether the function
    was given one."""
    advice = "make it with init_state(spec, optimizer=...)" if given else "give the same optimizer="
    expected = "the optimizer it was given" if given else "the configuration's Adam"
    return InputError(f"{function} needs a state of {expected}, found another optimizer's; {advice}.")


def require_adam(are_adam: Iterable[bool]) -> None:
    """Raises InputError unless all optimizers are the configuration's Adam, whose state alone files have names for."""
    if not all(are_adam):
        raise InputError(
            "A checkpoint holds the moments of the configuration's Adam, found another optimizer's state; save the "
            "weights by save or save_run, and the optimizer's state by the framework's own means."
        )


def moments(arrays: Mapping[str, np.ndarray], spec: Spec, where: str = "The optimizer") -> dict[str, Moments]:
    """Split the arrays of an optimizer by phase.

    Args:
        arrays: `step`, and `exp_avg.NAME` and `exp_avg_sq.NAME` of each weight; with several phases their names begin
            with the phase's and a dot.
        spec: The configuration.
        where: What they are called in a message.

    Returns:
        The state of each phase's Adam, by the phase.

    Raises:
        InputError: If an array is missing, extra or invalid.
    """
    by_phase, rest = {}, dict(arrays)
    for phase, (prefix, table) in zip(spec.phases, prefixed_phases(spec), strict=True):
        step = rest.pop(f"{prefix}step", None)
        if step is None:
            raise InputError(f"{where}'s state lacks its {prefix}step.")
        fit({f"{prefix}step": step}, {f"{prefix}step": STEP}, f"{where}'s state")
        both = []
        for moment in MOMENTS:
            names = [name for name in rest if name.startswith(f"{prefix}{moment}.")]
            both.append({name.removeprefix(f"{prefix}{moment}."): rest.pop(name) for name in names})
            check(both[-1], spec, f"{where}'s {prefix}{moment}", table)
        by_phase[phase] = Moments(int(step), *both)
    if rest:
        raise InputError(f"{where}'s state has unexpected entries {', '.join(rest)}.")
    return by_phase


def prefixed_phases(spec: Spec) -> list[tuple[str, tuple[layout.Parameter, ...]]]:
    """The prefix of each phase's arrays, and the parameters it trains."""
    return [(phase and f"{phase}.", trained(spec, networks)) for phase, networks in spec.phases.items()]


def trained(spec: Spec, networks: tuple[str, ...]) -> tuple[layout.Parameter, ...]:
    """List the parameters that the optimizer of `networks` trains, in the order of `layout.table`."""
    return tuple(p for p in layout.table(spec.model) if p.trained and p.network in networks)
