"""Compare two networks in the precision in which they are run, once they agree in float64."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis, Distance, Finding
from parity_tests.harness.hooks.settings import as_run, settings
from parity_tests.harness.hooks.widening import widened
from parity_tests.harness.modules.evaluation import Losses
from parity_tests.harness.modules.pair import Arrays, Both
from parity_tests.harness.modules.precision import causes, networks, places
from parity_tests.harness.modules.precision.causes import Local, Setting
from parity_tests.harness.modules.precision.distances import Apart, Sums
from parity_tests.harness.modules.precision.networks import Networks

SAMPLES = 16
_WALKED = 3
FACTOR = 8.0
"""How many times as far from its float64 one framework may be as the other. Of 122 random pairs of the same formulas,
in bfloat16 and float16, half are within 1.1, 95 of 100 within 2.6 and one beyond 8; where one framework computes a
tensor in float32 it is thousands of times as near."""
_SPREAD = 5.0
"""Standard deviations: the ratio of two means of n squares has 1 / sqrt(n), by its logarithm."""
_FURTHER = 3.0
"""How many times as far from float64 a gradient is where its operations are looked at."""
_LOOKED = 1.5
"""The same of an output."""
_NOTED, _SURE = 3.0, 4.0
"""Standard deviations from where on a place is looked at, since only what is recomputed is named; and how many times as
near a framework is where a place is named without that."""
ENTRY = 64.0
"""How many times its tensor's usual distance an entry may be apart. In the same pairs it is at most 14."""
_NOT_WALKED = "they can't be reached in one of the models, so that no operation is named"
NO_CAUSE = "no known operation explains it"
RATIO_UNIT, ENTRY_UNIT = "times as far from float64 in one as in the other", "times its tensor's usual distance"
_REASON = (
    "the distances are measured in each framework from its own float64, at the same rounded numbers; those of correct "
    f"pairs are within {FACTOR:g} times, and more for few numbers"
)
_ENTRY_REASON = "no entry of correct pairs is further apart than 14 times what is usual in its tensor"


class Result(NamedTuple):
    """What was found in the precision in which the networks are run."""

    findings: tuple[Finding, ...]
    distances: tuple[Distance, ...]
    diagnosis: Diagnosis | None


def compared(made: Callable[[str], Both], exact: Both, numbers: Arrays, losses: Losses | None, dtype: str) -> Result:
    """Compare both networks in the precision of `dtype`.

    Args:
        made: Makes the two networks in a dtype, without pairs.
        exact: Both networks in float64, with their pairs.
        numbers: The numbers of the paired arrays in float64, by torch's names.
        losses: The two losses; None to compare outputs alone.
        dtype: bfloat16, float16, mixed, tf32 or "as run".

    Raises:
        InputError: If a model holds no floats, or complex numbers.
        ModelError: If a model can't be called in this precision.
    """
    with as_run(dtype):
        low = made(dtype)._replace(pairs=exact.pairs, output_layouts=exact.output_layouts)
        low_losses = networks.autocast(low.module, losses) if dtype == "mixed" else losses
    name = _fewest(low, numbers, dtype)
    contexts: tuple[causes.Context, causes.Context] = (lambda: as_run(dtype), in_float64)
    here, there, sums = Networks(low, low_losses), Networks(exact, losses), Sums()
    kept: list[tuple[Both, Both]] = []
    first: Any = None
    for seed in range(SAMPLES):
        with contextlib.nullcontext() if not seed else contextlib.suppress(Exception):  # near numbers may be refused
            sample = networks.sampled(seed, numbers, exact.inputs, low)
            with contexts[1]():
                wide = there.at(sample.numbers, sample.inputs)
                expected = there.numbers(wide)
            with contexts[0]():
                narrow = here.at(sample.numbers, sample.inputs)
                actual = here.numbers(narrow)
            sums.add(actual, expected)
            first = first or (actual, expected)
            if len(kept) < _WALKED:
                kept.append((narrow, wide))
    every = sums.apart()
    findings: list[Finding] = []
    for finding in _findings(every, dtype):
        findings.append(finding)
        if not finding.passed:
            break
    settings_ = Setting([narrow for narrow, _ in kept], contexts[0]), Setting([wide for _, wide in kept], contexts[1])
    noted, infinite = _noted(settings_, here, low_losses, losses, name)
    further = {
        apart.name: int(apart.in_torch > apart.in_jax)
        for apart in every
        if apart.level == "gradients" and not apart.zero and apart.ratio > _FURTHER * _spread(apart.count)
    }
    said = causes.in_gradients(here, kept[0][0], contexts[0], first[0], first[1], further, name) if further else {}
    outputs = [apart for apart in every if apart.level == "outputs"]
    if any(apart.ratio > _LOOKED * _spread(apart.count) for apart in outputs):
        with contextlib.suppress(Exception):
            narrow, wide = kept[0]
            text = causes.in_products(here, narrow, contexts[0], first[0])
            text = text or causes.in_buffers(narrow, wide, there, contexts[1], first[0][1], first[1][1])
            said |= {apart.name: text for apart in outputs if text}
    held = networks.stored(low) if dtype == "as run" else {}
    kinds = {
        name: f"it is {in_jax} in JAX and {in_torch} in PyTorch"
        for name, (in_jax, in_torch) in here.dtypes.items()
        if in_jax != in_torch
    }
    distances = (
        *(apart.distance(kinds | said) for apart in every if not apart.zero),
        *(_distance(local) for local in noted),
    )
    diagnosis = (
        None if not findings or findings[-1].passed else _diagnosis(findings[-1], every, noted, infinite, said, kinds)
    )
    return Result(tuple(findings), (*distances, *infinite, *map(_held, held.items())), diagnosis)


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64 throughout."""
    with settings("float64"), widened():
        yield


def _fewest(low: Both, numbers: Arrays, dtype: str) -> str:
    """Return the dtype with the fewest bits in which the networks compute."""
    held = [array.dtype for array in low.named(low.arrays()).values()]
    if any(array.dtype.kind == "c" for array in numbers.values()) or any(x.dtype.kind == "c" for x in low.inputs):
        raise InputError(f"dtype: complex numbers are compared in float64 and float32, found {dtype!r}.")
    if not any(jnp.issubdtype(kind, jnp.floating) for kind in (*held, *(x.dtype for x in low.inputs))):
        raise InputError(f"dtype: the models hold no floats, which {dtype!r} is about: leave it out.")
    if dtype != "as run":
        return {"mixed": "bfloat16", "tf32": "float32"}.get(dtype, dtype)
    kinds = {str(kind) for kind in held} | {str(t.dtype).removeprefix("torch.") for t in low.module.parameters()}
    return next((name for name in ("bfloat16", "float16") if name in kinds), "bfloat16")


def _findings(every: Sequence[Apart], dtype: str) -> Iterator[Finding]:
    for level in dict.fromkeys(apart.level for apart in every):
        some = [apart for apart in every if apart.level == level and not apart.zero]
        if not some:
            continue
        text = {"outputs": "every output", "gradients": "every gradient"}.get(level, level)
        worst = max(some, key=lambda apart: _size(apart) / _tolerance(apart))
        yield Finding(f"{text}, {dtype}", dtype, _size(worst), worst.name, _tolerance(worst), RATIO_UNIT, _REASON)
        if level == "the loss":
            continue
        at = max(some, key=lambda apart: apart.entry.size)
        where = f"{at.name}{list(at.entry.index)}"
        yield Finding(f"{text} by entry, {dtype}", dtype, at.entry.size, where, ENTRY, ENTRY_UNIT, _ENTRY_REASON)


def _size(apart: Apart) -> float:
    return math.inf if apart.infinite or not apart.count else apart.ratio


def _tolerance(apart: Apart) -> float:
    return FACTOR * _spread(apart.count)


def _spread(count: int) -> float:
    """Return how many times as far chance may show a framework that is as far as the other."""
    return math.exp(_SPREAD / math.sqrt(max(count, 1)))


def _noted(
    both: tuple[Setting, Setting], here: Networks, low_losses: Losses | None, losses: Losses | None, name: str
) -> tuple[list[Local], list[Distance]]:
    """Return the places at which one framework is nearer to float64, with what it computes otherwise there, and those
    at which a number is not finite."""
    low, exact = both
    noted: list[Local] = []
    infinite: list[Distance] = []
    unit = float(jnp.finfo(name).eps)
    try:
        with np.errstate(all="ignore"):
            with exact.context():
                labels = places.matched(exact.samples[0])
            samples = list(causes.sampled(labels, low, exact))
            infinite = causes.infinite(labels, samples[0], low, name)
            named = causes.Causes(labels, samples[0], low, name)
            for local in causes.located(labels, samples):
                rounds = max(local.in_jax, local.in_torch) > unit / 64
                if rounds and (local.ratio > _clear(local.count) or local.single is not None):
                    local = named.explained(local)
                if not local.note:
                    local = local._replace(note=named.alone(local.place, unit))
                if local.note or (local.ratio > _SURE and rounds):
                    noted.append(local)
    except Exception:  # whatever can't be walked, the distances stay
        noted = [Local(places.Place("the layers", "the layers", ""), 0.0, 0.0, 0, ("", ""), _NOT_WALKED)]
    if low_losses is not None and losses is not None:
        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            noted += _noted_loss(low, here, (low_losses, losses), (low.context, exact.context), unit, name)
    return noted, infinite


def _clear(count: int) -> float:
    """Return from where on a place is looked at."""
    return causes.NEARER * math.exp(_NOTED / math.sqrt(max(count, 1)))


def _noted_loss(
    low: Setting,
    here: Networks,
    losses: tuple[Losses, Losses],
    contexts: tuple[causes.Context, causes.Context],
    unit: float,
    name: str,
) -> Iterator[Local]:
    totals = np.zeros((2, 2))
    dtypes: list[str] = []
    for both in low.samples:
        with low.context():
            outputs = here.outputs(both)
        apart, single, dtypes = causes.in_the_loss(losses, outputs, contexts)
        totals += np.square([apart, single])
    apart, single = np.sqrt(totals / len(low.samples))
    place = places.Place("the loss", "the loss", "")
    local = Local(place, float(apart[0]), float(apart[1]), len(low.samples), (dtypes[0], dtypes[1]))
    if local.ratio <= _SURE or max(apart) < unit / 64:
        return
    further = int(apart[1] > apart[0])
    nearer, far = ((causes.TORCH, causes.JAX), (causes.JAX, causes.TORCH))[further]
    if single[further] <= max(4 * apart[1 - further], apart[further] / 8):
        local = local._replace(note=f"it is computed in {name} in {far} and in float32 in {nearer}")
    yield local


def _held(weight: tuple[str, tuple[str, str]]) -> Distance:
    name, (in_jax, in_torch) = weight
    return Distance("weights", name, 0.0, 0.0, f"it is held in {in_jax} in JAX and in {in_torch} in PyTorch")


def _distance(local: Local) -> Distance:
    return Distance("layers", local.place.name, local.in_jax, local.in_torch, local.note or NO_CAUSE)


def _diagnosis(
    failed: Finding,
    every: Sequence[Apart],
    noted: Sequence[Local],
    infinite: Sequence[Distance],
    said: Mapping[str, str],
    kinds: Mapping[str, str],
) -> Diagnosis:
    """Say which framework is further from float64, and where it comes to be."""
    where = failed.where.rpartition("[")[0] if failed.unit == ENTRY_UNIT else failed.where
    apart = next(apart for apart in every if apart.name == where)
    text = f"It is {apart.in_jax:.1e} of its size from float64 in JAX, and {apart.in_torch:.1e} in PyTorch."
    found = [Diagnosis(one.name, text, one.note) for one in infinite]
    if where in said or apart.level != "outputs":  # what a layer adds to the outputs need not be why a gradient differs
        in_loss = next((local.note for local in noted if local.place.label == where), "")
        found.append(Diagnosis(where, text, said.get(where) or in_loss or None))
    for local in sorted(noted, key=lambda one: -one.ratio):
        if not local.count:
            continue  # the layers could not be walked
        here = f"On the same input it adds {local.in_jax:.1e} of its size in JAX, and {local.in_torch:.1e} in PyTorch."
        found.append(Diagnosis(local.place.name, here, local.note or None))
    if not found:
        return Diagnosis(failed.where, text, kinds.get(failed.where))
    return found[0]._replace(more=tuple(found[1:4]))
