"""Assert that a JAX model and a torch module are the same network; either may be a recording."""

from typing import TYPE_CHECKING, Any

from parity_tests.harness.findings import Report
from parity_tests.harness.recordings.comparing import live
from parity_tests.harness.recordings.recording import Recording

if TYPE_CHECKING:
    from parity_tests.harness.loops.report import RunsReport


class ParityError(AssertionError):
    """The two networks, or the two runs, differ.

    The message is `str(report)`: every level's difference and tolerance, then the diagnosis.

    Attributes:
        report: The report of the comparison; `report.diagnosis` names the first layer that differs and the cause.
    """

    def __init__(self, report: "Report | RunsReport"):
        super().__init__(str(report))
        self.report = report


def assert_parity(
    jax_model: Any,
    params: Any,
    torch_module: Any,
    mapping: Any = None,
    inputs: Any = (),
    **options: Any,
) -> Report:
    """Assert that a JAX model and a torch module are the same network.

    Args:
        jax_model: A Flax NNX module, a Flax Linen module, a function `f(params, *inputs)`, or a `Recording`.
        params: None or the state of an NNX module; the variables of a Linen module; the parameters of a function.
        torch_module: The torch module, or a `Recording`.
        mapping: Which JAX array is which torch tensor, see `compare_modules`.
        inputs: One array or several, in torch's layout; those of a recording if there is one.
        **options: The keyword arguments of `compare_modules`. With a recording `losses` and `optimizers` are those of
            the live model alone, and whatever the recording decides is left out.

    Returns:
        The report of the comparison, which passed.

    Raises:
        ParityError: If a level differs by more than its tolerance; the message names the first layer that differs and
            its likely cause.
        InputError: If an argument is invalid.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    if isinstance(jax_model, Recording) or isinstance(torch_module, Recording):
        report = live.compare(jax_model, params, torch_module, mapping, inputs, options)
    else:
        from parity_tests.harness.modules.compare import compare_modules  # both frameworks

        report = compare_modules(jax_model, params, torch_module, mapping, inputs, **options)
    if not report.passed:
        raise ParityError(report)
    return report
