"""What a report is made of: the command that reproduces a run, its measures and agreement, validated on read, and a
page that is the same each time. What the page does in a browser is test_report_page.py's."""

import base64
import functools
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.analysis import latents
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands import report as report_command
from jaxvae.shared.config.fields import written
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.plotting import svg_charts
from jaxvae.shared.report import explorer, neighbours
from jaxvae.shared.runs import command_line, parity_record, run_folder
from jaxvae.shared.runs.parity_record import Agreement, Level
from parity_tests.harness.report import Report, to_html
from parity_tests.harness.vae import command, prove, torch_backend
from parity_tests.support import backends
from parity_tests.support.external_models import torch_model

pytestmark = pytest.mark.either

ROOT = Path(__file__).parents[3]
PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
QUICK = "--data digits --resize --image 6 5 1 --max-steps 12 --epochs 2 --batch-size 250 --hidden 5 --latent 2"
LEVELS = (
    Level("every gradient", "float64", 3e-16, 1e-12, "of the tensor's largest", True),
    Level("every gradient", "float32", 4e-07, 5e-06, "of the tensor's largest", True),
    Level("the run's weights", "float64", 2.5e-13, 1e-10, "of the tensor's largest", True),
)


_lean = pytest.fixture(scope="module", autouse=True)(backends.lean)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reporting") / "run"
    assert cli.main(torchvae, ["train", *QUICK.split(), "--log-every", "5", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def report(package, capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = cli.main(package, ["report", *map(str, arguments)])
    jax.config.update("jax_enable_x64", False)
    return status, *capsys.readouterr()


def page(capsys, run: Path, package=torchvae) -> str:
    status, _, err = report(package, capsys, run, "--out", run.parent / "report.html")
    assert (status, err) == (0, "")
    return (run.parent / "report.html").read_text()


def text(html: str) -> str:
    """The page's text, without its script and style, each run of spaces as one."""
    results: list[str] = []
    parser = HTMLParser()
    parser.handle_data = results.append  # type: ignore[method-assign]
    parser.feed(re.sub(r"<(script|style|template)\b.*?</\1>", "", html, flags=re.S))
    return " ".join(" ".join(results).split())


@pytest.mark.parametrize("package", PACKAGES.values(), ids=list(PACKAGES))
def test_the_same_run_is_the_same_page(package, capsys, run) -> None:
    once = page(capsys, run, package)
    assert page(capsys, run, package) == once
    assert once.startswith("<!DOCTYPE html>")
    shown = text(once)
    for words in ("2 latents", "kl", "nats per image", "Model", "Bernoulli from logits", "Learning curves"):
        assert words in shown
    assert not re.search(r"https?://|@import|url\(", once)


@pytest.mark.slow
def test_the_page_of_a_whole_model_on_mnist_stays_moderate(capsys, mnist_root, tmp_path) -> None:
    flags = f"--data mnist --data-root {mnist_root} --max-steps 1 --out {tmp_path / 'run'}"
    assert cli.main(torchvae, ["train", *flags.split()]) == 0
    assert 1.7e6 < len(page(capsys, tmp_path / "run")) < 4e6  # 322,784 weights alone are 1.7 MB as base64


COMMANDS = {
    **PRESETS,
    "everything": Spec(
        "npy:/some where/it's",
        ModelSpec((6, 5, 3), (), 1, likelihood="gaussian", variance=0.1, output="linear", init="glorot"),
        ObjectiveSpec(0.1 + 0.2, samples=3, warmup=7),
        TrainingSpec(3, 17, 1, 1e-05, 2**64 - 1, "float64", 0.1, 0.2, 3e-9, decay=0.5),
        ImagesSpec("signed", "threshold", "gaussian", 0.25, 11, True),
    ),
    "nothing": replace(PRESETS["adversarial"], images=ImagesSpec(resize=True)),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("preset", "log_every"), [("iwae-paper", 5), ("none of ours", None), (None, None)])
def test_the_command_of_a_run_is_its_configuration(name: str, preset: str | None, log_every: int | None) -> None:
    """From its own preset, where it has one, from one that differs in much, and from one that there is no more."""
    spec = COMMANDS[name]
    spec = replace(spec, data="mnist" if spec.data == "auto" else spec.data)
    config = {"framework": "torchvae", "preset": preset or name, "log_every": log_every}
    program, *arguments = shlex.split(command_line.command(run_folder.Run(Path("x"), spec, config)) or "")
    command = cli._parse(program, arguments)
    assert program == "torchvae"
    assert (command.spec, command.log_every) == (spec, log_every)
    if preset is None and name in PRESETS:
        assert arguments == ["train", "--preset", name, "--data", "mnist"]


def test_a_run_is_given_again_by_the_command_on_its_page(capsys, run) -> None:
    result = re.search(r"<pre><code>(torchvae train .*?)</code></pre>", page(capsys, run))
    assert result is not None
    _, *arguments = shlex.split(result[1])
    assert cli.main(torchvae, [*arguments, "--out", str(run.parent / "again")]) == 0
    assert (run.parent / "again" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert (run.parent / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_measures_that_evaluate_has_kept_are_shown_and_those_of_other_steps_are_not(capsys, run) -> None:
    assert "log-likelihood" not in text(page(capsys, run))
    assert not (run / "measures.json").exists()  # the report's own are not kept
    arguments = ["evaluate", str(run), "--measures", "log-likelihood", "squared-error", "--samples", "10"]
    assert cli.main(torchvae, arguments) == 0
    kept = json.loads((run / "measures.json").read_text())
    value = kept["log-likelihood"]
    shown = text(page(capsys, run))
    assert f"log-likelihood {value['log_likelihood']:.3f} ± {value['standard_error']:.3f} nats per image" in shown
    kept["squared-error"]["squared_error"] = 123.25  # so that it shows where it comes from
    kept["log-likelihood"]["step"] = 6
    (run / "measures.json").write_text(json.dumps(kept))
    shown = text(page(capsys, run))
    assert "squared error 123.250" in shown
    assert "log-likelihood" not in shown


def test_only_the_pages_own_script_may_run_and_all_its_text_is_printable(capsys, trained, tmp_path) -> None:
    run = shutil.copytree(trained, tmp_path / "a\x1b[31m\u202eb\udcff")
    config = json.loads((run / "config.json").read_text())
    config["sessions"][0]["device"] = "cpu\x00\x1b]0;title\x07\u2066\u200b"
    (run / "config.json").write_text(json.dumps(config))
    content = page(capsys, run)
    assert all(line.isprintable() for line in content.split("\n"))
    shown = text(content)
    assert r"a\x1b[31m\u202eb\udcff" in shown
    assert r"on cpu\x00\x1b]0;title\x07\u2066\u200b" in shown
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', content)
    assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy.split("; "))
    (script,) = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.search(r"script-src ([^;]*)", policy)[1] == f"'sha256-{digest}'"  # type: ignore[index]


def figures(name: str, **changed: Any) -> str:
    about = {"step": 12, "epoch": 2, "seed": 0, "images": 297, "by": "jaxvae", "dtype": "float32"}
    results = {
        "squared-error": {"squared_error": 1.0},
        "active-units": {"active_units": 1, "active": [True, False]},
        "kl-by-latent": {"kl_by_latent": [1.0, 2.0]},
        "terms": {"loss": 1.0, "reconstruction": 0.5, "kl": 0.5},
    }
    whole = {**about, **results[name], **changed}
    return json.dumps({name: {key: value for key, value in whole.items() if value != "none"}})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "expected measures by their names"),
        ("{", "Expecting property name"),
        ('{"nope": 1}', "expected measures by their names"),
        ('{"terms": []}', "terms should have step, epoch, seed, images, by, dtype, loss, reconstruction, kl"),
        (figures("terms", kl="none"), "terms should have step, epoch"),
        (figures("terms", other=1.0), "terms should have step, epoch"),
        (figures("terms", kl="a"), "the kl of terms can't be 'a'"),
        (figures("terms", kl=True), "the kl of terms can't be True"),
        (figures("terms", kl=[1.0]), r"the kl of terms can't be \[1.0\]"),
        (figures("terms").replace("1.0", "1e999"), "the loss of terms can't be inf"),
        (figures("terms").replace("1.0", "NaN"), "NaN is not a JSON number"),
        (figures("terms", by=None), "the by of terms can't be None"),
        (figures("terms", step=1.5), "the step of terms can't be 1.5"),
        (figures("active-units", active=[True]), r"the active of active-units can't be \[True\]"),
        (figures("active-units", active=[1.0, 2.0]), "the active of active-units can't be"),
        (figures("kl-by-latent", kl_by_latent=[[1.0], [2.0]]), "the kl_by_latent of kl-by-latent can't be"),
        (figures("kl-by-latent", kl_by_latent=[1.0, "x"]), "the kl_by_latent of kl-by-latent can't be"),
    ],
)
def test_measures_are_read_with_distrust(capsys, run, content: str, says: str) -> None:
    (run / "measures.json").write_text(content)
    refused(capsys, f"measures.json is not a valid record of measures .*{says}.*; remove it", run)
    (run / "measures.json").write_text(figures("terms"))
    assert "test loss 1.00" in text(page(capsys, run))


def refused(capsys, says: str, *arguments: object, out: object = None) -> None:
    """One sentence on standard error, status 2, and nothing written."""
    path = Path(str(arguments[0])).parent / "refused.html" if out is None else Path(str(out))
    before = path.read_bytes() if path.is_file() else None
    status, printed, err = report(torchvae, capsys, *arguments, "--out", path)
    assert (status, printed) == (2, "")
    assert err.startswith("torchvae: ")
    assert err.count("\n") == 1
    assert re.search(says, err), err
    assert (path.read_bytes() if path.is_file() else None) == before


def found_by(run: Path, **changed: Any) -> dict[str, Any]:
    versions = {"jax": "0.10.2", "torch": "2.15.0"}
    spec, verdict = run_folder.read(run).spec, "jaxvae and torchvae agree: all."
    made = Agreement(parity_record.VERSION, spec, 100, verdict, True, versions, LEVELS)
    return {**json.loads(json.dumps(written(made))), **changed}


def test_agreement_that_was_measured_is_shown(capsys, run) -> None:
    assert "Agreement" not in text(page(capsys, run))
    (run / "agreement.json").write_text(json.dumps(found_by(run)))
    shown = text(page(capsys, run))
    assert "jaxvae and torchvae agree: all. Runs of 100 steps from the same seed; jax 0.10.2, torch 2.15.0." in shown
    assert "in float64 tolerance float32 tolerance every gradient 3.0e-16 1.0e-12 4.0e-07 5.0e-06" in shown
    assert "the run's weights 2.5e-13 1.0e-10" in shown
    differs = json.loads(json.dumps(asdict(replace(LEVELS[0], size=None, passed=False))))
    (run / "agreement.json").write_text(json.dumps(found_by(run, passed=False, levels=[differs], verdict="No.")))
    html = page(capsys, run)
    assert '<p class="fail">No.</p>' in html
    assert "every gradient no number 1.0e-12" in text(html)


def test_several_runs_are_compared_first(capsys, run, tmp_path) -> None:
    other = tmp_path / "other"
    flags = QUICK.replace("--hidden 5", "--hidden 7 4").split()
    assert cli.main(torchvae, ["train", *flags, "--beta", "2", "--out", str(other)]) == 0
    status, _, err = report(torchvae, capsys, run, other, "--out", tmp_path / "both.html")
    assert status == 0
    assert err.splitlines() == [f"torchvae: {name}, run {i} of 2 ..." for i, name in ((1, run.name), (2, "other"))]
    html = (tmp_path / "both.html").read_text()
    shown = text(html)
    assert shown.index("What differs") < shown.index("Latent explorer")
    for row in ("hidden 5 7 4", "beta 1 2", "parameters 374 556"):
        assert f" {row} " in shown, shown[:1500]
    assert " epochs 2 2 " not in shown
    assert html.count('class="line run-1 dash-0 test"') == 3  # of each term
    targets = set(re.findall(' id="([^"]+)"', html))
    links = re.findall('<a href="#([^"]+)"', html)
    assert set(links) <= targets
    assert {"run-0", "run-1", "run-1-learning-curves"} <= set(links)
    assert "What differs" not in page(capsys, run)


def test_reports_beside_each_other_are_linked(capsys, run, tmp_path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "other.html").write_text("<title>None of ours</title>")
    (folder / "sweep.md").write_text("")
    for file in (folder / "one.html", folder / "two<b>.html", run / "below.html", tmp_path / "above.html"):
        assert report(torchvae, capsys, run, "--title", file.stem, "--out", file)[0] == 0
    parity = to_html(Report({}, ()))
    neighbours.write(folder / "parity.html", parity.encode())

    def links(file: Path) -> list[str]:
        return re.findall('<li><a href="([^"]+)">', file.read_text())

    assert links(tmp_path / "above.html") == [
        *("a%20folder/one.html", "a%20folder/parity.html", "a%20folder/sweep.md", "a%20folder/two%3Cb%3E.html"),
        "run/below.html",
    ]
    assert links(folder / "parity.html") == ["one.html", "sweep.md", "two%3Cb%3E.html", "../above.html"]
    assert links(folder / "one.html") == ["parity.html", "sweep.md", "two%3Cb%3E.html", "../above.html"]
    assert links(run / "below.html") == ["../above.html"]
    navigation = (folder / "one.html").read_text().partition('<nav class="beside"')[2].partition("</nav>")[0]
    assert "above (../above.html)" in navigation
    assert str(tmp_path) not in navigation
    assert (folder / "other.html").read_text() == "<title>None of ours</title>"


def changed_level(**changed: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda run: found_by(run, levels=[{**asdict(LEVELS[0]), **changed}])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda run: [], "must be an object of named fields"),
        (lambda run: found_by(run, more=1), "has an unknown field 'more'"),
        (lambda run: {}, "lacks the field 'version'"),
        (lambda run: found_by(run, version=3), "version must be 2, found 3"),
        (lambda run: found_by(run, steps=0), "steps must be positive"),
        (lambda run: found_by(run, verdict=["x"]), "verdict must be text"),
        (lambda run: found_by(run, passed=False), "passed must be that of all levels, found False"),
        (lambda run: found_by(run, levels=[]), "passed must be that of all levels, found True"),
        (lambda run: found_by(run, versions={"jax": 1}), "'jax' must be text"),
        (changed_level(size="0"), "size must be a"),
        (changed_level(dtype="float16"), "dtype must be one of"),
        (changed_level(tolerance=None), "tolerance must be a number"),
        (changed_level(passed=1), "passed must be true or false"),
        (lambda run: found_by(run, spec=written(Spec("digits"))), "is of another configuration"),
        (lambda run: found_by(run, spec=None), "spec must be an object"),
    ],
)
def test_agreement_is_read_with_distrust(capsys, run, make: Callable[[Path], Any], says: str) -> None:
    (run / "agreement.json").write_text(json.dumps(make(run)))
    refused(capsys, f"agreement.json.*{says}", run)


def test_agreement_of_version_1_is_read(run) -> None:
    made = found_by(run)
    levels = [{"owed" if name == "tolerance" else name: value for name, value in x.items()} for x in made["levels"]]
    (run / "agreement.json").write_text(json.dumps({**made, "version": 1, "levels": levels}))
    kept = parity_record.read(run_folder.read(run))
    assert kept is not None
    assert kept.levels == tuple(LEVELS)


@pytest.mark.parametrize("content", ["{", '{"version": NaN}', '{"version": 1, "version": 1}', "\ufeff{}"])
def test_agreement_that_is_no_json(capsys, run, content: str) -> None:
    (run / "agreement.json").write_text(content)
    refused(capsys, "agreement.json can't be read as JSON", run)


@pytest.fixture
def script(monkeypatch):
    """The command `parity`, with torchvae as both packages: jaxvae takes its time to compile."""
    monkeypatch.setattr(prove, "prove", functools.partial(prove.prove, backends=(torch_backend, torch_backend)))
    return command


def test_the_script_keeps_what_it_found_in_the_run(script, capsys, run) -> None:
    (run / "agreement.json").write_text(json.dumps(found_by(run)))  # what was found before
    assert script.main(script.Parity(run=run, steps=2, dtype="float64")) == 0
    assert "jaxvae and torchvae agree" in capsys.readouterr().out
    kept = parity_record.read(run_folder.read(run))
    assert kept is not None
    assert kept.spec == run_folder.read(run).spec
    assert (kept.steps, kept.passed) == (2, True)
    assert kept.versions["torch"] == torch.__version__
    assert not re.search(r"\b20\d\d-\d\d", (run / "agreement.json").read_text())  # no date
    assert {level.dtype for level in kept.levels} == {"float64"}
    shown = text(page(capsys, run))
    for level in kept.levels:
        assert f"{level.level} " in shown
        assert parity_record.number(level.tolerance) in shown
    assert kept.verdict in shown


@pytest.mark.parametrize("name", ["preset", "batch", "seed", "data"])
def test_the_script_compares_a_run_as_it_is(script, run, name: str) -> None:
    value = {"preset": "conv", "batch": 7, "seed": 3, "data": "mnist"}[name]
    with pytest.raises(script.InputError, match=f"run's own configuration, which has its {name}; leave out --{name}"):
        script.main(script.Parity(run=run, **{name: value}))
    assert not (run / "agreement.json").exists()


def test_the_script_says_what_is_wrong_with_a_run(script, run) -> None:
    with pytest.raises(script.InputError, match="none does not exist"):
        script.main(script.Parity(run=run.parent / "none"))
    (run / "agreement.json").write_text("{}")
    with pytest.raises(script.InputError, match="lacks the field"):
        script.main(script.Parity(run=run, steps=1))
    assert (run / "agreement.json").read_text() == "{}"


def test_what_can_not_be_reported_is_refused_in_a_sentence(capsys, run, tmp_path) -> None:
    refused(capsys, "should end in .html", run, out=tmp_path / "report.txt")
    refused(capsys, "its folder must exist", run, out=tmp_path / "none" / "report.html")
    (tmp_path / "folder.html").mkdir()
    refused(capsys, "can't be written", run, out=tmp_path / "folder.html")
    refused(capsys, "is not a run folder", tmp_path / "folder.html")
    (tmp_path / "before.html").write_text("before")
    refused(capsys, "is not a run folder", run, tmp_path / "folder.html", out=tmp_path / "before.html")
    (run / "metrics.jsonl").write_text("{}\n")
    refused(capsys, "metrics.jsonl, line 1, is not a record of metrics", run)
    assert not list(tmp_path.glob(".*part"))


def test_a_report_without_a_run_is_refused(tmp_path) -> None:
    command = report_command.Report((), tmp_path / "report.html")
    with pytest.raises(report_command.InputError, match="give one run folder or more"):
        report_command.run(torchvae, command)


def test_an_imported_run_has_a_page_without_curves(capsys, tmp_path) -> None:
    torch.save(torch_model("pytorch-examples", "float32").state_dict(), tmp_path / "vae.pt")
    out = tmp_path / "run"
    arguments = ["import", str(tmp_path / "vae.pt"), "--out", str(out), "--data", "digits", "--resize"]
    assert cli.main(torchvae, arguments) == 0
    shown = text(page(capsys, out))
    assert "Learning curves" not in shown
    assert "It was imported from vae.pt, not trained here." in shown
    assert cli.main(torchvae, ["curves", str(out), "--out", str(tmp_path / "c.png")]) == 2
    assert (
        capsys.readouterr().err
        == f"torchvae: {out} was imported, so its training was not recorded; give trained runs.\n"
    )


@pytest.mark.parametrize(
    "y", [[1.0], [5.0, 5.0, 5.0], [0.0, 0.0], [1e308, -1e308], [5e-324, 1.0], list(range(5000))], ids=str
)
def test_a_chart_holds_its_curve(y: list[float]) -> None:
    lines = [svg_charts.Line("train", np.arange(1.0, len(y) + 1), np.array(y, float))]
    svg = svg_charts.chart(lines, "loss <&>", "nats")
    assert 'aria-label="loss &lt;&amp;&gt;, nats: train from' in svg
    path = re.search(r'class="line line-0" d="M([^"]*)"', svg)
    assert path is not None
    points = np.array([point.split() for point in path[1].split("L")], float)
    assert len(points) <= 300
    assert ((points >= 0) & (points <= [340, 200])).all()
    assert len(set(re.findall(r">([^<>]+)</text>", svg))) >= 4  # some ticks on either axis, and its name


def test_a_chart_of_a_loss_that_began_far_above_shows_how_it_ends() -> None:
    x = np.arange(1.0, 3001)
    far = svg_charts.Line("train", x, 85_000 * np.exp(-x / 100) - 4560)
    near = svg_charts.Line("test", np.array([1500.0]), np.array([-4000.0]))
    svg = svg_charts.chart([far, near], "loss", "nats")
    assert ">not shown: first steps, up to 79.6k</text>" in svg
    drawn = svg.split('line-0" d="')[1].partition('"')[0]
    path = np.array([point.split() for point in re.findall(r"[ML]([\d. ]+)", drawn)], float)
    assert path[0, 1] == 10.0, "it comes from above"
    assert path[:, 1].min() == 10.0
    assert path[-1, 0] == 324.0
    assert "not shown" not in svg_charts.chart([far._replace(y=85_000 - 20 * x)], "loss", "nats")


def test_a_line_that_leaves_a_chart_comes_back_as_another_piece() -> None:
    points = [(0.0, 4.0), (1.0, 0.0), (2.0, 4.0), (3.0, 4.0), (4.0, 0.0)]
    assert svg_charts._below(points, 2.0) == [[(0.5, 2.0), (1.0, 0.0), (1.5, 2.0)], [(3.5, 2.0), (4.0, 0.0)]]


def test_frames_have_the_centre_in_the_middle() -> None:
    """Of codes, whose mean is not halfway from the least to the largest."""
    low, high, centre = np.array([-1.0, 0.0]), np.array([5.0, 2.0]), np.array([0.5, 1.5])
    space = latents.Space(np.zeros((1, 2)), low, "variance", np.array([1, 0]), low, high, centre)
    result = explorer.along(space, 0)
    np.testing.assert_array_equal(result[[0, explorer.STOPS // 2, -1], 0], [-1, 0.5, 5])
    np.testing.assert_array_equal(result[:, 1], 1.5)
    assert (np.diff(result[:, 0]) > 0).all()


def test_a_map_shows_the_directions_in_which_codes_differ_most() -> None:
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 4)) * [0.1, 3, 0.2, 1]
    directions, shares = latents.flat(codes)
    assert np.abs(directions).argmax(1).tolist() == [1, 3]
    assert (directions.max(1) > 0.99).all()  # with the sign that makes the largest part positive
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-12)
    assert shares == pytest.approx([9 / 10.05, 1 / 10.05], abs=0.02)
    tilted = codes[:, 1:2] * [1.0, 1.0] + 0.1 * codes[:, 2:]
    np.testing.assert_allclose(np.cov((tilted @ latents.flat(tilted)[0].T).T)[0, 1], 0, atol=1e-12)
    np.testing.assert_array_equal(latents.flat(codes[:, :1])[0], [[1], [0]])
    np.testing.assert_array_equal(latents.flat(np.zeros((5, 3)))[1], 0)
