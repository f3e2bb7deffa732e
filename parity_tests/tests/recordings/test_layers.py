"""The layers of recordings: the tree of a report, and gradients that are walked back to a layer."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen
from torch.utils.checkpoint import checkpoint

from parity_tests import compare_modules, compare_recordings, record
from parity_tests.harness.findings import Report
from parity_tests.harness.formats.page import to_html
from parity_tests.harness.modules.common.way_back import stops
from parity_tests.harness.recordings.arguments import read
from parity_tests.harness.recordings.model import Options
from parity_tests.harness.recordings.recorder import model_of
from parity_tests.support.reports.schema import validated
from parity_tests.tests.recordings.conftest import Recorded


class Stopped:
    """No gradient comes back to the norm."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm(self.conv(x))).detach()
        return self.head(x.flatten(1))


class Frozen:
    def __init__(self: Any) -> None:
        super().__init__()
        self.norm.bias.requires_grad_(False)


class Circular:
    def __init__(self: Any) -> None:
        super().__init__()
        self.conv.padding_mode = "circular"


def nodes(report: Report) -> dict[str, dict[str, Any]]:
    """Return the modules of a report's tree, by dotted names, as JSON has them."""
    document = validated(report.to_json())
    found = {"": document["tree"]}
    for name, node in list(found.items()):
        found |= {f"{name}.{child['name']}".lstrip("."): child for child in node["children"]}
    return found


def wrong(recorded: Recorded, change: type) -> torch.nn.Module:
    torch.manual_seed(0)
    return type("Wrong", (change, recorded.names["Net"]), {})()


def against(recorded: str, change: type, in_torch: Recorded, in_jax: Recorded, path: Path, **options: Any) -> Report:
    """Compare a torch module that is changed with a recording of JAX, or both in recordings of torch."""
    loss = in_torch.names["loss"]
    if recorded == "jax":
        return compare_modules(in_jax.recording, None, wrong(in_torch, change), losses=loss)
    images = in_jax.recording.arrays["inputs/inputs[0]"].transpose(0, 3, 1, 2)
    modules = in_torch.names["make"](), wrong(in_torch, change)
    made = [record(one, path / f"{i}.safetensors", images, loss=loss, **options) for i, one in enumerate(modules)]
    return compare_recordings(*made)


@pytest.mark.parametrize("recorded", ["jax", "torch"])
def test_the_tree_shows_every_layer_forward_and_backward(recorded: str, in_torch, in_jax, tmp_path) -> None:
    report = against(recorded, Circular, in_torch, in_jax, tmp_path)
    found = nodes(report)
    assert {name: node["status"] for name, node in found.items() if name} == {
        "conv": "differs",
        "norm": "follows",
        "head": "follows",
    }
    assert [name for name, node in found.items() if node["first"]] == ["", "conv"]
    assert found["conv"]["causes"] == [0]
    assert [(one["direction"], one["of"]) for one in found["norm"]["figures"]] == [
        ("forward", "output"),
        *(("backward", name) for name in ("gradient of the output", "weight", "bias")),
    ]
    assert '<details open><summary><span class="differs">✗ conv' in to_html(report.to_json())


@pytest.mark.parametrize("recorded", ["jax", "torch"])
@pytest.mark.parametrize(
    ("change", "where", "layer", "follow"),
    [(Stopped, "backward between norm and head", "norm", "conv"), (Frozen, "backward in norm", "norm", None)],
)  # fmt: skip
def test_a_gradient_is_walked_back_to_a_layer(
    recorded: str, change: type, where: str, layer: str, follow: str | None, in_torch, in_jax, tmp_path
) -> None:
    report = against(recorded, change, in_torch, in_jax, tmp_path)
    assert report.findings[-1].level == "every gradient"
    assert report.diagnosis is not None
    assert report.diagnosis.where == where
    assert (report.diagnosis.cause is not None) == (recorded == "jax")
    statuses = {name: node["status"] for name, node in nodes(report).items() if name}
    others = {name: "follows" if name == follow else "agrees" for name in ("conv", "norm", "head")}
    assert statuses == others | {layer: "differs"}


def test_a_gradient_is_walked_back_among_some_entries_of_some_layers(in_torch, in_jax, tmp_path) -> None:
    options = {"sample": 10, "layers": ["norm", "head"]}
    report = against("torch", Stopped, in_torch, in_jax, tmp_path, **options)
    assert report.diagnosis is not None
    assert report.diagnosis.where == "backward between norm and head"
    found = {name: node["status"] for name, node in nodes(report).items() if name}
    assert found == {"conv": "follows", "norm": "differs", "head": "agrees"}


def test_two_models_that_agree_have_a_tree_too(in_torch: Recorded, in_jax: Recorded) -> None:
    for report in (
        compare_modules(in_jax.recording, None, in_torch.names["make"](), losses=in_torch.names["loss"]),
        compare_recordings(in_jax.recording, in_jax.recording),
        compare_recordings(in_torch.recording, in_torch.recording),
    ):
        assert {node["status"] for node in nodes(report).values()} == {"agrees"}
    assert "conv" in report.to_markdown()


class Checkpointed(torch.nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.inner, self.reentrant = (
            torch.nn.Embedding(9, 4, sparse=reentrant),
            torch.nn.Linear(4, 2),
            reentrant,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.table(x)
        return checkpoint(self.inner, x, use_reentrant=True) if self.reentrant else self.inner(x)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_what_a_checkpoint_hides_from_the_hooks_is_no_difference(tmp_path: Path) -> None:
    """Nor is a gradient that is sparse in one."""
    ids = np.arange(9).reshape(3, 3)
    made = [
        record(Checkpointed(one), tmp_path / f"{one}.safetensors", ids, loss=lambda y: (y**2).mean())
        for one in (False, True)
    ]
    assert "backward/inner/output" not in made[1].arrays
    report = compare_recordings(*made)
    assert report.passed, report
    assert {node["status"] for node in nodes(report).values()} == {"agrees"}


class Step(linen.Module):
    @linen.compact
    def __call__(self, x: Any, _: None) -> tuple[Any, None]:
        return linen.Dense(3, name="dense")(x), None


class Scanned(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        scan = linen.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return scan(name="layers")(x, None)[0]


def test_the_turns_of_linens_scan_are_numbered_from_the_first() -> None:
    x = np.ones((2, 3))
    variables = Scanned().init(jax.random.key(0), x)
    outline = model_of(Scanned(), variables, read(x, "float64"), Options()).outline(calls=True)
    assert outline["calls"] == ["layers.dense", "layers", "layers.dense#2", "layers#2", ""]


def test_gradients_come_back_in_order() -> None:
    """A block's input and what it holds itself are known only after the layers within it."""
    calls = ["a", "block.b", "block.c", "block", "c", "block.b#2", "block#2", ""]
    owners = {"scale": [""], "block.scale": ["block"], "c.weight": ["c"], "tied": ["a", "c"]}
    names = [f"{stop.kind[0]} {stop.name}" for stop in stops(calls, owners)]
    assert names == [
        *("o ", "o block#2", "o block.b#2", "i block.b#2", "i block#2", "o c", "i c", "p c.weight"),
        *("o block", "o block.c", "i block.c", "o block.b", "i block.b", "i block", "p block.scale"),
        *("o a", "i a", "i ", "p tied", "p scale"),
    ]
