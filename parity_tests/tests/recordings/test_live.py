"""A recording stands in place of either live model."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests import ParityError, Recording, assert_parity, compare_modules, compare_recordings, record
from parity_tests.harness.modules.hypotheses.optimizer import SKIPPED
from parity_tests.harness.recordings.arguments import read
from parity_tests.harness.recordings.comparing import parts
from parity_tests.harness.recordings.comparing.compare import across
from parity_tests.harness.recordings.model import Options
from parity_tests.harness.recordings.recorder import model_of
from parity_tests.support.arranged.pairs import LOSSES, pair
from parity_tests.support.quick import quick
from parity_tests.support.small_nets import ROWS, JaxNet, TorchNet
from parity_tests.tests.recordings.conftest import Recorded

LEVELS = [
    "every input",
    "every weight",
    "every output",
    "the loss",
    "every gradient",
    "weights after each of 2 steps from own gradients",
    "optimizer moments after each of 2 steps",
]


def test_a_recording_of_torch_and_a_live_flax_model_agree_in_every_level(in_torch: Recorded, in_jax: Recorded) -> None:
    names = in_jax.names
    report = assert_parity(
        names["make"](), None, in_torch.recording, losses=names["loss"], optimizers=names["optimizer"]
    )
    assert [finding.level for finding in report.findings] == LEVELS
    assert not report.unexercised
    assert report.drawn == ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert report.about["torch"]["from"] == str(in_torch.path)  # type: ignore[index]
    assert report.about["jax"]["from"] == "this process"  # type: ignore[index]


def test_a_recording_of_flax_and_a_live_torch_module_agree_in_every_level(in_torch: Recorded, in_jax: Recorded) -> None:
    names = in_torch.names
    module = names["make"]()
    before = module.head.weight.detach().clone()
    report = assert_parity(in_jax.recording, None, module, losses=names["loss"], optimizers=names["optimizer"])
    assert [finding.level for finding in report.findings] == LEVELS
    assert torch.equal(module.head.weight, before)


class Circular:
    def __init__(self) -> None:
        super().__init__()
        self.conv.padding_mode = "circular"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "where", "cause"),
    [(Circular, "conv", ""), (type("Tanh", (), {"approximate": "tanh"}), "between norm and head", "GELU")],
    ids=["layer", "between"],
)
@pytest.mark.parametrize("sample", [None, 20])
def test_the_first_layer_that_differs_is_named(
    in_torch: Recorded, in_jax: Recorded, tmp_path, change: type, where: str, cause: str, sample: int | None
) -> None:
    made = in_jax.recording
    if sample is not None:
        made = record(in_jax.names["make"](), tmp_path / "a.safetensors", made.arrays["inputs/inputs[0]"], sample=20)
        assert made.arrays["layers/conv/output"].size <= 20
    wrong = type("Wrong", (change, in_torch.names["Net"]), {})
    report = compare_modules(made, None, wrong())
    assert report.diagnosis is not None
    assert report.diagnosis.where == where
    assert sample or cause in (report.diagnosis.cause or "")
    assert "JAX" in report.diagnosis.difference
    assert "PyTorch" in report.diagnosis.difference


def test_what_differs_later_than_the_outputs_is_named(in_torch: Recorded, in_jax: Recorded) -> None:
    names = in_torch.names
    compared = partial(compare_modules, in_jax.recording, None, names["make"]())
    report = compared(losses=lambda y: (y**2).sum())
    assert report.diagnosis is not None
    assert report.findings[-1].level == "the loss"
    assert "sum" in (report.diagnosis.cause or "")
    slower = partial(torch.optim.Adam, lr=1e-3)
    report = compared(losses=(None, names["loss"]), optimizers=(None, slower))
    assert report.findings[-1].level == LEVELS[5]
    assert "after step 1" in report.findings[-1].where
    assert report.diagnosis is not None
    assert "learning rate" in (report.diagnosis.cause or "")
    with pytest.raises(ParityError, match="FAILS"):
        assert_parity(in_jax.recording, None, names["make"](), losses=lambda y: 2 * names["loss"](y))


def test_what_was_recorded_and_is_not_compared_is_listed(in_torch: Recorded, in_jax: Recorded) -> None:
    report = assert_parity(in_jax.recording, None, in_torch.names["make"]())
    assert report.unexercised == ("the recorded loss and its gradients", "the recorded optimizer steps")


def test_a_live_module_of_the_recordings_own_framework_is_paired_by_names(in_torch: Recorded) -> None:
    names = in_torch.names
    report = assert_parity(in_torch.recording, None, names["make"](), losses=names["loss"])
    assert str(report).startswith("The two torch modules agree")
    assert "every layer" in [finding.level for finding in report.findings]


def test_state_after_a_call_in_training_is_compared(in_torch: Recorded, in_jax: Recorded, tmp_path) -> None:
    """Flax's running variance is that of the batch, torch's of the population."""
    images = in_torch.recording.arrays["inputs/inputs[0]"]
    made = record(in_torch.names["make"](), tmp_path / "training.safetensors", images, train=True)
    report = compare_modules(in_jax.names["make"](), None, made)
    assert report.findings[-1].level == "state after a training step"
    assert report.diagnosis is not None
    assert report.diagnosis.where == "norm.running_var"
    assert "variance" in (report.diagnosis.cause or "")
    again = assert_parity(made, None, in_torch.names["make"]())
    assert "state after a training step" in [finding.level for finding in again.findings]


def test_the_rounding_of_state_is_not_how_far_the_call_moves_it(tmp_path) -> None:
    norm = nnx.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))
    made = record(norm, tmp_path / "a.safetensors", np.random.default_rng(0).normal(size=(6, 3)), train=True)
    assert made.tensor("state/mean").floor.max() < 1e-12


def test_what_torchs_optimizer_leaves_alone_decays_in_jax(tmp_path) -> None:
    module = TorchNet(lambda net, x: net.a(x) + net.b(x).detach(), a=nn.Linear(8, 5), b=nn.Linear(8, 5))
    adamw, loss = partial(torch.optim.AdamW, lr=0.1), lambda y: (y**2).mean()
    made = record(module, tmp_path / "a.safetensors", ROWS, loss=loss, optimizer=adamw, steps=2)
    parts = {name: nnx.Linear(8, 5, rngs=nnx.Rngs(0)) for name in "ab"}
    net = JaxNet(lambda net, x: net.a(x) + jax.lax.stop_gradient(net.b(x)), **parts)
    optimizers = optax.adamw(0.1, weight_decay=0.01)
    report = compare_modules(net, None, made, losses=loss, optimizers=optimizers)
    assert report.diagnosis is not None
    assert report.diagnosis.where.startswith("b.")
    assert report.diagnosis.cause == SKIPPED


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32"])
def test_float32(in_torch: Recorded, in_jax: Recorded, tmp_path, dtype) -> None:
    names, path = in_torch.names, tmp_path / "single.safetensors"
    images = in_torch.recording.arrays["inputs/inputs[0]"]
    made = record(names["make"](), path, images, loss=names["loss"], optimizer=names["optimizer"], dtype=dtype)
    assert {array.dtype for array in made.arrays.values() if array.dtype.kind == "f"} <= {np.dtype("float32")}
    names = in_jax.names
    assert_parity(names["make"](), None, made, losses=names["loss"], optimizers=names["optimizer"])
    report = compare_modules(names["make"](), None, made, losses=names["loss"], optimizers=optax.adam(1.001e-2))
    assert not report.passed


def test_arguments_that_a_recording_decides_are_refused(in_torch: Recorded, in_jax: Recorded) -> None:
    model, made = in_jax.names["make"](), in_torch.recording
    cases = [
        ({"inputs": np.ones((4, 1, 8, 8))}, "inputs: they are those of the recording"),
        ({"train": True}, "train: .* was recorded with False, found True"),
        ({"steps": 7}, "steps: .* was recorded with 2, found 7"),
        ({"dtype": "float32"}, "dtype: .* was recorded with 'float64'"),
        ({"dtype": "bfloat16"}, "dtype: .* fewer bits are compared between two live models alone"),
        ({"weights": "compare"}, "weights: with a recording expected 'jax'"),
        ({"losses": (lambda y: y.sum(), lambda y: y.sum())}, "losses: the recording holds its own"),
        ({"mapping": {"conv/kernel": "head.weight"}}, "mapping: "),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            compare_modules(model, None, made, **options)
    plain = Recording.of({**made.about, "steps": 0, "order": made.names("inputs")}, made.arrays)
    with pytest.raises(InputError, match="recorded without a loss"):
        compare_modules(model, None, plain, losses=in_jax.names["loss"])


@pytest.mark.parametrize(
    ("name", "recorded"),
    quick([(name, side) for name in ("LSTM", "linears, fused in JAX") for side in ("torch", "jax")],
          [("linears, fused in JAX", "torch")]),
)  # fmt: skip
def test_one_array_for_several_is_arranged_as_between_live_models(tmp_path, name: str, recorded: str) -> None:
    model, params, module, x = pair(name)
    path, losses = tmp_path / "a.safetensors", LOSSES
    if recorded == "torch":
        made = record(module, path, x, loss=losses[1], draw=True)
        report = assert_parity(model, params, made, losses=losses[0])
    else:
        made = record(model, path, x, params=params, loss=losses[0], draw=True)
        report = assert_parity(made, None, module, losses=losses[1])
    assert report.findings[-1].level == "every gradient"
    if name == "LSTM" and recorded == "jax":
        other = record(_filled(module, model, params, x), tmp_path / "b.safetensors", x)
        plain = record(model, path, x, params=params)
        assert compare_recordings(plain, other).passed


def _filled(module: torch.nn.Module, model: Any, params: Any, x: np.ndarray) -> torch.nn.Module:
    """Return the torch LSTM with Flax's weights, its bias apart in two."""
    made = Recording.of(*_outline(model, params, x))
    pairing = across(made, made, None, (), module)
    weights = parts.arranged(made, pairing.arrangement, {}).part("weights")
    state = {one.name: torch.tensor(one.transform.to_torch(weights[one.path])) for one in pairing.arrangement.pairs}
    module = module.double()
    module.load_state_dict(state)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if "bias_hh" in name:
                other = dict(module.named_parameters())[name.replace("_hh", "_ih")]
                tensor += 0.25
                other -= 0.25
    return module


def _outline(model: Any, params: Any, x: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    mine = model_of(model, params, read(x, "float64"), Options())
    weights = {f"weights/{name}": array for name, array in mine.weights().items()}
    outline = mine.outline(calls=True)
    return {**outline, "order": list(weights), "shapes": {}, "unmoved": []}, weights


class TorchScaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


class FlaxScaled(nnx.Module):
    def __init__(self, factor: float = 1.0) -> None:
        self.head, self.factor = nnx.Linear(4, 3, rngs=nnx.Rngs(0)), factor

    def __call__(self, x: Any) -> Any:
        return self.head(self.factor * x)


def scaled(params: Any, x: Any) -> Any:
    return 2 * x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("model", ["torch", "flax", "function"])
def test_a_cause_has_the_file_of_the_live_models_code(tmp_path, model: str) -> None:
    x, code = np.random.default_rng(0).normal(size=(5, 4)), {"torch": "TorchScaled", "flax": "FlaxScaled"}.get(model)
    recorded = record(FlaxScaled(2.0) if model == "torch" else TorchScaled(), tmp_path / "a.safetensors", x)
    params = {"head": {"kernel": np.ones((4, 3)), "bias": np.ones(3)}} if model == "function" else None
    pair_of = {"torch": (recorded, None, TorchScaled()), "flax": (FlaxScaled(2.0), None, recorded)}
    report = compare_modules(*pair_of.get(model, (scaled, params, recorded)))
    mine, other = ("torch", "jax") if model == "torch" else ("jax", "torch")
    (cause,) = report.to_json()["causes"]
    side = cause["layer"][mine]
    assert (side["class"], Path(side["file"]).name) == (code or "scaled", "test_live.py")
    assert f"test_live.py:{side['line']}" in cause["sentence"]
    assert cause["layer"][other] is None or cause["layer"][other]["file"] is None
