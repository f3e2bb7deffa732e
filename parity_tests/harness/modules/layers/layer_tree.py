"""The tree of a torch module's layers, with what was measured of each in both frameworks."""

import contextlib
from collections.abc import Sequence

from parity_tests.harness import tree
from parity_tests.harness.findings import Diagnosis, Figure, Finding, Layer, Node
from parity_tests.harness.modules import rounding
from parity_tests.harness.modules.hypotheses.stages import paths
from parity_tests.harness.modules.judging import judge
from parity_tests.harness.modules.levels import OUTPUTS, Levels
from parity_tests.harness.modules.torch_state import whole


def grown(compared: Levels, findings: Sequence[Finding], diagnosis: Diagnosis | None, everything: bool) -> Node:
    """Make the tree of layers after a comparison.

    Args:
        compared: The levels that were compared, which know the differences of gradients, and of layers if these were
            asked for.
        findings: What they found.
        diagnosis: The diagnosis, if they differ, which knows the differences of layers if it compared them.
        everything: Whether to compare the gradients of networks whose outputs differ.
    """
    module, dtype = compared.both.module, compared.both.dtype
    forward = (diagnosis.figures if diagnosis else ()) or compared.differences_of_layers
    backward = compared.differences_of_gradients
    if everything and not backward and compared.evaluation.losses is not None:
        with contextlib.suppress(Exception):  # as of losses of another shape, which the comparison didn't come to
            backward = judge("", "gradients", compared.evaluation, compared.tolerance).sizes
    figures: dict[str, list[Figure]] = {"": [_of_level(finding) for finding in findings]}
    at = findings[-1].level.removeprefix("outputs ")  # as `at other weights`
    elsewhere = f" {at}" if diagnosis and diagnosis.figures and at != findings[-1].level else ""
    for name, figure in forward:
        figures.setdefault(name, []).append(figure._replace(of=figure.of + elsewhere))
    buffers = {name for name, _ in module.named_buffers()}
    gradients = {name: size for name, size in backward.items() if whole(name) not in buffers}
    follows = any(finding.level == OUTPUTS and not finding.passed for finding in findings)
    for direction, sizes in (("", compared.differences_of_state), ("backward", gradients)):
        for name, size in sizes.items():
            layer, _, tensor = name.rpartition(".")
            values = tensor, direction, dtype, size, compared.tolerance, rounding.UNIT, rounding.REASON
            figures.setdefault(layer, []).append(Figure(*values, follows=follows))
    within = paths(compared.both.pairs)
    entries = {
        _path(name): tree.Entry(tuple(figures.get(name, ())), Layer(within.get(name), name), type(part).__name__)
        for name, part in module.named_modules()
    }
    named = [] if diagnosis is None else [one.layer for one in (diagnosis, *diagnosis.more)]
    differ = [_path(layer.torch or "") if layer else () for layer in named]
    passed = all(finding.passed for finding in findings)
    return tree.grown("the network", entries, differ, differ[0] if differ else None, passed)


def _of_level(finding: Finding) -> Figure:
    direction = "backward" if "gradient" in finding.level else "forward" if "output" in finding.level else ""
    return Figure(
        *(finding.level, direction, finding.dtype, finding.size, finding.tolerance, finding.unit, finding.reason)
    )


def _path(name: str) -> tree.Path:
    return tuple(name.split(".")) if name else ()
