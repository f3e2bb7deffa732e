"""Every preset passes every level: small here, at full size with `parity --preset all`."""

import pytest

from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.presets import PRESETS
from parity_tests.harness import report
from parity_tests.harness.vae import prove, trajectory
from parity_tests.support.quick import quick
from parity_tests.support.tiny import STEPS, small, some


# Convolutions pass every level in the golden files, and float32 in the command of test_prove.
@pytest.mark.parametrize("name", quick(PRESETS, []))
def test_a_preset_passes_every_level_in_float64(name: str) -> None:
    result = passes(name, "float64")
    levels = {finding.level for finding in result.findings}
    assert {trajectory.LOSSES, trajectory.WEIGHTS, trajectory.OPTIMIZER, trajectory.EVALUATIONS} <= levels


@pytest.mark.parametrize("name", quick(PRESETS, []))
def test_a_preset_passes_every_level_in_float32(name: str) -> None:
    passes(name, "float32")


def passes(name: str, dtype: Stored) -> report.Report:
    spec = small(name)
    result = prove.prove(spec, some(spec), dtypes=[dtype], steps=STEPS)
    assert result.passed, report.verdict(result)
    assert result.diagnosis is None
    return result
