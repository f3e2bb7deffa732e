"""Learning curves: what is drawn is what the runs' metrics say, labelled; what can't be drawn is refused."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands import curves
from jaxvae.shared.config.presets import preset
from jaxvae.shared.plotting.loss_scales import scales
from jaxvae.shared.runs import metrics, run_folder
from parity_tests.support.backends import lean
from parity_tests.support.numpy_backend import NUMPY_BACKEND, copy

pytestmark = pytest.mark.either

PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
TINY = ["--data", "digits", "--epochs", "2", "--hidden", "5", "--latent", "2"]


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest):
    return PACKAGES[request.param]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """A run with every epoch's metrics, one with every step's, one with other batches, one with other terms."""
    folder = tmp_path_factory.mktemp("curves")
    wanted = {
        "jaxvae": (NUMPY_BACKEND, []),
        "torchvae": (torchvae, ["--log-every", "1"]),
        "batches": (NUMPY_BACKEND, ["--batch-size", "50"]),
        "adversarial": (torchvae, ["--posterior", "point", "--form", "adversarial", "--discriminator", "5"]),
    }
    for name, (side, flags) in wanted.items():
        assert cli.main(side, ["train", *TINY, *flags, "--out", str(folder / name)]) == 0
    return {name: folder / name for name in wanted}


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """The figures that are saved."""
    results, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *of, **how: [results.append(self), save(self, *of, **how)])
    return results


def edited(run: Path, to: Path, **values: float) -> Path:
    """The run with other values in its last line of metrics."""
    opened = run_folder.read(copy(run, to))
    records = metrics.read(opened)
    records[-1] |= values
    opened.metrics.write_bytes(metrics._lines(records))
    return to


def test_curves_begin_at_a_step(package, trained, drawn, tmp_path) -> None:
    out = str(tmp_path / "curves.png")
    assert cli.main(package, ["curves", str(trained["jaxvae"]), "--from-step", "24", "--out", out]) == 0
    axes = drawn[0].axes[0]
    assert axes.get_xlim()[0] == 24
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[24], [24]]


def test_runs_of_a_folder_that_end_before_the_step_are_left_out(trained, capsys, tmp_path) -> None:
    copy(trained["jaxvae"], tmp_path / "long")
    short = run_folder.read(copy(trained["jaxvae"], tmp_path / "short"))
    short.metrics.write_bytes(metrics._lines([record for record in metrics.read(short) if record["step"] < 24]))
    arguments = ["curves", str(tmp_path), "--from-step", "24", "--out", str(tmp_path / "curves.png")]
    assert cli.main(NUMPY_BACKEND, arguments) == 0
    assert f"left out: {short.path} (ends after step " in capsys.readouterr().err


def test_the_curves_are_the_metrics(package, trained, drawn, capsys, tmp_path) -> None:
    paths = [trained["jaxvae"], trained["torchvae"]]
    out = tmp_path / "curves.png"
    capsys.readouterr()
    assert cli.main(package, ["curves", *map(str, paths), "--out", str(out)]) == 0
    assert capsys.readouterr() == (f"learning curves of 2 runs in {out}\n", "")
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.width == 7 * 300
    (figure,) = drawn
    assert [axes.get_ylabel() for axes in figure.axes] == [
        f"{term}\n(nats per image)" for term in ("loss", "reconstruction", "kl")
    ]
    colours = set()
    for axes, term in zip(figure.axes, ("loss", "reconstruction", "kl"), strict=True):
        for i, path in enumerate(paths):
            for line, split in zip(axes.lines[2 * i : 2 * i + 2], ("train", "test"), strict=True):
                records = [r for r in metrics.read(run_folder.read(path)) if r["split"] == split]
                points = [(r["step"], r[term]) for r in records]
                np.testing.assert_array_equal(line.get_xydata(), points)
                assert (line.get_linestyle() == "-") == (split == "train")
                colours.add((i, line.get_color()))
        assert axes.get_yscale() == "linear"
        assert (axes.get_xlabel(), axes.child_axes[0].get_xlabel()) == ("step", "epoch")
        left, right = axes.get_xlim()
        assert left == 0
        assert axes.child_axes[0].get_xlim() == pytest.approx((0, right / 12))
    assert len(colours) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["jaxvae", "torchvae", "training", "test"]
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 8


def test_all_text_is_in_the_picture(trained, drawn, tmp_path) -> None:
    """However many the runs and long their names."""
    paths = [copy(trained["jaxvae"], tmp_path / f"{i:02}-{'_$long_' * 20 * (i % 2)}") for i in range(12)]
    content = curves.picture([run_folder.read(path) for path in paths])
    (figure,) = drawn
    height = figure.get_figheight() * figure.dpi
    labels = [axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis, axes.child_axes[0].xaxis)]
    for text in [*labels, *figure.legends[0].get_texts()]:
        if text.get_text():
            box = text.get_window_extent()
            assert -1 <= box.x0 < box.x1 <= 2101, text
            assert -1 <= box.y0 < box.y1 <= height + 1, text
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (2100, round(height))
    lines = figure.axes[0].lines[: 2 * len(paths) : 2]
    assert len({str(line.get_color()) for line in lines}) == 12


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "PNG"])
def test_every_kind_is_the_same_each_time(trained, suffix: str, tmp_path) -> None:
    begin = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix.lower()]
    for name in "ab":
        out = tmp_path / f"{name}.{suffix}"
        assert cli.main(NUMPY_BACKEND, ["curves", str(trained["jaxvae"]), "--out", str(out)]) == 0
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(begin)


def test_runs_that_differ_share_their_terms_and_steps(trained, drawn) -> None:
    curves.picture([run_folder.read(trained[name]) for name in ("jaxvae", "adversarial", "batches")])
    curves.picture([run_folder.read(trained["adversarial"])])
    common, whole = drawn
    assert [axes.get_ylabel().split("\n")[0] for axes in common.axes] == ["loss", "reconstruction"]
    assert not any(axes.child_axes for axes in common.axes), "an epoch of one is not an epoch of the other"
    terms = ["loss", "reconstruction", "discriminator", "generator"]
    assert [axes.get_ylabel().split("\n")[0] for axes in whole.axes] == terms
    assert [bool(axes.child_axes) for axes in whole.axes] == [True, True, False, False]


def test_runs_of_other_scales_have_axes_of_their_own(trained, drawn, tmp_path) -> None:
    """And the same colour on all of them."""
    flags = {"gaussian": ["--likelihood", "gaussian"], "wide": ["--likelihood", "gaussian", "--variance", "2"]}
    for name, more in flags.items():
        assert cli.main(NUMPY_BACKEND, ["train", *TINY, *more, "--out", str(tmp_path / name)]) == 0
    paths = [trained["jaxvae"], tmp_path / "gaussian", trained["batches"], tmp_path / "wide", trained["adversarial"]]
    curves.picture([run_folder.read(path) for path in paths])
    (figure,) = drawn
    labels = [axes.get_ylabel().split("\n") for axes in figure.axes]
    assert [label[0] for label in labels] == ["loss", "reconstruction", *["loss", "reconstruction", "kl"] * 2]
    scales = ["bernoulli, variance 1"] * 2 + ["gaussian, variance 1"] * 3 + ["gaussian, variance 2"] * 3
    assert [label[1] for label in labels] == scales
    assert [len(axes.lines) for axes in figure.axes] == [6 + 7, 6, 2, 2, 2, 2, 2, 2]  # and the lines of the legend
    legend = [line.get_color() for line in figure.legends[0].get_lines()][:5]
    assert [figure.axes[i].lines[0].get_color() for i in (0, 2, 5)] == [legend[i] for i in (0, 1, 3)]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:5] == [path.name for path in paths]


def test_losses_are_nats_per_image_whatever_is_minimized() -> None:
    pixel = preset("gaussian", units="pixel")
    runs: Any = [SimpleNamespace(spec=spec) for spec in (preset("gaussian"), pixel, preset("gaussian", range="signed"))]
    assert scales(runs) == [("28x28x1 pixels in [0, 1]", [0, 1]), ("28x28x1 pixels in [-1, 1]", [2])]


@pytest.mark.parametrize(("width", "rows"), [(7, 1), (4.5, 2), (3.3, 3)])
def test_their_width_is_that_of_a_page_or_a_column(trained, drawn, tmp_path, width: float, rows: int) -> None:
    long = edited(trained["jaxvae"], tmp_path / ("long-" * 18), kl=1.0)
    out = tmp_path / "curves.png"
    title = "The losses of a run, in a title that takes more than a line of a column"
    arguments = [str(long), "--log", "--width", str(width), "--title", title, "--out", str(out)]
    assert cli.main(NUMPY_BACKEND, ["curves", *arguments]) == 0
    (figure,) = drawn
    assert figure.axes[0].get_subplotspec().get_geometry()[0] == rows
    for text in [*figure.texts, *figure.legends[0].get_texts()]:
        box = text.get_window_extent()
        assert -1 <= box.x0 < box.x1 <= width * 300 + 1, text
    with Image.open(out) as image:
        assert image.width == round(width * 300)


def test_runs_of_one_name_get_different_labels(trained, drawn, tmp_path) -> None:
    paths = [copy(trained["jaxvae"], tmp_path / place / "run") for place in ("here", "there")]
    curves.picture([run_folder.read(path) for path in paths])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()][:2] == ["here/run", "there/run"]


def test_logarithmic_axes_but_where_there_is_no_logarithm(trained, drawn, tmp_path) -> None:
    run = edited(trained["jaxvae"], tmp_path / "run", kl=-0.25)
    assert cli.main(NUMPY_BACKEND, ["curves", str(run), "--log", "--out", str(tmp_path / "a.png")]) == 0
    wide = edited(trained["jaxvae"], tmp_path / "wide", loss=1e6)
    assert cli.main(NUMPY_BACKEND, ["curves", str(wide), "--log", "--out", str(tmp_path / "b.png")]) == 0
    assert [axes.get_yscale() for figure in drawn for axes in figure.axes] == [
        "log",
        "log",
        "linear",
        "log",
        "log",
        "log",
    ]
    assert drawn[0].axes[2].get_ylabel() == "kl\n(nats per image,\nlinear, as it reaches -0.25)"
    for axes in [*drawn[0].axes, *drawn[1].axes]:
        low, high = axes.get_ylim()
        assert not any("e-0" in label.get_text() for label in axes.get_yticklabels())
        assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 2, "numbers to read it by"


def test_one_epochs_line_is_a_dot(drawn, tmp_path) -> None:
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    curves.picture([run_folder.read(tmp_path / "run")])
    assert drawn[0].axes[0].lines[0].get_marker() == "s"


def test_curves_that_can_not_be_are_refused(package, trained, capsys, tmp_path) -> None:
    new = copy(trained["jaxvae"], tmp_path / "new")
    (new / "metrics.jsonl").write_text("")
    path, out = trained["jaxvae"], ["--out", tmp_path / "x.png"]
    for says, arguments in (
        (r"should end in .png, .pdf or .svg", [path, "--out", tmp_path / "x.jpg"]),
        (r"should end in .png, .pdf or .svg", [path, "--out", tmp_path / "x"]),
        (r"new has no metrics yet; the first ones are written after its first epoch", [path, new, *out]),
        (r"is not a run folder", [path / "images", *out]),
        (r"is not a run folder", [path, path / "images", *out]),
        (r"nev does not exist \(did you mean .*/new\?\); give a run folder", [tmp_path, tmp_path / "nev", *out]),
        (r"ends after step 24; give a smaller --from-step", [path, "--from-step", 25, *out]),
        (r"start at a step of at least 0, an integer, found -1; give another", [path, "--from-step", -1, *out]),
        (r"Curves are 3 to 14 inches wide, found 2.0; give another", [path, "--width", 2, *out]),
        (r"Curves are 3 to 14 inches wide, found nan; give another", [path, "--width", "nan", *out]),
        (r"Nothing matches .*/n\*o; give run folders", [path, tmp_path / "n*o", *out]),
        (r"new has no metrics yet", [tmp_path, *out]),
        (
            r"can't be written: there is no folder .*/no; make it, or give another --out",
            [path, "--out", tmp_path / "no" / "x.png"],
        ),
        (r"Curves show 1 to 24 runs, found 0; give some", out),
        (r"Curves show 1 to 24 runs, found 25; give fewer", [*[path] * 25, *out]),
    ):
        capsys.readouterr()
        assert cli.main(package, ["curves", *map(str, arguments)]) == 2
        printed, err = capsys.readouterr()
        assert printed == ""
        assert err.startswith(f"{package.__name__}: ")
        assert err.count("\n") == 1
        assert re.search(says, err), err
        assert [p.name for p in tmp_path.iterdir()] == ["new"]
