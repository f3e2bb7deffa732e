"""The faults that are planted in the training scripts, where each shows first, and the cause that is to be named:
python -m parity_tests.faults.loops.table writes FAULTS.md, and with float32, bfloat16 or float16 counts those found."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from parity_tests.faults.loops import classifier, transformer
from parity_tests.harness.loops.carrying import Side
from parity_tests.harness.loops.compare import compare_runs
from parity_tests.harness.loops.comparison import Comparison
from parity_tests.harness.loops.halves import Exact
from parity_tests.harness.loops.naming import QUANTITIES
from parity_tests.harness.loops.records import SIDES, Start
from parity_tests.harness.loops.report import RunsReport
from parity_tests.harness.loops.summary import summarised


class RunFault(NamedTuple):
    """A fault in one of two training scripts."""

    name: str
    script: ModuleType
    framework: str
    """The framework with the fault: JAX or PyTorch."""
    options: dict[str, Any]
    """What the script with the fault does otherwise."""
    step: int
    quantity: str
    cause: str
    """What the named cause has to contain, with ... for what depends on the precision; empty where none is expected."""
    both: dict[str, Any] = {}  # noqa: RUF012
    """What both scripts do otherwise than by default."""


def sides(
    *faults: RunFault, dtype: str = "float64", half: str = ""
) -> tuple[Callable[[Start | None], Any], Callable[[Start | None], Any]]:
    """Return the two runs with these faults of one script in them."""
    script = faults[0].script
    right = dataclasses.replace(
        script.RIGHT, dtype=dtype, half=half, **{k: v for fault in faults for k, v in fault.both.items()}
    )
    in_jax, in_torch = (
        dataclasses.replace(right, **{k: v for f in faults if f.framework == side for k, v in f.options.items()})
        for side in SIDES
    )
    return (
        lambda start: script.run_jax(in_jax, start=start),
        lambda start: script.run_torch(in_torch, start=start),
    )


def tried(*faults: RunFault, dtype: str = "float64") -> RunsReport:
    """Compare the two runs with these faults."""
    return compare_runs(*sides(*faults, dtype=dtype), steps=faults[0].script.STEPS)


def in_half(fault: RunFault, half: str) -> RunsReport:
    """Compare the two runs with this fault in half precision, beside the same in float32, which alone are not
    compared: as if they agreed."""
    low, exact = sides(fault, dtype="float32", half=half), sides(fault, dtype="float32")
    steps = fault.script.STEPS
    comparison = Comparison(
        (Side(0, low[0], steps, None), Side(1, low[1], steps, None)), None, Exact(exact, steps, None, None)
    )
    with contextlib.closing(comparison):
        comparison.run(steps)
    return summarised(comparison)


def place(fault: RunFault) -> tuple[int, int]:
    """Return where a fault shows, for its order among others."""
    return fault.step, QUANTITIES.index(fault.quantity)


def named(fault: RunFault, report: RunsReport) -> bool:
    """Return whether the step, the quantity and the cause are right."""
    cause = (report.diagnosis and report.diagnosis.cause) or ""
    return (report.step, report.quantity) == (fault.step, fault.quantity) and _contains(cause, fault.cause)


def _contains(cause: str, expected: str) -> bool:
    """Return whether a cause has the parts of what is expected, in their order."""
    return bool(expected) and re.search(".*".join(map(re.escape, expected.split("..."))), cause) is not None


def _classifier(
    name: str, framework: str, step: int, quantity: str, cause: str, both: dict | None = None, **options: Any
) -> RunFault:
    if both is None:
        both = {}
    return RunFault(name, classifier, framework, options, step, quantity, cause, both)


def _transformer(
    name: str, framework: str, step: int, quantity: str, cause: str, both: dict | None = None, **options: Any
) -> RunFault:
    if both is None:
        both = {}
    return RunFault(name, transformer, framework, options, step, quantity, cause, both)


FAULTS = (
    _classifier("another seed of the shuffle", "PyTorch", 0, "batch", "another order", seed=1),
    _classifier(
        "the data is shuffled once", "PyTorch", 3, "batch", "PyTorch repeats the order of the data", shuffle="once"
    ),
    _classifier("the last batch is kept", "JAX", 3, "batch", "JAX keeps the incomplete last batch", drop_last=False),
    _classifier(
        "labels aren't shuffled",
        "PyTorch",
        0,
        "batch",
        "labels of the batch belong to other rows",
        labels="in the file's order",
    ),
    _classifier("labels count from 1", "JAX", 0, "batch", "counted from another number", labels="from 1"),
    _classifier(
        "pixels from 0 to 1",
        "PyTorch",
        0,
        "inputs",
        "PyTorch's inputs are JAX's over 2 + 0.5",
        both={"mean": (0.0,) * 3},
        scale="unit",
    ),
    _classifier(
        "pixels from 0 to 255",
        "JAX",
        0,
        "inputs",
        "PyTorch's inputs are JAX's over 127.5 - 1",
        both={"mean": (0.0,) * 3},
        scale="255",
    ),
    _classifier(
        "channels in the order BGR",
        "PyTorch",
        0,
        "inputs",
        "the channels of inputs are in the other order",
        both={"mean": (0.0,) * 3},
        channels="BGR",
    ),
    _classifier(
        "another mean of the channels", "PyTorch", 0, "inputs", "each channel is scaled otherwise", mean=(0.1, 0.0, 0.2)
    ),
    _classifier(
        "other images are mirrored", "PyTorch", 0, "inputs", "other images are mirrored, left and right", flips=3
    ),
    _classifier(
        "the schedule is a step late", "PyTorch", 1, "learning rate", "the schedule of PyTorch is 1 step late", late=1
    ),
    _classifier(
        "the schedule advances by epoch", "PyTorch", 1, "learning rate", "once in 3 steps in PyTorch", per_epoch=True
    ),
    _classifier("no warm-up", "PyTorch", 0, "learning rate", "PyTorch has no warm-up", warm_up=0),
    _classifier("a longer cosine", "JAX", 4, "learning rate", "the cosine takes", period=classifier.STEPS + 1),
    _classifier(
        "a sum of the losses",
        "PyTorch",
        0,
        "loss",
        "8 times as large (rows of the batch: a sum for a mean) in PyTorch",
        reduction="sum",
    ),
    _classifier(
        "L2 in the loss too",
        "PyTorch",
        0,
        "loss",
        "0.01 / 2 times the squared weights of ... in PyTorch only",
        penalty=0.01,
    ),
    _classifier("other units are dropped", "PyTorch", 0, "loss", "dropout", dropout=3),
    _classifier(
        "training in evaluation mode",
        "PyTorch",
        0,
        "loss",
        "the loss of PyTorch is its loss in evaluation",
        mode="evaluation",
    ),
    _classifier(
        "the other momentum of batch norm",
        "PyTorch",
        0,
        "running statistics",
        "the momentum of the running statistics",
        statistics=0.9,
    ),
    _classifier(
        "the unbiased variance",
        "PyTorch",
        0,
        "running statistics",
        "the running variance is the unbiased one in PyTorch",
        unbiased=True,
    ),
    _classifier("biases and norms aren't decayed", "PyTorch", 0, "optimizer state", "weight decay", decayed="matrices"),
    _classifier("a decoupled decay", "JAX", 0, "optimizer state", "the weight decay is decoupled", decoupled=True),
    _classifier("Nesterov's momentum", "JAX", 0, "parameters", "Nesterov's momentum in JAX only", nesterov=True),
    _classifier("dampened momentum", "PyTorch", 1, "optimizer state", "the dampening", dampening=0.1),
    _classifier(
        "another momentum", "JAX", 1, "optimizer state", "the momentum is 0.8 in JAX and 0.9 in PyTorch", momentum=0.8
    ),
    _classifier("gradients are never zeroed", "PyTorch", 1, "gradients", "zero_grad", zero_grad=False),
    _classifier(
        "a frozen layer",
        "PyTorch",
        0,
        "gradients",
        "no gradient comes to conv.weight, conv.bias in PyTorch",
        frozen=True,
    ),
    _classifier(
        "a step is skipped", "PyTorch", 4, "optimizer state", "step 4 updates the parameters in JAX only", skip=(4,)
    ),
    _transformer("the batches run ahead", "PyTorch", 0, "batch", "the batches of PyTorch are 1 step ahead", ahead=1),
    _transformer("targets aren't moved", "PyTorch", 0, "inputs", "moved by one position", targets=0),
    _transformer("another learning rate", "JAX", 0, "learning rate", "0.5 times as large in PyTorch", rate=2e-2),
    _transformer(
        "a warm-up of other length",
        "PyTorch",
        0,
        "learning rate",
        "the warm-up takes 2 steps in JAX and 4 in PyTorch",
        warm_up=4,
    ),
    _transformer("micro-batches are summed", "PyTorch", 0, "loss", "2 times as large", accumulated="sum"),
    _transformer("a sum over the tokens", "JAX", 0, "loss", "1 / 24 times as large", reduction="sum"),
    _transformer(
        "no clipping", "PyTorch", 0, "gradients", "clipped to a norm of 0.5 (from 6.4...) in JAX only", clipping="none"
    ),
    _transformer("clipping by value", "JAX", 0, "gradients", "value by value to 0.05 in JAX", clipping="value"),
    _transformer(
        "torch's clipping adds 1e-6",
        "PyTorch",
        0,
        "gradients",
        "PyTorch divides by the norm plus a small number",
        clipping="torch",
    ),
    _transformer(
        "each tensor is clipped",
        "PyTorch",
        0,
        "gradients",
        "tensor by tensor",
        both={"clipping": "none"},
        clipping="each",
    ),
    _transformer(
        "another norm", "PyTorch", 0, "gradients", "clipped to a norm of 0.5 in JAX and of 0.2 in PyTorch", clip=0.2
    ),
    _transformer(
        "no clipping, seen in the moments",
        "PyTorch",
        0,
        "optimizer state",
        "clipped to a norm of 0.5 (from 6.4...) in JAX only",
        both={"raw": True},
        clipping="none",
    ),
    _transformer(
        "clipping by value, seen in the moments",
        "JAX",
        0,
        "optimizer state",
        "value by value to 0.05",
        both={"raw": True},
        clipping="value",
    ),
    _transformer(
        "a padding index",
        "PyTorch",
        0,
        "gradients",
        "no gradient comes to row 0 of words.weight in PyTorch",
        both={"clipping": "none"},
        padding=True,
    ),
    _transformer(
        "all tensors are decayed",
        "PyTorch",
        0,
        "parameters",
        "the weight decay of 0.1, decoupled, is of",
        decayed="all",
    ),
    _transformer(
        "another decay",
        "JAX",
        0,
        "parameters",
        "the weight decay, decoupled, is 0.01 in JAX and 0.1 in PyTorch",
        decay=0.01,
    ),
    _transformer("Adam for AdamW", "PyTorch", 0, "optimizer state", "the weight decay is decoupled", coupled=True),
    _transformer(
        "another beta1", "PyTorch", 0, "optimizer state", "beta1 is 0.9 in JAX and 0.8 in PyTorch", betas=(0.8, 0.95)
    ),
    _transformer(
        "another beta2", "JAX", 0, "optimizer state", "beta2 is 0.999 in JAX and 0.95 in PyTorch", betas=(0.9, 0.999)
    ),
    _transformer("another eps", "PyTorch", 0, "parameters", "eps is 1e-08 outside the root in JAX and 1e-06", eps=1e-6),
    _transformer("eps inside the root", "JAX", 0, "parameters", "inside the root in JAX", eps=0.0, eps_root=1e-8),
    _transformer("no bias correction", "JAX", 0, "parameters", "bias correction is missing in JAX", corrected=False),
    _transformer("updates at every second step", "PyTorch", 0, "parameters", "once in 2 steps in PyTorch", every=2),
    _transformer(
        "another decay of the average",
        "PyTorch",
        0,
        "EMA",
        "the decay 0.9 in JAX, and has the decay 0.99 in PyTorch",
        average=0.99,
    ),
    _transformer("the average starts later", "PyTorch", 0, "EMA", "is a copy of the weights", average_from=3),
    _transformer(
        "the average of the weights before",
        "JAX",
        0,
        "EMA",
        "averages the weights before the step in JAX",
        average_of="before",
    ),
    _transformer("the average's decay warms up", "JAX", 0, "EMA", "which warms up in JAX", average_warm=True),
    _transformer(
        "the average is corrected",
        "JAX",
        0,
        "EMA",
        "bias correction",
        both={"average_zero": True},
        average_corrected=True,
    ),
    _classifier(
        "gradients clipped by value", "PyTorch", 0, "gradients", "value by value to 0.02 in PyTorch", clip_value=0.02
    ),
    _classifier(
        "the unbiased variance and another momentum",
        "PyTorch",
        0,
        "running statistics",
        "and the momentum differs",
        unbiased=True,
        statistics=0.2,
    ),
    _transformer(
        "an eps of 3e-7", "PyTorch", 0, "parameters", "eps is 1e-08 outside the root in JAX and 3e-07 outside", eps=3e-7
    ),
    _transformer(
        "both betas",
        "PyTorch",
        0,
        "optimizer state",
        "beta1 is 0.9 in JAX and 0.8 in PyTorch; beta2 is 0.95",
        betas=(0.8, 0.999),
    ),
    _transformer("no decay", "PyTorch", 0, "parameters", "decoupled, is in JAX only: 0.1 of words.weight", decay=0.0),
    *(
        _transformer(name, framework, step, quantity, cause, both, **options)
        for name, framework, both, options, step, quantity, cause in (
            (
                "the rates of two groups are exchanged",
                "PyTorch",
                {"grouped": True},
                {"swapped": "rates"},
                0,
                "parameters",
                "0.04 in JAX and 0.01 in PyTorch of norm1.weight",
            ),
            (
                "the decays of two groups are exchanged",
                "JAX",
                {"grouped": True},
                {"swapped": "decays"},
                0,
                "parameters",
                "0.1 in JAX and 0.02 in PyTorch of norm1.weight",
            ),
            (
                "the groups leave tensors out",
                "PyTorch",
                {"grouped": True},
                {"left_out": True},
                0,
                "parameters",
                "no step moves norm1.weight, norm1.bias, query.bias, key.bias and 6 more in PyTorch",
            ),
            (
                "one rate for all groups",
                "JAX",
                {"grouped": True},
                {"vectors": 1.0},
                0,
                "parameters",
                "0.01 in JAX and 0.04 in PyTorch of norm1.weight",
            ),
            (
                "no decay of one group",
                "PyTorch",
                {"grouped": True},
                {"vector_decay": 0.0},
                0,
                "parameters",
                "norm1.weight, norm1.bias, query.bias, key.bias and 6 more",
            ),
            (
                "optax's amsgrad",
                "JAX",
                {"amsgrad": "torch"},
                {"amsgrad": "optax"},
                0,
                "optimizer state",
                "the largest corrected second moments in JAX",
            ),
            (
                "amsgrad in one alone",
                "JAX",
                {},
                {"amsgrad": "torch"},
                1,
                "parameters",
                "the largest second moments in JAX and no second moments in PyTorch",
            ),
        )
    ),
)
"""Each shows where it is said to: the first step and the first quantity that the script computes otherwise."""

_ONE_FRAMEWORK = (
    "unbiased",
    "dampening",
    "zero_grad",
    "frozen",
    "padding",
    "eps_root",
    "corrected",
    "average_corrected",
    "amsgrad",
)


def mirrored(fault: RunFault) -> RunFault | None:
    """Return the fault in the other framework, where both scripts have it and it shows at the same place."""
    torch_alone = {*_ONE_FRAMEWORK} & {*fault.options} or fault.options.get("clipping") == "torch"
    shows_elsewhere = (
        "reduction" in fault.options or "every" in fault.options or fault.options.get("labels") == "from 1"
    )
    if torch_alone or shows_elsewhere:
        return None
    return fault._replace(framework=next(side for side in SIDES if side != fault.framework))


TABLE = Path(__file__).parent / "FAULTS.md"
HEAD = """# Faults planted in training scripts, and what the comparison of runs says

Two scripts, an image classifier and a transformer, each in Flax and in PyTorch; each fault is in one of the two. The
comparison has to find the first step and the first quantity that differ. `python -m parity_tests.faults.loops.table`
writes this table, and the tests check all rows.

| fault | found at | named |
| --- | --- | --- |
"""


def row(fault: RunFault, report: RunsReport) -> str:
    """Return the line of a fault."""
    script = fault.script.__name__.rpartition(".")[2]
    cause = (report.diagnosis and report.diagnosis.cause) or "no known fault reproduces it"
    return f"| {script} in {fault.framework}: {fault.name} | step {report.step}, {report.quantity} | {cause} |"


_COUNTED = ("float32", "bfloat16", "float16")


def counted(dtype: str) -> str:
    """Say how many of the faults are found and named in a precision."""
    found = at_place = right = other = 0
    for fault in tqdm(FAULTS):
        report = tried(fault, dtype=dtype) if dtype.startswith("float3") else in_half(fault, dtype)
        at_place += (report.step, report.quantity) == (fault.step, fault.quantity)
        found += not report.passed
        right += named(fault, report)
        if not report.passed and not named(fault, report):
            other += bool(report.diagnosis and report.diagnosis.cause)
            print(row(fault, report))
    return (
        f"{dtype}: of {len(FAULTS)} faults {found} are found, {at_place} of them at their step and quantity; {right} "
        f"are named, {other} in other words or by another cause."
    )


def main() -> None:
    """Write the table; or print the counts in the precision that is given."""
    if sys.argv[1:]:
        if sys.argv[1:] not in ([dtype] for dtype in _COUNTED):
            found = " ".join(sys.argv[1:])
            sys.exit(f"table: {found!r} is no precision; give one of {', '.join(_COUNTED)}, or nothing for the table.")
        print(counted(sys.argv[1]))
        return
    jax.config.update("jax_enable_x64", True)
    TABLE.write_text(HEAD + "".join(f"{row(fault, tried(fault))}\n" for fault in tqdm(FAULTS)))


if __name__ == "__main__":
    main()
