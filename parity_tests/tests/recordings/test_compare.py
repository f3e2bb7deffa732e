"""Two recordings are compared, by the function and by the command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests import compare_modules, compare_recordings, record
from parity_tests.harness.recordings import Recording
from parity_tests.harness.recordings.arrays import places
from parity_tests.harness.vae import command
from parity_tests.support.small_nets import JaxNet, TorchNet
from parity_tests.tests.recordings.conftest import Recorded

MAPPING = [["(.*)/(kernel|scale)", "\\1.weight"], ["(.*)/bias", "\\1.bias"], ["(.*)/(mean|var)", "\\1.running_\\2"]]
X = np.random.default_rng(0).normal(size=(6, 4))


def parity(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command `parity`, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["parity", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        command.run()
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def ported(in_torch: Recorded, in_jax: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of the torch module with Flax's weights, copied by hand."""
    names, path = in_torch.names, tmp_path_factory.mktemp("ported") / "torch.safetensors"
    weights, module = in_jax.recording.part("weights"), names["make"]()
    state = {"conv.weight": weights["conv/kernel"].transpose(3, 2, 0, 1), "head.weight": weights["head/kernel"].T}
    state |= {"norm.weight": weights["norm/scale"], "norm.running_mean": weights["norm/mean"]}
    state |= {f"{layer}.bias": weights[f"{layer}/bias"] for layer in ("conv", "norm", "head")}
    state |= {"norm.running_var": weights["norm/var"], "norm.num_batches_tracked": np.array(0)}
    module.double().load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    images = in_torch.recording.arrays["inputs/inputs[0]"]
    record(module, path, images, loss=names["loss"], optimizer=names["optimizer"], steps=2)
    return path


def test_the_command_compares_two_recordings_in_either_order(
    in_jax: Recorded, ported: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "mapping.json").write_text(json.dumps(MAPPING))
    written = {kind: tmp_path / f"report.{kind}" for kind in ("json", "markdown", "junit", "html")}
    flags = [word for kind, path in written.items() for word in (f"--{kind}", path)]
    assert parity("compare", in_jax.path, ported, *flags, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.startswith("The JAX model and the torch module agree.")
    assert "optimizer moments after each of 2 steps" in out
    content = json.loads(written["json"].read_text())
    assert content["passed"] is True
    assert content["about"]["torch"]["from"] == str(ported)
    assert len(ElementTree.parse(written["junit"]).findall(".//testcase")) == 7
    assert "every gradient" in written["html"].read_text()
    assert "every gradient" in written["markdown"].read_text()
    mapped = ("--mapping", tmp_path / "mapping.json")
    assert parity("compare", ported, in_jax.path, *mapped, monkeypatch=monkeypatch) == 0


def test_a_weight_that_was_ported_wrongly_by_hand_is_explained(in_jax: Recorded, ported: Path) -> None:
    made = Recording(ported)
    made.arrays["weights/conv.weight"] = np.flip(made.arrays["weights/conv.weight"], (2, 3)).copy()
    report = compare_recordings(in_jax.recording, made)
    assert report.diagnosis is not None
    assert report.diagnosis.where == "conv.weight"
    assert report.diagnosis.cause is not None


def test_the_command_says_what_differs_or_why_not(in_jax: Recorded, in_torch, tmp_path, monkeypatch, capsys) -> None:
    assert parity("compare", in_jax.path, in_torch.path, monkeypatch=monkeypatch) == 1
    assert "every weight" in capsys.readouterr().out
    (tmp_path / "m.json").write_text('{"conv/kernel": "none.weight"}')
    for arguments, message in (
        ((in_jax.path, tmp_path / "nothing"), "expected a recording, found nothing"),
        ((in_jax.path, in_torch.path, "--mapping", tmp_path / "m.json"), "but the torch module has only"),
        ((in_jax.path, in_torch.path, "--mapping", in_jax.path), "can't be read as JSON"),
        ((in_jax.path, in_torch.path, "--json", tmp_path), "it is a folder"),
        ((in_jax.path,), "B"),
    ):
        assert parity("compare", *arguments, monkeypatch=monkeypatch) == 2
        out, err = capsys.readouterr()
        assert not out
        assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3", "holds no mapping"),
        ('{"a": 1}', "expected a name"),
        ('[["a"]]', "expected a rule"),
        ('{"a": ["b", "upside-down"]}', "expected a transform"),
        ('{"a": ["b", {"flattened": {"rows": [1]}}]}', "expected a transform"),
        ('{"a": [["b", "c"], "transposed"]}', "expected a name"),
        ('{"a": [["b", "c"], {"stacked": {"axis": "0"}}]}', "expected a transform"),
    ],
)
def test_an_invalid_mapping_file(tmp_path: Path, content: str, message: str) -> None:
    from parity_tests.harness.recordings.comparing import mapping_file

    (tmp_path / "m.json").write_text(content)
    with pytest.raises(InputError, match=message):
        mapping_file.read(tmp_path / "m.json")
    (tmp_path / "m.json").write_text('{"a": ["b", "transposed"], "c": ["d", {"flattened": {"rows": [2, 3, 4]}}]}')
    assert [target[0] for target in mapping_file.read(tmp_path / "m.json").values()] == ["b", "d"]


def test_a_mapping_file_has_joints(tmp_path: Path) -> None:
    from parity_tests.harness.modules.mapping import arrange
    from parity_tests.harness.recordings.comparing import mapping_file

    net = nn.ModuleDict({name: nn.Linear(3, 2) for name in ("a", "b")})
    rules = [
        ["both/kernel", ["a.weight", "b.weight"], {"concatenated": {}}],
        ["both/bias", ["a.bias", "b.bias"], {"stacked": {"axis": 0}}],
    ]
    for content in (rules, {path: rest for path, *rest in rules}):
        (tmp_path / "m.json").write_text(json.dumps(content))
        found = arrange({"both/kernel": (3, 4), "both/bias": (2, 2)}, net, mapping_file.read(tmp_path / "m.json"))
        assert [pair.name for pair in found.pairs] == ["a.weight", "a.bias", "b.weight", "b.bias"]


class Net(nn.Module):
    def __init__(self, hidden: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, hidden), nn.Linear(hidden, 2)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x).tanh())


def made(path: Path, module: Any = None, x: Any = X, **options: Any) -> Recording:
    return record(module or Net(), path / f"{len(list(path.iterdir()))}.safetensors", x, **options)


def test_an_input_that_differs_is_named(tmp_path: Path) -> None:
    other = X.copy()
    other[2, 1] += 1e-9
    report = compare_recordings(made(tmp_path), made(tmp_path, x=other))
    assert [(f.level, f.where) for f in report.findings] == [("every input", "inputs[0]")]
    assert report.diagnosis is not None
    assert "at [2, 1]" in report.diagnosis.difference


def test_recordings_that_were_made_otherwise_are_refused(tmp_path: Path) -> None:
    loss, sgd = torch.sum, lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    plain = made(tmp_path)
    for options, message in (
        ({"dtype": "float32"}, "have not the same dtype: float64 and float32"),
        ({"train": True}, "have not the same mode"),
        ({"loss": loss}, "has a loss and .* has none"),
        ({"sample": 3}, "have not the same sample"),
        ({"x": (X, X)}, "has 1 inputs .* 2"),
        ({"module": Net(5)}, None),
        ({"module": nn.Linear(4, 2)}, "has weights that .* has not: 'first.weight'"),
    ):
        if options.get("x") is not None:
            options = {"module": nn.Bilinear(4, 4, 2), **options}
            message = "has weights that"
        if message is None:
            report = compare_recordings(plain, made(tmp_path, **options))
            assert report.diagnosis is not None
            assert "its shape is [3, 4]" in report.diagnosis.difference
            continue
        with pytest.raises(InputError, match=message):
            compare_recordings(plain, made(tmp_path, **options))
    some = [made(tmp_path, loss=loss, optimizer=sgd, steps=n) for n in (1, 2)]
    with pytest.raises(InputError, match="have not the same number of steps: 1 and 2"):
        compare_recordings(*some)
    with pytest.raises(InputError, match="mapping: both recordings are of PyTorch"):
        compare_recordings(plain, plain, {})


def test_weights_without_a_counterpart_are_refused_or_ignored(in_jax: Recorded, tmp_path: Path) -> None:
    images, loss = np.ones((4, 8, 8, 1)), lambda y: y.mean()
    options = {"x": images, "loss": loss, "optimizer": torch.optim.Adam, "steps": 2}
    with pytest.raises(InputError, match="no torch tensor is paired with"):
        compare_recordings(in_jax.recording, made(tmp_path, nn.Linear(1, 2), **options))
    wider = made(tmp_path, type("Wider", (Net,), {"extra": None})())
    wider.about["order"].insert(0, "weights/extra")
    wider.arrays["weights/extra"] = np.ones(2)
    with pytest.raises(InputError, match="'extra'"):
        compare_recordings(made(tmp_path), wider)
    assert compare_recordings(made(tmp_path), wider, ignore=["extra"]).unexercised == ("extra",)


def test_a_sample_bounds_the_file_and_still_tells(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(64, 4))
    options = {"x": x, "loss": lambda y: (y**2).mean(), "sample": 8, "layers": ["first"]}
    one = made(tmp_path, Net(30), **options)
    kept = {name: array.size for name, array in one.arrays.items() if not name.startswith(("inputs", "weights"))}
    assert max(kept.values()) <= 8
    assert one.about["shapes"]["layers/first/output"] == [64, 30]
    assert not any(name.startswith("layers/second") for name in one.arrays)
    assert compare_recordings(one, made(tmp_path, Net(30), **options)).passed

    class First(Net):
        def forward(self, x: Any) -> Any:
            y = super().forward(x).clone()
            y.view(-1)[held] = y.view(-1)[held] + 1e-3
            return y

    held = places((64, 2), 8, 0)
    assert held is not None
    report = compare_recordings(one, made(tmp_path, First(30), **options))
    assert report.diagnosis is not None
    text = re.search(r"at \[(\d+), (\d+)\]", report.diagnosis.difference)
    assert text is not None
    assert 2 * int(text[1]) + int(text[2]) in held

    class Late(Net):
        def forward(self, x: Any) -> Any:
            y = super().forward(x).clone()
            y[50, 1] = y[50, 1] + 1e-3  # an entry that is not kept
            return y

    assert 101 not in held
    report = compare_recordings(one, made(tmp_path, Late(30), **options))
    assert report.findings[-1].level == "every output: up to 8 entries of each, and sums"
    assert report.findings[-1].where == "output, the sums of all its entries"

    class Swapped(Net):
        def forward(self, x: Any) -> Any:
            rows = np.arange(64)
            rows[others] = others[::-1]  # rows of which nothing is kept
            return super().forward(x)[rows]

    others = [row for row in range(64) if not {2 * row, 2 * row + 1} & {*held}][:2]
    report = compare_recordings(one, made(tmp_path, Swapped(30), **options))
    assert report.findings[-1].where == "output, the sums of all its entries"


@pytest.mark.parametrize(("shape", "most"), [((4, 5, 6), 30), ((7,), 3), ((1, 9), 4), ((100, 2, 2), 7)])
def test_the_entries_that_are_kept_follow_the_order_of_axes(shape: tuple[int, ...], most: int) -> None:
    held = places(shape, most, 3)
    assert held is not None
    assert 0 < len(held) <= most
    ids = np.arange(np.prod(shape)).reshape(shape)
    turned = places(shape[::-1], most, 3)
    assert turned is not None
    assert set(ids.T.reshape(-1)[turned]) == set(held)
    assert places(shape, int(np.prod(shape)), 3) is None


def test_a_reader_may_stop(in_jax: Recorded) -> None:
    program = "import sys; sys.argv[0] = 'parity'; from parity_tests.harness.vae.command import run; run()"
    command = [sys.executable, "-c", program, "compare", str(in_jax.path), str(in_jax.path)]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


class Layers(nn.Module):
    """Layers of the same numbers, as copies are, or a tied one, called in some order."""

    def __init__(self, *order: int, tied: bool = False):
        super().__init__()
        self.layers, self.order = nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), order
        for layer in self.layers:
            layer.weight.data = torch.arange(16.0).sin().reshape(4, 4)  # type: ignore[union-attr]
            layer.bias.data = torch.arange(4.0).sin()  # type: ignore[union-attr]
        if tied:
            self.layers[1] = self.layers[0]

    def forward(self, x: Any) -> Any:
        for i in self.order:
            x = torch.tanh(self.layers[i](x))
        return x


def test_layers_of_the_same_numbers_are_listed(tmp_path: Path) -> None:
    every = (Layers(0, 1), Layers(1, 0), Layers(0, 1, tied=True))
    one, other, tied = (record(layers, tmp_path / "a.safetensors", X, layers=[]) for layers in every)
    listed = tuple(f"layers.1.{name} (the same numbers as layers.0.{name})" for name in ("weight", "bias"))
    assert compare_recordings(one, other).unexercised == listed
    assert not compare_recordings(tied, tied).unexercised


def test_rows_of_a_tensor_are_called_as_between_live_models(tmp_path: Path) -> None:
    attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
    net = JaxNet(lambda net, x: net.attention(x), attention=attention)
    module = TorchNet(lambda net, x: net.attention(x, x, x)[0], attention=nn.MultiheadAttention(8, 2, batch_first=True))
    x = np.random.default_rng(0).normal(size=(2, 3, 8))
    made = [record(model, tmp_path / f"{i}.safetensors", x) for i, model in enumerate((net, module))]
    for report in (compare_recordings(*made), compare_modules(net, None, module, None, x, weights="compare")):
        assert report.findings[-1].where == "attention.in_proj_weight[0:8]"
