"""Whether a JAX model and a torch module are the same network, level by level, and where they part if they are not."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import flax
import jax
import numpy as np
import optax
import torch
from torch import nn

from parity_tests.harness.findings import Finding, Report
from parity_tests.harness.modules import validation
from parity_tests.harness.modules.adapters import network
from parity_tests.harness.modules.levels import Losses, Optimizers, levels
from parity_tests.harness.modules.mapping import MappingLike, resolve
from parity_tests.harness.modules.pair import Both
from parity_tests.harness.modules.settings import settings


class ParityError(AssertionError):
    """Two networks that were to be the same are not. Holds the report."""

    def __init__(self, report: Report):
        super().__init__(sentence(report))
        self.report = report


def assert_parity(
    jax_model: Any,
    params: Any,
    torch_module: nn.Module,
    mapping: MappingLike = None,
    inputs: Any = (),
    **options: Any,
) -> Report:
    """Raises ParityError, with every level's figure and the likely cause, unless `compare_modules` passes."""
    __tracebackhide__ = True  # pytest then shows the caller's line
    report = compare_modules(jax_model, params, torch_module, mapping, inputs, **options)
    if not report.passed:
        raise ParityError(report)
    return report


def compare_modules(
    jax_model: Any,
    params: Any,
    torch_module: nn.Module,
    mapping: MappingLike = None,
    inputs: Any = (),
    *,
    losses: Losses | None = None,
    optimizers: Optimizers | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    steps: int = 5,
    train: bool = False,
    statistics: bool = True,
    dtype: Literal["float32", "float64"] = "float64",
    weights: Literal["jax", "torch", "compare"] = "jax",
    channels_last: bool = True,
) -> Report:
    """The levels up to the first that is over what it owes, since what comes after follows from it. Nothing that is
    passed in is changed.

    `jax_model` is a Flax NNX module (`params` None, or its state), a Linen module (`params` its variables) or a
    function `f(params, *inputs)`. `mapping` is as `mapping.resolve` takes it. `inputs`: an array or several, in
    torch's layout; those of four axes go from N,C,H,W to N,H,W,C for JAX, and outputs back, unless `channels_last` is
    False. Of other numbers of axes both are given the same: three may be a Conv1d's N,C,L or a sequence, so a model of
    Conv1d's is to be passed as a function that moves them for the Flax one.

    `losses`: `(jax_loss, torch_loss)`, each from its model's own outputs to one number; every gradient is then
    compared too. `optimizers`: `(optax's, parameters -> torch's)`, run for `steps` steps from the same gradients,
    torch's learning rate by `scheduler(optimizer)`; a clipping of torch's goes into a pre-step hook of its optimizer.

    `weights`: carried from "jax" or "torch" to a copy of the other, or, where they were ported by hand, left as they
    are and the first to "compare". `train`: the mode of both; running statistics are then compared too, unless
    `statistics` is False. A function or a Linen module is told its mode by an argument `train` or `deterministic`
    where it has one."""
    validation.check(jax_model, torch_module, mapping, losses, optimizers, scheduler, steps, dtype, weights)
    given = validation.arrays(inputs, dtype)
    with settings(dtype):
        net = network(jax_model, params, dtype, train)
        module = copy.deepcopy(torch_module).to(dtype=getattr(torch, dtype)).train(train)
        both = Both(net, module, (), given, dtype, channels_last)
        shapes = {path: array.shape for path, array in both.arrays().items()}
        both = both._replace(pairs=resolve(shapes, module, mapping))
        if weights == "jax":
            both.fill_torch()
        elif weights == "torch":
            both = both._replace(net=both.filled_from_torch())
        about = {
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "torch": torch.__version__,
            "device": jax.default_backend(),
            "dtype": dtype,
            "weights": weights,
            "mode": "training" if train else "evaluation",
        }
        findings: list[Finding] = []
        compared = levels(both, weights == "compare", train and statistics, losses, optimizers, scheduler, steps)
        for finding, diagnose in compared:
            findings.append(finding)
            if not finding.passed:
                with np.errstate(all="ignore"):  # of what is infinite, or of a fault tried in vain
                    return Report(about, tuple(findings), diagnosis=diagnose())
        return Report(about, tuple(findings))


def sentence(report: Report) -> str:
    """Each level's figure beside what is owed, then the diagnosis."""
    failed = sum(not finding.passed for finding in report.findings)
    lines = ["The JAX model and the torch module " + ("differ." if failed else "agree.")]
    width = max((len(finding.level) for finding in report.findings), default=0)
    for finding in report.findings:
        figure = f"  {finding.level:{width}}  {finding.size:7.1e} {finding.unit}, tolerance {finding.tolerance:.0e}"
        lines.append(figure if finding.passed else f"{figure}: FAILS, worst in {finding.where}")
    if failed:
        lines.append(f"  ({report.findings[-1].dtype}: {report.findings[-1].reason})")
    if report.diagnosis is not None:
        cause = report.diagnosis.cause
        lines.append(f"{report.diagnosis.where}: {report.diagnosis.found}")
        lines.append(f"Likely cause: {cause}." if cause else "No known fault reproduces these numbers.")
    return "\n".join(lines)
