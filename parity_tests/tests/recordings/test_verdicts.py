"""Verdicts on random pairs of which one model is recorded: none agrees that differs, and the reverse."""

from typing import Any

import pytest

from parity_tests import compare_modules, record
from parity_tests.harness.modules import layouts
from parity_tests.support.pairs import verdicts


@pytest.mark.slow
@pytest.mark.parametrize("recorded", ["torch", "jax"])
@pytest.mark.parametrize("seed", [0, 7, 12, 103, 119])
def test_a_recording_gives_the_verdict_of_the_live_pair(tmp_path, monkeypatch, seed: int, recorded: str) -> None:
    """Each seed is a pair as it is and with one edit; among them attention, whose keys' bias moves nothing."""
    path = tmp_path / "a.safetensors"

    def through(
        model: Any,
        params: Any,
        module: Any,
        mapping: Any,
        inputs: Any,
        *,
        losses: Any,
        train: bool,
        outputs: Any,
        dtype: Any,
    ) -> Any:
        ours, theirs = losses or (None, None)
        if recorded == "torch":
            made = record(module, path, inputs, loss=theirs, train=train, draw=True, dtype=dtype)
            return compare_modules(model, params, made, mapping, losses=ours, outputs=outputs)
        in_jax = layouts.to_jax(inputs, layouts.of_input(None, 0, inputs.ndim, True))
        made = record(model, path, in_jax, params=params, loss=ours, train=train, draw=True, dtype=dtype)
        return compare_modules(made, None, module, mapping, losses=theirs, outputs=outputs)

    monkeypatch.setattr(verdicts, "compare_modules", through)
    monkeypatch.setattr(verdicts, "LIMIT", 300.0)
    outcome = verdicts.judge(seed)
    assert not outcome.false, (outcome.plain_text, outcome.edited_text)
    assert outcome.found in (True, None)
