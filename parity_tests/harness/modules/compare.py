"""Compare a JAX model with a torch module level by level, and find the first layer that differs."""

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
    """The two networks differ.

    The message is `sentence(report)`: every level's difference and tolerance, then the diagnosis.

    Attributes:
        report: The report of the comparison; `report.diagnosis` names the first layer that differs and the cause.
    """

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
    """Assert that a JAX model and a torch module are the same network.

    Args:
        jax_model: A Flax NNX module, a Flax Linen module, or a function `f(params, *inputs)`.
        params: None or the state of an NNX module; the variables of a Linen module; the parameters of a function.
        torch_module: The torch module.
        mapping: Which JAX array is which torch tensor, see `compare_modules`.
        inputs: One array or several, in torch's layout.
        **options: The keyword arguments of `compare_modules`.

    Returns:
        The report of the comparison, which passed.

    Raises:
        ParityError: If a level differs by more than its tolerance; the message names the first layer that differs and
            its likely cause.
        InputError: If an argument is invalid.
    """
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
    """Compare a JAX model with a torch module: outputs, statistics, loss, gradients, optimizer steps.

    The comparison ends at the first level that differs by more than its tolerance, since later levels depend on it.
    It works on copies; no argument is changed.

    Args:
        jax_model: A Flax NNX module, a Flax Linen module, or a function `f(params, *inputs)`.
        params: None or the state of an NNX module; the variables of a Linen module; the parameters of a function.
        torch_module: The torch module.
        mapping: Which JAX array is which torch tensor. None pairs by name, then by kind of layer and shape;
            `{path: name}` lists pairs, as in `{"conv1/kernel": "conv1.weight"}`; `[(regex, replacement)]` lists rules,
            of which the first that matches the whole path gives the name. A pair or a rule may end in a `Transform`.
        inputs: One array or several, in torch's layout. Arrays of four axes are passed to JAX as `[batch, height,
            width, channels]` instead of `[batch, channels, height, width]`; arrays of other ranks are passed as they
            are. A model of Conv1d layers therefore needs a function that moves its channels.
        losses: `(jax_loss, torch_loss)`; each maps its model's outputs to one number. With losses, every gradient is
            compared.
        optimizers: `(optax_optimizer, make_torch_optimizer)`; the second maps parameters to a torch optimizer. Both
            take `steps` steps from the same gradients. Put torch's gradient clipping in a pre-step hook of its
            optimizer. Requires `losses`.
        scheduler: Maps the torch optimizer to a learning-rate scheduler; optax's schedule is part of its optimizer.
            Requires `optimizers`.
        steps: Number of optimizer steps.
        train: Whether both models run in training mode. A Linen module or a function receives it as an argument
            `train`, `training`, `is_training`, `deterministic` or `use_running_average`, if its signature has one.
        statistics: Whether running statistics are compared after a step in training mode.
        dtype: The precision of both models: "float64" (tolerance 1e-12) or "float32" (1e-5; 1e-4 after optimizer
            steps), as a share of each tensor's largest magnitude.
        weights: "jax" copies the JAX model's weights into the torch module, "torch" the reverse; "compare" copies
            nothing and compares the weights first.
        channels_last: Whether the JAX model takes and returns arrays of four axes with channels last.

    Returns:
        The report: one finding per level and, if a level fails, the diagnosis of the first difference.

    Raises:
        InputError: If an argument is invalid or the arrays of the two models can't be paired.
    """
    validation.check(jax_model, torch_module, mapping, losses, optimizers, scheduler, steps, dtype, weights)
    arrays = validation.arrays(inputs, dtype)
    with settings(dtype):
        net = network(jax_model, params, dtype, train)
        module = copy.deepcopy(torch_module).to(dtype=getattr(torch, dtype)).train(train)
        both = Both(net, module, (), arrays, dtype, channels_last)
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
                with np.errstate(all="ignore"):  # infinite values, or a hypothesis that overflows
                    return Report(about, tuple(findings), diagnosis=diagnose())
        return Report(about, tuple(findings))


def sentence(report: Report) -> str:
    """Format a report as text.

    Args:
        report: A report of `compare_modules`.

    Returns:
        One line per level with its worst difference and its tolerance, then the first place that differs and its
        likely cause.
    """
    failed = sum(not finding.passed for finding in report.findings)
    lines = ["The JAX model and the torch module " + ("differ." if failed else "agree.")]
    width = max((len(finding.level) for finding in report.findings), default=0)
    for finding in report.findings:
        line = f"  {finding.level:{width}}  {finding.size:7.1e} {finding.unit}, tolerance {finding.tolerance:.0e}"
        lines.append(line if finding.passed else f"{line}: FAILS, worst in {finding.where}")
    if failed:
        lines.append(f"  ({report.findings[-1].dtype}: {report.findings[-1].reason})")
    if report.diagnosis is not None:
        cause = report.diagnosis.cause
        lines.append(f"{report.diagnosis.where}: {report.diagnosis.difference}")
        lines.append(f"Likely cause: {cause}." if cause else "No known fault reproduces these numbers.")
    return "\n".join(lines)
