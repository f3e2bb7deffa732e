"""Protocols of published results are run as written, resume where they were stopped, and are tabled honestly."""

import json
import math
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pictures
import reproduce
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from jaxvae.shared.training import session
from parity_tests.support import backends
from parity_tests.support.docs import run_script
from reproduce import Reproduce
from reproduction import expected as bands
from reproduction import picture_sets, results, runner, tables
from reproduction.expected import Band
from reproduction.protocols import PROTOCOLS, epochs_of
from reproduction.runner import Kept

IWAE = "iwae-paper-1"

lean = pytest.fixture(backends.lean)


def on_digits(out: Path, name: str, package: str, epochs: int, **more) -> Reproduce:
    return Reproduce((name,), package=package, out=out, data="digits", epochs=epochs, samples=10, **more)  # type: ignore[arg-type]


def kept(package: str = "jaxvae", seed: int = 0, protocol: str = "yunjey", epochs: int = 15, **figures: float) -> Kept:
    named = {results.at(split, "loss", epochs): value for split, value in figures.items()}
    return Kept(protocol, package, "mnist", seed, epochs, "cpu (cpu)", {"jaxvae": "0.1.0"}, named)


@pytest.mark.slow
@pytest.mark.usefixtures("lean")
def test_both_packages_come_to_the_same_and_are_only_read_again(tmp_path, capsys, monkeypatch) -> None:
    asked = {"jaxvae": (3,), "torchvae": (3, 4)}  # another seed is compiled again by JAX
    for package, seeds in asked.items():
        reproduce.main(on_digits(tmp_path, IWAE, package, 1, seeds=seeds))
    table = capsys.readouterr().out.split("| protocol |")[-1]
    assert table.splitlines()[0] == " figure | expected | jaxvae | torchvae |"
    assert f"| `{IWAE} --stages 1`" in table
    assert ", seeds 3, 4 |" in table
    result = {(one.package, one.seed): one for one in runner.read_all(tmp_path)}
    assert set(result) == {(package, seed) for package, seeds in asked.items() for seed in seeds}
    for (package, seed), one in result.items():
        run = run_folder.read(tmp_path / f"{IWAE}-{package}-{seed}")
        measured = json.loads((run.path / "measures.json").read_text())["log-likelihood"]
        assert (measured["by"], measured["samples"], measured["seed"]) == (package, 10, seed)
        assert one.figures == {results.nll(10, 1): -measured["log_likelihood"]}
        assert one.versions == run.config["sessions"][0]["versions"]
        assert (one.data, one.epochs, run.config["preset"]) == ("digits", 1, "iwae-paper")
    # 75 float32 steps by two frameworks, each of which rounds otherwise.
    assert result["jaxvae", 3].figures == pytest.approx(result["torchvae", 3].figures, rel=1e-4)
    assert result["torchvae", 3].figures != result["torchvae", 4].figures

    monkeypatch.setattr(results, "take", None)
    monkeypatch.setattr(runner, "train", None)
    for package, seeds in asked.items():
        reproduce.main(on_digits(tmp_path, IWAE, package, 1, seeds=seeds))
    assert capsys.readouterr().out.endswith(table)


@pytest.mark.slow
@pytest.mark.usefixtures("lean")
def test_the_log_likelihood_is_taken_again_of_more_samples_or_epochs(tmp_path) -> None:
    result: dict[str, float] = {}
    for epochs, samples in ((1, 10), (1, 20), (2, 20)):
        reproduce.main(replace(on_digits(tmp_path, IWAE, "torchvae", epochs), samples=samples))
        result |= runner.read_all(tmp_path)[0].figures
    assert list(result) == [results.nll(10, 1), results.nll(20, 1), results.nll(20, 2)]
    fewer, more, longer = result.values()
    assert fewer > more > longer  # a tighter bound, a better model
    assert len(runner.read_all(tmp_path)[0].figures) == 1


@pytest.mark.usefixtures("lean")
def test_a_stopped_protocol_is_resumed(tmp_path, monkeypatch) -> None:
    saved = session.save_epoch

    def save_and_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return saved(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(session, "save_epoch", save_and_stop)
        with pytest.raises(session.StoppedError, match="stopped by SIGTERM"):
            reproduce.main(on_digits(tmp_path / "stopped", "yunjey", "torchvae", 3))
    assert runner.read_all(tmp_path / "stopped") == []
    for name in ("stopped", "whole"):
        reproduce.main(on_digits(tmp_path / name, "yunjey", "torchvae", 3))
    stopped, whole = (runner.read_all(tmp_path / name)[0] for name in ("stopped", "whole"))
    assert stopped == whole
    assert len(run_folder.read(tmp_path / "stopped" / "yunjey-torchvae-0").config["sessions"]) == 2


@pytest.mark.usefixtures("lean")
def test_the_autoencoder_is_read_beside_pca(tmp_path, capsys) -> None:
    reproduce.main(on_digits(tmp_path, "autoencoder", "torchvae", 1))
    error, linear, share = runner.read_all(tmp_path)[0].figures.values()
    assert share == error / linear
    assert "beside-pca.png" in capsys.readouterr().out
    assert (tmp_path / "autoencoder-torchvae-0" / "images" / "beside-pca.png").stat().st_size > 1000


@pytest.mark.usefixtures("lean")
def test_the_conditional_model_is_pictured_by_class(tmp_path) -> None:
    reproduce.main(on_digits(tmp_path, "conditional", "torchvae", 1))
    assert list(runner.read_all(tmp_path)[0].figures) == ["test loss, epoch 1"]
    assert (tmp_path / "conditional-torchvae-0" / "images" / "classes.png").stat().st_size > 1000


@pytest.mark.usefixtures("lean")
def test_the_preset_for_pictures_is_measured_beside_pca(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(picture_sets, "EDGE", 8)
    monkeypatch.setattr(picture_sets, "PICTURES", 60)
    options = pictures.Pictures(("shapes",), (1,), "torchvae", tmp_path, steps=2)
    pictures.main(options)
    table = capsys.readouterr().out.splitlines()[-3:]
    result = json.loads((tmp_path / "shapes-torchvae-1" / "figures.json").read_text())
    assert (result["seed"], result["steps"], result["package"]) == (1, 2, "torchvae")
    cells = [cell.strip() for cell in table[-1].split("|")[1:6]]
    assert cells == ["shapes", "torchvae", "1", f"{result['error']:.1f}", f"{result['pca']:.1f}"]
    assert {path.suffix for path in (tmp_path / "sets" / "shapes" / "disc").iterdir()} == {".png", ".jpg"}
    monkeypatch.setattr(pictures.train, "run", None)  # not trained again
    pictures.main(options)
    assert capsys.readouterr().out.splitlines()[-3:] == table
    (tmp_path / "shapes-torchvae-1" / "figures.json").unlink()
    with pytest.raises(InputError, match="shapes-torchvae-1 is unfinished; remove it"):
        pictures.main(options)


@pytest.mark.parametrize("name", picture_sets.SETS)
def test_a_set_of_pictures_is_always_the_same(tmp_path, name: str) -> None:
    for folder in ("first", "again"):
        picture_sets.write(name, tmp_path / folder, 10)
    first, again = (sorted((tmp_path / folder).rglob("*.*")) for folder in ("first", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    picture_sets.write(name, tmp_path / "other", 10, seed=1)
    other = sorted((tmp_path / "other").rglob("*.*"))
    assert not {path.read_bytes() for path in first} & {path.read_bytes() for path in other}
    pixels = [np.asarray(Image.open(path)) for path in first]
    assert {one.shape for one in pixels} == {(64, 64, 3)}
    assert all(one.std() > 5 for one in pixels)
    assert {path.parent.name for path in first} == set(picture_sets.SETS[name][0])


BAND = Band(105.3, 105.9, "")


@pytest.mark.parametrize(
    ("value", "band", "expected"),
    [
        (105.3, BAND, "within"),
        (105.9, BAND, "within"),
        (105.904, BAND, "within"),  # 105.90 is what is shown
        (105.906, BAND, "0.01 above"),
        (107.0, BAND, "1.10 above"),
        (105.0, BAND, "0.30 below"),
        (-5.0, Band(-math.inf, 1, ""), "within"),
        (1.5, Band(-math.inf, 1, ""), "0.50 above"),
        (1e9, Band(86.2, math.inf, ""), "not below"),
        (86.0, Band(86.2, math.inf, ""), "0.20 below"),
    ],
)
def test_a_figure_lies_within_its_band_or_off_it(value, band, expected) -> None:
    assert bands.verdict(value, band) == expected


def test_bands_in_words() -> None:
    assert BAND.words == "105.3 to 105.9"
    assert Band(-math.inf, 1, "").words == "at most 1"
    assert Band(86.2, math.inf, "").words == "at least 86.2"
    one = bands.around(104.1, 0.6, "")
    assert (one.low, one.high, one.words) == (103.5, 104.7, "104.1 ± 0.6")


def test_the_table_tells_what_is_off_and_of_which_seed() -> None:
    result = [kept(train=104.5, test=105.0), kept("torchvae", train=103.0), kept("torchvae", 1, train=104.0)]
    train, test = tables.table(result).splitlines()[2:]
    assert train.endswith(
        ", seeds 0, 1 | train loss, epoch 15 | 104.5 ± 0.6 | 104.50, -: within | 103.00, 104.00: 0.90 below (seed 0) |"
    )
    assert test == "|  | test loss, epoch 15 | 104.1 ± 0.6 | 105.00, -: 0.30 above (seed 0) |  |"


def test_the_table_has_the_catalogues_order_and_runs_of_other_lengths_apart() -> None:
    result = [kept(protocol="yunjey"), kept(protocol="tanh-mse", epochs=20, train=66.4), kept(epochs=2, test=1.0)]
    rows = [line.split(":")[0] for line in tables.table([*result, kept(test=104.0)]).splitlines()[2:]]
    assert rows == ["| `yunjey --epochs 2`", "| `yunjey`", "| `tanh-mse --epochs 20`"]


def test_other_images_are_held_to_nothing() -> None:
    row = tables.table([replace(kept(test=300.0), data="digits")]).splitlines()[2]
    assert row.endswith("| test loss, epoch 15 |  | 300.00 |")


def test_the_caption_says_by_what() -> None:
    words = tables.caption([kept(test=1.0), kept("torchvae", test=1.0)])
    assert "by jaxvae on cpu (cpu) with jaxvae 0.1.0; by torchvae on" in words
    assert "`python scripts/reproduce.py NAME`" in words


def test_the_readme_gets_the_table_and_keeps_the_rest(tmp_path) -> None:
    path = tmp_path / "results.md"
    before, after = "# A\r\n\nsome ± words\n", "\nmore\n\n"
    path.write_bytes(f"{before}{tables.BEGIN}\nold | table\n{tables.END}{after}".encode())
    tables.write(path, "| new |")
    once = path.read_bytes()
    assert once.decode() == f"{before}{tables.BEGIN}\n\n| new |\n\n{tables.END}{after}"
    tables.write(path, "| new |")
    assert path.read_bytes() == once


BOTH = f"{tables.BEGIN}\n{tables.END}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        tables.BEGIN,
        tables.END,
        f"{tables.END}\n{tables.BEGIN}\n",
        BOTH + BOTH,
        BOTH + tables.END,
        tables.BEGIN + BOTH,
    ],
)
def test_a_readme_without_its_marks_is_left_alone(tmp_path, text) -> None:
    path = tmp_path / "results.md"
    path.write_text(text)
    with pytest.raises(InputError, match=r"results\.md must hold <!-- reproduce: begin --> and after it <!-- rep"):
        tables.write(path, "| new |")
    assert path.read_text() == text


def test_a_readme_that_is_not_there(tmp_path) -> None:
    with pytest.raises(InputError, match=r"results\.md can't be read"):
        tables.write(tmp_path / "results.md", "")


def test_the_readme_is_written_from_what_is_kept_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results.md")
    (tmp_path / "results.md").write_text(BOTH)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures.json").write_text(json.dumps(asdict(kept(test=104.2))))
    reproduce.main(Reproduce(readme=True, out=tmp_path))
    assert "| test loss, epoch 15 | 104.1 ± 0.6 | 104.20: within |" in (tmp_path / "results.md").read_text()


def test_what_is_asked_for(capsys) -> None:
    of_paper = {IWAE, "vae-paper-5", "vae-paper-50", "iwae-paper-5", "iwae-paper-50"}
    everything = reproduce.chosen(Reproduce(("all",)), on_cpu=False)
    assert everything == {name: protocol.epochs for name, protocol in PROTOCOLS.items()}
    assert {name for name, epochs in everything.items() if epochs == 3280} == of_paper
    assert capsys.readouterr().out == ""
    assert reproduce.chosen(Reproduce(("yunjey",), epochs=3), on_cpu=True) == {"yunjey": 3}
    assert reproduce.chosen(Reproduce(("yunjey",), epochs=30), on_cpu=True) == {"yunjey": 15}
    assert reproduce.chosen(Reproduce(("iwae-paper",)), on_cpu=True) == dict.fromkeys(sorted(of_paper), 3280)
    assert reproduce.chosen(Reproduce((IWAE,), stages=5), on_cpu=True) == {IWAE: 121}


def test_a_cpus_all_says_what_it_leaves_out(capsys) -> None:
    result = reproduce.chosen(Reproduce(("all",)), on_cpu=True)
    assert set(PROTOCOLS) - set(result) == {"beta-b", "vae-paper-5", "vae-paper-50", "iwae-paper-5", "iwae-paper-50"}
    assert result.pop(IWAE) == 121
    assert all(epochs == PROTOCOLS[name].epochs for name, epochs in result.items())
    words = capsys.readouterr().out
    left = f"beta-b, {IWAE} after 121 of 3,280 epochs, vae-paper-5, vae-paper-50, iwae-paper-5, iwae-paper-50;"
    assert f"On a CPU all leaves out {left}" in words
    assert "python scripts/reproduce.py NAME" in words


def test_the_papers_protocols_are_its_presets_with_other_bounds() -> None:
    preset = PRESETS["iwae-paper"]
    assert PROTOCOLS["iwae-paper-50"].spec.model == preset.model
    for name, protocol in PROTOCOLS.items():
        if protocol.preset == "iwae-paper":
            form, k = protocol.spec.objective.form, protocol.spec.objective.samples
            assert (form, k) == ({"iwae": "iwae", "vae": "elbo"}[name.split("-")[0]], int(name.split("-")[-1]))
            assert protocol.spec.training == preset.training
            assert protocol.spec.images == preset.images
    rates = PROTOCOLS[IWAE].spec.training.learning_rates()
    assert [rates.count(rate) for rate in dict.fromkeys(rates)] == [3**i for i in range(8)]
    assert epochs_of(5) == 121


def test_the_list_says_all_that_is_expected_and_where_it_is_from() -> None:
    words = tables.listing()
    for name, protocol in PROTOCOLS.items():
        assert f"{name}: {protocol.title}" in words
        assert protocol.cost in words
        for figure, band in protocol.expected.items():
            assert f"{figure}: {band.words}\n" in words
            assert band.source in words


REFUSED = [
    (Reproduce(("vae",)), "There is no protocol 'vae'; choose one of pytorch-examples, yunjey,"),
    (Reproduce(), "Name a protocol, or all; --list"),
    (Reproduce(("yunjey",), stages=5), "--stages applies to the IWAE paper's protocols"),
    (Reproduce((IWAE,), stages=9), "--stages must be from 1 to 8, found 9"),
    (Reproduce(("yunjey",), epochs=0), "--epochs must be at least 1, found 0"),
    (Reproduce((IWAE,), samples=0), "--samples must be at least 1, found 0"),
    (Reproduce(("yunjey",), seeds=(-1,)), "seed must be an integer from 0"),
    (Reproduce(("yunjey",), data="digits", readme=True), r"The table in results\.md is for mnist"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_invalid_options_are_rejected(options, words) -> None:
    with pytest.raises(InputError, match=words):
        reproduce.main(options)


def test_a_readme_without_marks_is_an_error_before_training(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results.md")
    (tmp_path / "results.md").write_text("# A\n")
    with pytest.raises(InputError, match=r"results\.md must hold"):
        reproduce.main(Reproduce(("yunjey",), readme=True, out=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_nothing_kept_makes_no_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results.md")
    (tmp_path / "results.md").write_text(BOTH)
    with pytest.raises(InputError, match=r"has no results on mnist; name a protocol"):
        reproduce.main(Reproduce(readme=True, out=tmp_path))


@pytest.mark.usefixtures("lean")
def test_a_folder_of_another_run_is_refused(tmp_path) -> None:
    reproduce.main(on_digits(tmp_path, "yunjey", "torchvae", 1))
    folder = tmp_path / "yunjey-torchvae-0"
    for name in ("yunjey-torchvae-1", "yunjey-jaxvae-0"):
        folder = folder.rename(tmp_path / name)
        package, seed = name.split("-")[1:]
        words = "is a run of another configuration" if seed == "1" else "is not by jaxvae alone"
        with pytest.raises(InputError, match=words):
            reproduce.main(on_digits(tmp_path, "yunjey", package, 1, seeds=(int(seed),)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "can't be read as JSON"),
        ("{}", "lacks the field 'protocol'"),
        (json.dumps({**asdict(kept(test=1.0)), "protocol": "x"}), "is of 'x', which is no protocol; remove it"),
    ],
)
def test_corrupt_figures_are_named(tmp_path, content, words, monkeypatch) -> None:
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results.md")
    (tmp_path / "results.md").write_text(BOTH)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures.json").write_text(content)
    with pytest.raises(InputError, match=rf"run.figures\.json.*{words}"):
        reproduce.main(Reproduce(readme=True, out=tmp_path))


def test_the_command_says_what_is_wrong_in_a_sentence(capsys) -> None:
    assert run_script("reproduce.py", "nothing") == 2
    said = capsys.readouterr().err
    assert said.startswith("reproduce: There is no protocol 'nothing'; choose one of")
    assert len(said.splitlines()) == 1
