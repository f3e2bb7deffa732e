"""Reports of modules and of runs: their tree, their causes for programs, their formats, and the script that repairs a
port by them."""

import ast
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests import RunsReport, Step, compare_modules, compare_runs
from parity_tests.harness import causes, findings, tree
from parity_tests.harness.findings import Diagnosis, Figure, Finding, Report
from parity_tests.harness.modules.hypotheses import (
    attention,
    backward,
    between_layers,
    branches,
    layers,
    loss,
    optimizer,
    positions,
    state,
)
from parity_tests.harness.vae.hypotheses.kinds import KINDS
from parity_tests.support.docs import ROOT, blocks, run_script
from parity_tests.support.reports.browser import launched
from parity_tests.support.reports.schema import validated
from parity_tests.support.warm import python

PAGE = ROOT / "scripts" / "docs" / "parity-reports.md"
IMAGES = np.random.default_rng(0).normal(size=(4, 1, 6, 6))
SQUARES = (lambda y: (y**2).mean(), lambda y: (y**2).mean())


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = TorchBlock(), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x).amax((2, 3)))


class FlaxBlock(nnx.Module):
    def __init__(self, padding: Any, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 2, (3, 3), strides=2, padding=padding, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.conv(x))


class FlaxNet(nnx.Module):
    def __init__(self, padding: Any, rngs: nnx.Rngs) -> None:
        self.block, self.head = FlaxBlock(padding, rngs), nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.block(x).max((1, 2)))


class LinenBlock(linen.Module):
    padding: Any

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.relu(linen.Conv(2, (3, 3), strides=2, padding=self.padding, name="conv")(x))


class LinenNet(linen.Module):
    padding: Any

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(3, name="head")(LinenBlock(self.padding, name="block")(x).max((1, 2)))


def compared(padding: Any, **options: Any) -> Report:
    torch.manual_seed(0)
    return compare_modules(
        FlaxNet(padding, nnx.Rngs(0)), None, TorchNet(), None, IMAGES, weights="torch", **{"losses": SQUARES, **options}
    )


def run(scale: float, steps: int = 4) -> Iterator[Step]:
    w = np.linspace(0.5, 1.5, 4)
    for _ in range(steps):
        gradient = scale * np.sin(w)
        w = w - 0.1 * gradient
        yield Step(loss=float((w**2).sum()), gradients={"out.w": gradient}, parameters={"out.w": w})


def torch_adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 1e-2)


@pytest.fixture(scope="module")
def reports() -> dict[str, Report | RunsReport]:
    sums = (lambda y: (y**2).sum(), SQUARES[1])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return {
            "wrong layer": compared("SAME"),
            "wrong layer, everything": compared("SAME", layers=True),
            "wrong loss": compared(1, losses=sums),
            "wrong optimizer": compared(1, optimizers=(optax.adam(1e-2, b2=0.99), torch_adam)),
            "right": compared(1, layers=True),
            "right, not layer by layer": compared(1, losses=None),
            "a function": compare_modules(
                lambda p, x: x @ p["w"] + 1, {"w": jnp.ones((3, 2))}, nn.Linear(3, 2, False), {"w": "weight"}, np.eye(3)
            ),
            "runs that part": compare_runs(lambda: run(1.0), lambda: run(2.0), steps=4),
            "runs that agree": compare_runs(lambda: run(1.0), lambda: run(1.0), steps=4),
        }


NAMES = (
    *("wrong layer", "wrong layer, everything", "wrong loss", "right", "right, not layer by layer", "a function"),
    *("wrong optimizer", "runs that part", "runs that agree"),
)


def nodes(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every node of a tree by its path of names, without the root's."""
    below = (nodes(child) for child in node["children"])
    return {"": node} | {
        f"{child['name']}.{path}".rstrip("."): inner
        for child, some in zip(node["children"], below, strict=True)
        for path, inner in some.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_report_is_of_the_schema_and_formats_agree(reports: dict[str, Any], name: str) -> None:
    report = reports[name]
    document = validated(report.to_json())
    assert document["passed"] == report.passed
    assert bool(document["causes"]) is (not report.passed)
    assert document["tree"]["status"] == ("agrees" if report.passed else "differs")
    page, text = report.to_html(), report.to_markdown()
    for cause in document["causes"]:
        assert cause["sentence"].startswith(cause["where"])
        assert cause["where"] in page
    end = "agree" if report.passed else "differ"
    title = f"The two runs {end}" if name.startswith("runs") else f"The JAX model and the torch module {end}"
    assert text.startswith(f"# {title}\n")
    assert f"<title>{title}</title>" in page
    assert not re.search(r"<script|https?://|@import", page)
    for reason in {figure["reason"] for node in nodes(document["tree"]).values() for figure in node["figures"]}:
        assert reason in text


def test_the_tree_shows_the_first_layer_that_differs(reports: dict[str, Any]) -> None:
    document = reports["wrong layer"].to_json()
    found = nodes(document["tree"])
    assert list(found) == ["", "block", "block.conv", "block.act", "head"]
    assert [name for name, node in found.items() if node["first"]] == ["", "block", "block.conv"]
    assert [node["status"] for node in found.values()] == ["differs", "differs", "differs", "unmeasured", "follows"]
    assert (found["block.conv"]["jax"], found["block.conv"]["torch"]) == ("block/conv", "block.conv")
    assert found["block.conv"]["class"] == "Conv2d"
    assert found["block.conv"]["causes"] == [0]
    (figure,) = found["head"]["figures"]
    assert (figure["of"], figure["direction"], figure["follows"]) == ("output", "forward", True)
    page = reports["wrong layer"].to_html()
    assert page.count("<details open>") == 3
    assert page.count("<details>") == 1


def test_with_layers_every_layer_and_gradient_is_measured(reports: dict[str, Any]) -> None:
    for name, right in (("right", True), ("wrong layer, everything", False)):
        found = nodes(reports[name].to_json()["tree"])
        for layer in ("block.conv", "head"):
            of = [(figure["direction"], figure["of"]) for figure in found[layer]["figures"]]
            assert of == [("forward", "output"), ("backward", "weight"), ("backward", "bias")]
            assert all(figure["passed"] for figure in found[layer]["figures"]) is right
            assert found[layer]["status"] == ("agrees" if right else "differs" if layer == "block.conv" else "follows")
    gradients = nodes(reports["right"].to_json()["tree"])["head"]["figures"][1:]
    assert all(figure["tolerance"] > 60 and figure["reason"] for figure in gradients)


def test_layers_that_were_not_compared_are_not_said_to_agree(reports: dict[str, Any]) -> None:
    found = nodes(reports["right, not layer by layer"].to_json()["tree"])
    assert {node["status"] for name, node in found.items() if name} == {"unmeasured"}


def test_a_cause_names_file_layer_expected_found_and_remedy(reports: dict[str, Any]) -> None:
    (cause,) = reports["wrong layer"].to_json()["causes"]
    assert (cause["kind"], cause["where"]) == ("padding", "block.conv")
    assert (cause["expected"], cause["found"]) == ([1, 1], [[0, 1], [0, 1]])
    lines = Path(__file__).read_text().splitlines()
    for framework, name, owner in (("jax", "block/conv", "FlaxBlock"), ("torch", "block.conv", "TorchBlock")):
        layer = cause["layer"][framework]
        assert (layer["name"], layer["class"]) == (name, owner)
        assert Path(layer["file"]).name == "test_reports.py"
        assert lines[layer["line"] - 1].startswith(f"class {owner}")
        assert f"{layer['file']}:{layer['line']} {owner}" in cause["sentence"]
    assert "expected [1, 1], found [[0, 1], [0, 1]]; to repair it, set the Flax layer's padding" in cause["sentence"]
    (cause,) = reports["wrong loss"].to_json()["causes"]
    assert (cause["kind"], cause["expected"], cause["found"]) == ("loss-reduction", "mean", "sum")
    assert Path(cause["layer"]["jax"]["file"]).name == "test_reports.py"


def test_from_the_same_gradients_the_optimizer_is_to_be_repaired_and_no_layer(reports: dict[str, Any]) -> None:
    document = reports["wrong optimizer"].to_json()
    (cause,) = document["causes"]
    assert (cause["kind"], cause["expected"][1]) == ("betas", 0.999)
    ours, theirs = cause["layer"]["jax"], cause["layer"]["torch"]
    assert ours == {"name": "", "class": None, "file": None, "line": None}  # optax's own
    assert (theirs["name"], theirs["class"], Path(theirs["file"]).name) == ("", "torch_adam", "test_reports.py")
    assert document["tree"]["causes"] == [0]
    assert not any(child["causes"] or child["first"] for child in document["tree"]["children"])
    assert "<dt>JAX</dt>" not in reports["wrong optimizer"].to_html()


def test_the_owner_of_a_linen_layer_is_found() -> None:
    net = LinenNet("SAME")
    variables = net.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
    report = compare_modules(net, variables, TorchNet(), None, IMAGES)
    layer = report.to_json()["causes"][0]["layer"]["jax"]
    assert (layer["name"], layer["class"]) == ("block/conv", "LinenBlock")


def test_what_is_unknown_is_null(reports: dict[str, Any]) -> None:
    (cause,) = reports["a function"].to_json()["causes"]
    assert {cause[name] for name in ("kind", "cause", "expected", "found", "remedy")} == {None}
    assert "no known fault reproduces these numbers" in cause["sentence"]


def test_the_tree_of_runs_is_by_quantity_and_name(reports: dict[str, Any]) -> None:
    document = reports["runs that part"].to_json()
    assert (document["step"], document["quantity"]) == (0, "loss")
    found = nodes(document["tree"])
    assert [name for name, node in found.items() if node["first"]] == ["", "loss"]
    assert found["gradients.out"]["status"] == found["parameters.out"]["status"] == "follows"
    assert found["gradients.out"]["figures"][0]["direction"] == "backward"
    agreeing = nodes(reports["runs that agree"].to_json()["tree"])
    assert {node["status"] for node in agreeing.values()} == {"agrees"}


def test_alternatives_are_marked_and_joined_causes_are_apart() -> None:
    one, other = loss.HALF.saying("a", 0.5, 1.0), loss.SUM_FOR_MEAN.saying("b", "sum", "mean")
    finding = Finding("the loss", "float64", 1.0, "the loss", 0.0, "", "")
    for by, alternative in ((" or ", True), ("; ", False)):
        cause = causes.joined([one, other], by)
        assert cause == f"a{by}b"
        report = Report({}, (finding,), diagnosis=Diagnosis("the loss", "It differs.", cause))
        entries = validated(report.to_json())["causes"]
        assert [entry["kind"] for entry in entries] == ["loss-halved", "loss-reduction"]
        assert {entry["alternative"] for entry in entries} == {alternative}


def test_a_cause_of_torchs_own_layer_claims_nothing_of_jax() -> None:
    cause = layers.EPS.of(1e-3, 1e-5).at_torch()
    assert cause.endswith("in PyTorch")
    assert (cause.kind, cause.found, cause.expected, cause.advice) == ("norm-epsilon", None, None, None)


def test_the_worst_of_a_branch_shows_above_it() -> None:
    good = Figure("output", "forward", "float64", 0.0, 1.0, "", "")
    bad = good._replace(size=np.inf)
    entries = {("a", "b"): tree.Entry((good,)), ("a", "c"): tree.Entry((bad._replace(follows=True),))}
    assert tree.grown("all", entries).children[0].status == "follows"
    entries |= {("a", "d"): tree.Entry((bad,))}
    whole = tree.grown("all", entries, first=("a", "d"), passed=False)
    assert (whole.status, whole.children[0].status) == ("differs", "differs")
    assert [child.first for child in whole.children[0].children] == [False, False, True]
    assert tree.grown("all", {("a",): tree.Entry()}).status == "agrees"


KNOWN = (attention, backward, between_layers, branches, layers, loss, optimizer, positions, state)


def test_every_known_fault_has_a_kind_and_a_remedy() -> None:
    found = {f"{m.__name__}.{n}": c for m in KNOWN for n, c in vars(m).items() if isinstance(c, causes.Cause)}
    assert len(found) > 70
    for name, cause in found.items():
        assert cause.kind, name
        assert cause.advice, name
        assert re.fullmatch(r"[a-z0-9-]+", cause.kind), name


def kinds_in_code() -> Iterator[str]:
    yield from KINDS
    harness = Path(findings.__file__).parent
    files = itertools.chain(*((harness / folder).glob("*.py") for folder in ("modules/hypotheses", "loops/causes")))
    for node in itertools.chain(*(ast.walk(ast.parse(file.read_text())) for file in files)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Cause" and len(node.args) > 1:
            yield from (n.value for n in ast.walk(node.args[1]) if isinstance(n, ast.Constant))  # type: ignore[misc]


def test_the_page_lists_every_kind() -> None:
    listed = re.findall(r"`([a-z0-9-]+)`", PAGE.read_text().partition("| where | kinds |")[2])
    assert len(listed) == len(set(listed))
    assert set(listed) == set(kinds_in_code())


@pytest.mark.parametrize("name", ["wrong layer", "runs that part"])
def test_a_report_is_saved_by_its_suffix(reports: dict[str, Any], name: str, tmp_path: Path) -> None:
    report = reports[name]
    for suffix, content in ((".json", None), (".md", report.to_markdown()), (".HTML", report.to_html())):
        report.save(str(tmp_path / f"a{suffix}"))
        written = (tmp_path / f"a{suffix}").read_text()
        assert written == content if content is not None else json.loads(written) == report.to_json()
    with pytest.raises(InputError, match=r"ends in \.txt, expected one of \.json, \.md, \.html\."):
        report.save(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"the folder .* doesn't exist; choose another path"):
        report.save(tmp_path / "none" / "a.html")
    with pytest.raises(InputError, match="must be a path, found 3"):
        report.save(3)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.md", "a.HTML"}


def test_the_script_repairs_the_guides_six_mistakes_by_json_alone(capsys, tmp_path: Path) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert run_script("examples/repair_a_port.py", "--reports", tmp_path) == 0
    printed = capsys.readouterr().out
    assert printed.count("repair: ") == 6
    assert printed in [block.content for block in blocks(PAGE.read_text()) if block.language == "text"]
    rounds = [json.loads((tmp_path / f"round-{i}.json").read_text()) for i in (1, 2, 3, 4)]
    assert [document["passed"] for document in map(validated, rounds)] == [False, False, False, True]
    assert all((tmp_path / f"round-{i}.html").exists() for i in (1, 2, 3, 4))


UNREPAIRED = """
import json, runpy
example = runpy.run_path({path!r})
document = {{"passed": False, "findings": [{{"level": "every output", "passed": False}}], "causes": {causes}}}
scope = example["main"].__globals__
scope["compared"] = lambda *_: document
print("status", scope["main"](scope["Repair"]()))
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], "Nothing was changed"),
        ([{"kind": None}], "There is no repair: It."),
        ([{"kind": "padding", "expected": None}], "There is no repair: It."),
        ([{"kind": "padding", "expected": "SAME"}], "Nothing was changed"),
    ],
)
def test_the_script_ends_where_it_can_do_no_more(changes: list[dict[str, Any]], said: str, capsys) -> None:
    usual = {"where": "a", "kind": "padding", "expected": 1, "found": 2, "alternative": False, "sentence": "It."}
    made = [{**usual, **change} for change in changes]
    path = str(ROOT / "scripts" / "examples" / "repair_a_port.py")
    exec(UNREPAIRED.format(path=path, causes=made), {})
    printed = capsys.readouterr().out
    assert said in printed
    assert "status 1" in printed


TESTS = """
import numpy as np, torch
PARAMS = {"kernel": np.ones((3, 2)), "bias": np.ones(2)}
def port(params, x): return x @ params["kernel"] + params["bias"]
def test_right(assert_parity): assert_parity(port, PARAMS, torch.nn.Linear(3, 2), None, np.eye(3))
def wrong(params, x): return port(params, x) + 1
def test_wrong(assert_parity): assert_parity(wrong, PARAMS, torch.nn.Linear(3, 2), None, np.eye(3))
def test_other(): assert False
"""


def test_pytest_keeps_the_reports_of_what_fails(tmp_path: Path) -> None:
    (tmp_path / "test_port.py").write_text(TESTS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    options = ["-q", "-p", "parity_tests.plugin", "test_port.py", "--parity-reports"]
    result = python("-m", "pytest", *options, "kept/reports", cwd=tmp_path, env=env)
    assert "2 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    kept = tmp_path / "kept" / "reports"
    assert {path.name for path in kept.iterdir()} == {f"test_port.py-test_wrong.{end}" for end in ("html", "json")}
    assert str(kept / "test_port.py-test_wrong.html") in result.stdout
    validated(json.loads((kept / "test_port.py-test_wrong.json").read_text()))
    (tmp_path / "file").touch()
    result = python("-m", "pytest", *options, "file", cwd=tmp_path, env=env)
    assert "--parity-reports: the folder file can't be made (File exists); give another one." in result.stderr


browser = pytest.fixture(scope="module")(launched)


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("name", ["wrong layer, everything", "runs that part"])
def test_the_page_fits_and_shows_the_first_difference(
    reports: dict[str, Any], browser: Any, name: str, width: int, tmp_path: Path
) -> None:
    reports[name].save(tmp_path / "a.html")
    colours = []
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto((tmp_path / "a.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.get_by_text("the first difference").is_visible()
        assert page.evaluate("[...document.querySelectorAll('details')].filter(d => !d.open).length") > 0
        style = "getComputedStyle(document.querySelector('.tree .differs')).color"
        colours.append(page.evaluate(style))
        page.close()
    assert colours[0] != colours[1]
