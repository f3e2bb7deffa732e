"""The pages are true: the guides' programs print what is shown, and every command on a page is one."""

import contextlib
import functools
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import pytest
import torch
from safetensors.torch import save_file

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands import train
from jaxvae.shared.config.spec import Spec
from parity_tests import plugin
from parity_tests.harness.recordings.comparing.command import Compare
from parity_tests.harness.vae.command import Parity
from parity_tests.support.backends import lean
from parity_tests.support.docs import GUIDES, PAGES, ROOT, blocks, commands, run_script
from parity_tests.support.external_models import torch_model
from parity_tests.support.quick import quick
from parity_tests.support.warm import python

PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
TRIALS = ("fuzz", "kill", "switch", "distributed", "verdicts")
NOT_RUN = {
    "--coordinator": "test_parallel starts several processes",
    "--distributed": "test_parallel",
    "--devices": "test_parallel: a process has to be started with that many",
    "--stream": "test_streaming",
    "last.ckpt": "test_import",
    "runs/moved": "test_checkpoints hands runs over",
    "stablehlo": "test_export",
    "onnx": "test_export",
    "sweep": "test_sweep",
    "layers": "test_layers",
    "--tensorboard": "its own test",
}
"""What a command on a page holds that is run elsewhere, and where."""
DOCS = ROOT / "scripts" / "docs"
RUN = [ROOT / "README.md", DOCS / "models.md", DOCS / "visualization.md", DOCS / "running.md"]
"""The pages whose commands are run, in this order."""
CHECKS = (["ruff", "check", ".", "&&", "ruff", "format", "--check", "."], ["pyright"])
SMALL = [
    "--network",
    "mlp",
    "--hidden",
    "5",
    "--latent",
    "3",
    "--data",
    "digits",
    "--max-steps",
    "2",
    "--device",
    "cpu",
]


_lean = pytest.fixture(scope="module", autouse=True)(lean)


def alike(text: str) -> str:
    """Without the roundings, which differ from one processor to the next."""
    text = re.sub(r" +[\d.]+(e[+-]\d+)? times its rounding error", " some times its rounding error", text)
    return re.sub(r"\d\.\de-1[3-9]|0\.0e\+00", "rounding", text)


PROGRAMS = [guide for guide in GUIDES if any(block.language == "python" for block in blocks(guide.read_text()))]


QUICK = [guide for guide in PROGRAMS if guide.stem != "own-loops"]  # which takes as long as all others together


@pytest.mark.parametrize("guide", quick(PROGRAMS, QUICK), ids=lambda path: path.stem)
def test_a_guides_programs_print_what_it_shows(guide: Path, tmp_path: Path) -> None:
    programs = [block for block in blocks(guide.read_text()) if block.language == "python"]
    code = f"import json, parity_tests.support.docs as g\nprint(json.dumps(g.play(g.Path({str(guide)!r}))))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = python("-c", code, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert len(printed) == len(programs)
    for program, out in zip(programs, printed, strict=True):
        assert alike(out) == alike(program.shown or ""), program.content


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_description_is_what_describe_prints(page: Path, capsys) -> None:
    for block in blocks(page.read_text()):
        if block.language == "bash" and block.shown is not None:
            words = shlex.split(block.content)
            assert words[:2] == ["jaxvae", "describe"]
            assert cli.main(jaxvae, words[1:]) == 0
            assert capsys.readouterr().out == block.shown


def offered() -> list[str]:
    """The commands that the parser has."""
    return re.findall(r"[\w-]+", re.findall(r"\{(.*?)\}", " ".join(helped("jaxvae").split()))[0])


@functools.cache
def helped(name: str, *words: str) -> str:
    """What --help prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as end:
        cli._parse(name, [*words, "--help"])
    assert not end.value.code
    return out.getvalue()


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real parser, whatever the command belongs to. Fails for what is no command."""
    words = [word.removeprefix(".venv/bin/") for word in words]
    if words[0] in ("srun", "torchrun"):
        words = words[next(i for i, word in enumerate(words) if word in PACKAGES) :]
    if words[0] == "python":
        words = words[1:]
    if words[0] == "scripts/train.sh":
        words = ["jaxvae", "train", *words[1:]]
    if words[0] in PACKAGES:
        assert words[1] in offered(), words
        if words[2:] or words[1] == "train":  # else its name alone
            monkeypatch.setattr(train, "resume_command", lambda path: train.Train(Spec()))
            cli._parse(words[0], words[1:])
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[(\w+)\]", " ".join(words))) <= set(extras), words
    elif words[0] == "scripts/test.sh":
        assert words[1:] in ([], ["-m", "slow"]) or (ROOT / words[1]).is_file(), words
    elif words[:2] == ["parity", "compare"]:
        cli.parse(Compare, args=words[2:])
    elif words[0].startswith("scripts/") or words[0] == "parity":
        cli.parse(options_of(words[0].removeprefix("scripts/").removesuffix(".py")), args=words[1:])
    elif words[0] == "pytest":
        flags = [word for word in words if word.startswith("--")]
        assert all(f'"{flag}"' in Path(inspect.getfile(plugin)).read_text() for flag in flags), words
    else:
        assert words in (["source", "activate"], *CHECKS), words


def options_of(script: str) -> Any:
    """The class that the command line of a script, named by its path under scripts, is parsed to."""
    if script == "parity":
        return Parity
    path = ROOT / "scripts" / f"{script}.py"
    assert path.is_file(), path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    if (module := sys.modules.get(path.stem)) is None:
        before = dict(os.environ)
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        os.environ.clear()  # some choose JAX's settings for the process that they are
        os.environ.update(before)
    return inspect.get_annotations(module.main, eval_str=True)["options"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_command_on_a_page_parses(page: Path, monkeypatch) -> None:
    for line in commands(page.read_text()):
        try:
            parsed(shlex.split(line), monkeypatch)
        except SystemExit:
            pytest.fail(f"{page.name} shows a command that is none: {line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_flag_and_link_on_a_page_is_one(page: Path) -> None:
    known = "".join(helped("jaxvae", command) for command in offered())
    known += "".join((ROOT / "scripts" / f"{name}.py").read_text().replace("_", "-") for name in SCRIPTS)
    known += "".join(Path(inspect.getfile(kind)).read_text() for kind in (Parity, Compare))
    text = page.read_text()
    for flag in re.findall(r"`--([\w-]+)", text):
        assert re.search(rf"(--|\b){flag}\b", known), flag
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, section = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(ROOT), target
        assert there.is_file(), target
        if section:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            assert section in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("package", PACKAGES)
def test_every_commands_help_holds_an_example_that_parses(package: str) -> None:
    result = offered()
    assert {"train", "sweep", "import"} <= set(result)
    for command in result:
        text = helped(package, command)
        assert "example" in text.lower(), command
        lines = [line.split() for line in text.splitlines() if re.match(rf"\s*{package} {command} .*(runs/|--)", line)]
        assert lines, command
        for words in lines:
            cli._parse(package, words[1:])


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_scripts_help_holds_an_example_that_parses(script: str) -> None:
    options = options_of(script)
    trials = TRIALS if script == "stress" else [None]
    for trial in trials:
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
            cli.parse(options, args=[*filter(None, [trial]), "--help"])
        text = re.sub(r"\n {2,}(?=--)", " ", out.getvalue())
        name = "parity" if script == "parity" else rf"python scripts/{script}\.py"
        lines = re.findall(rf"^(?:.*Examples?:)? *{name} (.*)$", text, re.M)
        assert lines, trial
        assert "Example" in text
        for line in lines:
            cli.parse(options, args=line.split())


EXAMPLES = ROOT / "scripts" / "examples"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_example_of_own_parts_makes_a_run(package: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """And the command that it names reads the run."""
    file = EXAMPLES / f"own_parts_{package.removesuffix('vae')}.py"
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):  # as a user's is
        run_script(f"examples/{file.name}")
    assert len(capsys.readouterr().out.splitlines()) == 3
    words = next(line for line in file.read_text().splitlines() if line.startswith("Then: ")).split()[2:]
    assert words[:2] == ["sample", "runs/laplace"]
    words = [str(ROOT / word) if word.startswith("scripts/") else word for word in words]
    assert cli.main(PACKAGES[package], words) == 0, capsys.readouterr().err
    assert Path("samples.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path, monkeypatch) -> None:
    """And draws a figure wherever it shows one."""
    import nbclient  # slow to import
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown = nbformat.read(path, as_version=4)
    run = nbclient.NotebookClient(nbformat.from_dict(shown), timeout=300, resources={"metadata": {"path": tmp_path}})
    executed = run.execute()

    def outputs(cell: Any) -> tuple[str, list[str]]:
        texts = [output["text"] for output in cell.get("outputs", ()) if output["output_type"] == "stream"]
        kinds = [kind for output in cell.get("outputs", ()) for kind in output.get("data", {})]
        return "".join(texts), sorted(kinds)

    assert any("image/png" in outputs(cell)[1] for cell in shown.cells)
    for cell, again in zip(shown.cells, executed.cells, strict=True):
        assert outputs(again) == outputs(cell), cell.source


@pytest.mark.slow
def test_the_pages_commands_run(tmp_path, monkeypatch, capsys) -> None:
    """In the order of the pages, each on what those before it made, with two steps of a small model on the digits for
    every training. A run that the pages have from elsewhere is made first."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(jaxvae, ["train", *SMALL, "--out", "runs/jaxvae-1"]) == 0
    assert cli.main(jaxvae, ["train", *SMALL, "--latent", "2", "--out", "runs/plane"]) == 0
    save_file(torch_model("pytorch-examples").state_dict(), "vae.safetensors")
    shapes = {"enc.0": (5, 36), "mu": (3, 5), "lv": (3, 5), "dec.0": (5, 3), "dec.2": (36, 5)}
    mine = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    save_file(mine | {f"{name}.bias": torch.ones(shape[0]) for name, shape in shapes.items()}, "mine.safetensors")
    shapes = {"enc.0": (8, 1, 4, 4), "enc.2": (16, 8, 4, 4), "mu": (3, 784), "lv": (3, 784)}
    shapes |= {"fc": (784, 3), "dec.0": (16, 8, 4, 4), "dec.2": (8, 1, 4, 4)}
    mine = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    outputs = {name: shape[1 if name.startswith("dec") else 0] for name, shape in shapes.items()}
    save_file(mine | {f"{name}.bias": torch.ones(n) for name, n in outputs.items()}, "convolutions.safetensors")
    tables = [block.content for block in blocks((DOCS / "running.md").read_text()) if block.language == "json"]
    for name, table in zip(("mine", "convolutions"), tables, strict=True):
        Path(f"{name}.json").write_text(table)
    ran = set()
    for block in (block for page in RUN for block in blocks(page.read_text())):
        for line in block.content.splitlines() if block.language == "bash" else ():
            words = shlex.split(line, comments=True)
            if not words or words[0] not in PACKAGES or words[1] not in offered() or set(words) & set(NOT_RUN):
                continue
            cheaper = {"train": SMALL, "evaluate": ["--samples", "3"]}.get(words[1], [])
            cheaper = [*cheaper, *(["--classes", "10"] if "--classes" in words else [])]  # the digits'
            assert cli.main(PACKAGES[words[0]], [*words[1:], *cheaper]) == 0, (line, capsys.readouterr().err)
            if "--out" in words:
                assert Path(words[words.index("--out") + 1]).exists(), line
            ran.add(words[1])
    assert ran == set(offered()) - {"sweep"}
