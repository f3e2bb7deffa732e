"""What a run prints as it trains: the bar of a terminal, the lines of a pipe, and what TensorBoard shows."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

import jaxvae
import torchvae
from jaxvae import updates
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend
from jaxvae.shared.config.spec import resolved
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.training import projector, session, tensorboard
from jaxvae.shared.training.progress import Bar, short_terms, time
from jaxvae.shared.training.rates import learning_rate
from parity_tests.support.backends import lean
from parity_tests.support.cli import at_step, modules_after
from parity_tests.support.numpy_backend import NUMPY_BACKEND, SIZES, contents, copy
from parity_tests.support.quick import quick

pytestmark = pytest.mark.either

PACKAGES: dict[str, Backend] = {"jaxvae": jaxvae, "torchvae": torchvae}
TINY = [*SIZES, "--epochs", "3"]
OFTEN = ["--log-every", "4", "--checkpoint-every", "5", "--keep", "9"]
KINDS = ("samples", "reconstructions")
PACE = r"[0-9][0-9,.]* images/s, [0-9:]+ left"


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest):
    yield PACKAGES[request.param]
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def boards(tmp_path_factory) -> dict[str, Path]:
    """A run of each package with all its checkpoints and TensorBoard's files."""
    folder = tmp_path_factory.mktemp("boards")
    for name, package in PACKAGES.items():
        assert cli.main(package, ["train", *TINY, *OFTEN, "--tensorboard", "--out", str(folder / name)]) == 0
    return {name: folder / name for name in PACKAGES}


@contextlib.contextmanager
def terminal(columns: int, monkeypatch) -> Iterator[list[str]]:
    """Standard error is a terminal of this many columns; what it was sent, once it is closed, as its redrawn lines."""
    near_end, far_end = pty.openpty()
    fcntl.ioctl(far_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    sent, lines = bytearray(), []

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO once nobody has the other end
            while part := os.read(near_end, 4096):
                sent.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(far_end, "w") as file:
        patch.setattr(sys, "stderr", file)
        yield lines
    reader.join()
    os.close(near_end)
    lines += [line for line in re.split(r"[\r\n]+|\x1b\[[A-Z]", sent.decode()) if line.strip()]


def events(file: Path) -> list[Any]:
    """The records of an event file, each with its checksums."""
    lib, content, results = tensorboard._library(), file.read_bytes(), []
    while content:
        length, check = struct.unpack("<QI", content[:12])
        body, (after,) = content[12 : 12 + length], struct.unpack("<I", content[12 + length : 16 + length])
        assert (check, after) == (lib.crc(content[:8]), lib.crc(body))
        results.append(lib.events.Event.FromString(body))
        content = content[16 + length :]
    return results


def shown(result: list[Any]) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard makes of events in their order: by tag, each step with its number or its picture. A second start
    of a session clears away what was there from its step on."""
    tags: dict[str, list[tuple[int, Any]]] = {}
    for i, event in enumerate(result):
        if event.session_log.status == 1 and any(e.session_log.status == 1 for e in result[:i]):
            tags = {tag: [point for point in points if point[0] < event.step] for tag, points in tags.items()}
        for value in event.summary.value:
            if value.WhichOneof("value") not in ("simple_value", "image"):
                continue  # the configuration
            number = value.simple_value if value.HasField("simple_value") else value.image.encoded_image_string
            tags.setdefault(value.tag, []).append((event.step, number))
    return tags


def expected(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """What it should show: all lines of metrics, in the precision of its files, and all pictures of their epochs."""
    opened, tags = run_folder.read(run), {}
    rate, file = opened.spec.training.learning_rate, run / "tensorboard" / "gradient_norms.json"
    norms = json.loads(file.read_text()) if file.exists() else {}
    for record in metrics.read(opened):
        for term in opened.spec.terms:
            tags.setdefault(f"{term}/{record['split']}", []).append((record["step"], float(np.float32(record[term]))))
        if record["split"] == "train":
            tags.setdefault("learning rate", []).append((record["step"], float(np.float32(rate))))
        elif str(record["epoch"]) in norms:
            tags.setdefault("gradient norm", []).append(
                (record["step"], float(np.float32(norms[str(record["epoch"])])))
            )
        for kind in ("samples", "reconstructions"):
            if record["split"] == "test":
                file = run / "images" / f"{kind}-{record['epoch']:03}.png"
                tags.setdefault(kind, []).append((record["step"], file.read_bytes()))
    return tags


def files(run: Path) -> list[Path]:
    return sorted((run / "tensorboard").glob("*tfevents*"))


def test_a_pipe_gets_a_line_for_each_epoch(package, capsys, tmp_path) -> None:
    assert cli.main(package, ["train", *TINY, "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    records = metrics.read(run_folder.read(tmp_path / "run"))
    for epoch, (line, train, test) in enumerate(zip(lines, records[::2], records[1::2], strict=True), 1):
        terms = f"(reconstruction {test['reconstruction']:.3f}, kl {test['kl']:.3f})"
        begin = f"epoch   {epoch}/3  train {train['loss']:8.3f}  test {test['loss']:8.3f} {terms}  "
        assert line.startswith(begin)
        assert re.fullmatch(PACE, line.removeprefix(begin)), line
    assert lines[-1].endswith(", 00:00 left")
    assert err == ""


@pytest.mark.parametrize("name", PACKAGES)
def test_a_pipe_gets_an_epochs_line_when_the_epoch_ends(name: str, tmp_path) -> None:
    many = [*TINY, "--epochs", "100000", "--out", str(tmp_path / "run")]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", name, "train", *many]
    with subprocess.Popen(command, env=buffered, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            while b"epoch " not in (got := os.read(process.stdout.fileno(), 1 << 16)):
                assert got, "it ended"
        finally:
            process.kill()
    assert len(got) < io.DEFAULT_BUFFER_SIZE / 2, "what came first is what a full buffer gave"


@pytest.mark.parametrize(("columns", "terms"), [(80, 3), (72, 2), (55, 1), (40, 0)])
def test_a_terminal_gets_a_bar_with_as_many_terms_as_it_has_room_for(
    package, columns: int, terms: int, capsys, tmp_path, monkeypatch
) -> None:
    with terminal(columns, monkeypatch) as lines:
        assert cli.main(package, ["train", *TINY, "--out", str(tmp_path / "run")]) == 0
    train = [r for r in metrics.read(run_folder.read(tmp_path / "run")) if r["split"] == "train"][-1]
    names = ("loss", "reconstruction", "kl")[:terms]
    words = " ".join(short_terms(names, [train[name] for name in names]))
    assert re.fullmatch(rf"epoch 3/3 .* *[0-9.]+[kM]? img/s 00:00 left{', ' + words if words else ''} *", lines[-1])
    assert all(len(line) <= columns for line in lines)
    assert len([line for line in capsys.readouterr()[0].splitlines() if line.startswith("epoch ")]) == 3


def test_the_pace_is_of_what_was_seen_since_it_was_last_asked(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar(2000, 200) as bar:
        for seconds, seen, pace in ((2, 500, "250 images/s, 00:05 left"), (100, 300, "3.00 images/s, 05:33 left")):
            now[0] += seconds
            bar.move(seen)
            assert bar.pace() == pace
        bar.skip(900)
        now[0] += 1
        bar.move(100)
        assert bar.pace() == "100 images/s, 00:00 left"


def test_the_first_time_left_leaves_out_the_evaluation_that_is_compiled(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar(2000, 0) as bar:
        for evaluation, pace in ((60, "250 images/s, 00:06 left"), (2, "250 images/s, 00:08 left")):
            now[0] += 2
            bar.move(500)
            now[0] += evaluation
            assert bar.pace() == pace


def test_no_rate_counts_the_step_that_is_compiled(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with terminal(80, monkeypatch) as lines, Bar(2000, 0, first="compiling...") as bar:
        for seconds, seen in ((50, 100), (2, 400)):
            now[0] += seconds
            bar.move(seen, "epoch 1/4")
        assert bar.pace() == "200 images/s, 00:07 left"
    assert "compiling..." in lines[0]
    with Bar(2000, 0, first="compiling...") as bar:
        now[0] += 50
        bar.move(500)
        assert bar.pace() == "10 images/s, 02:30 left"  # all that there is to take a rate of


def test_pictures_of_early_epochs_are_removed(capsys, tmp_path, monkeypatch) -> None:
    def epochs(run: Path) -> list[str]:
        kinds = {kind: [f.stem[-3:] for f in sorted((run / "images").glob(f"{kind}-*"))] for kind in KINDS}
        assert kinds["samples"] == kinds["reconstructions"]
        return kinds["samples"]

    some, few = tmp_path / "some", tmp_path / "few"
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--keep-pictures", "2", "--out", str(some)]) == 0
    (some / "images" / "mine-001.png").touch()
    assert epochs(some) == ["002", "003"]
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(some), "--epochs", "4"]) == 0  # as it was begun
    assert epochs(some) == ["003", "004"]
    assert (some / "images" / "mine-001.png").exists()
    size = sum(file.stat().st_size for file in (some / "images").glob("*-004.png"))
    monkeypatch.setattr(session, "_PICTURE_BYTES", 2 * size + size // 2)
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--epochs", "5", "--out", str(few)]) == 0
    assert epochs(few) == ["004", "005"]
    monkeypatch.setattr(session, "_PICTURE_BYTES", 1)
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(few), "--epochs", "6"]) == 0
    assert epochs(few) == ["006"]
    capsys.readouterr()
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--keep-pictures", "0", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == "jaxvae: --keep-pictures must be at least 1, found 0.\n"


def test_one_process_speaks_and_writes(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(NUMPY_BACKEND, "first", lambda: False)
    with terminal(80, monkeypatch) as lines:
        assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--tensorboard", "--out", str(tmp_path / "run")]) == 0
    assert (lines, capsys.readouterr()[0], list(tmp_path.iterdir())) == ([], "", [])


def test_a_sweep_tells_of_its_runs(capsys, tmp_path, monkeypatch) -> None:
    flags = [*TINY, "--seeds", "0:3", "--tensorboard"]
    with terminal(100, monkeypatch) as lines:
        assert cli.main(NUMPY_BACKEND, ["sweep", *flags, "--out", str(tmp_path / "sweep")]) == 0
    assert re.match(r"run 3/3, epoch 3/3 .* img/s 00:00 left, loss [0-9.]+ reconstruction [0-9.]+ kl ", lines[-1])
    lines = [line for line in capsys.readouterr()[0].splitlines() if line.startswith("seed-")]
    assert all(re.fullmatch(rf"seed-\d-.*: test loss .* nats per image \(.*\)  {PACE}", line) for line in lines)
    assert len(lines) == 3
    for run in (tmp_path / "sweep").glob("seed-*"):
        assert shown(events(files(run)[0])) == expected(run)


def test_runs_trained_together_tell_their_losses(tmp_path, monkeypatch) -> None:
    """Those of neither package, one by one in truth."""

    def fit_together(specs, data, on_epoch, device, starts, on_part, every, histories) -> None:
        parts, ends = [[] for _ in specs], [[] for _ in specs]
        for i, spec in enumerate(specs):
            NUMPY_BACKEND.fit(spec, data, ends[i].append, device, starts[i], parts[i].append, every, None, histories[i])
        on_part({i: part[-1] for i, part in enumerate(parts)})
        for i, (end,) in enumerate(ends):
            on_epoch(i, end)

    monkeypatch.setattr(NUMPY_BACKEND, "fit_together", fit_together, raising=False)
    flags = [*TINY, "--epochs", "1", "--seeds", "0:2", "--how", "together", "--tensorboard"]
    with terminal(100, monkeypatch) as lines:
        assert cli.main(NUMPY_BACKEND, ["sweep", *flags, "--out", str(tmp_path / "sweep")]) == 0
    folders = sorted((tmp_path / "sweep").glob("seed-*"))
    least, most = sorted(metrics.read(run_folder.read(run))[-2]["loss"] for run in folders)
    assert f" left, loss {least:.1f} to {most:.1f}" in lines[-1]
    assert lines[-1].startswith("2 runs, epoch 1/1 ")
    assert all(shown(events(files(run)[0])) == expected(run) for run in folders)


def test_tensorboard_shows_every_record_and_picture(package, boards, digits) -> None:
    run = boards[package.__name__]
    actual = events(files(run)[0])
    assert actual[0].file_version == "brain.Event:2"
    times = [event.wall_time for event in actual]
    assert times == sorted(times)
    assert shown(actual) == expected(run)
    assert len(shown(actual)["loss/train"]) == 9
    sizes = {v.tag: (v.image.width, v.image.height, v.image.colorspace) for e in actual for v in e.summary.value}
    with Image.open(run / "images" / "samples-001.png") as image:
        assert sizes["samples"] == (*image.size, 1)


def test_tensorboard_has_the_configuration_and_charts_of_training_and_test(boards) -> None:
    lib, run = tensorboard._library(), boards["torchvae"]
    found = {value.tag: value for event in events(files(run)[0]) for value in event.summary.value}
    text = found["configuration/text_summary"].tensor.string_val[0].decode()
    rows = dict(re.findall(r"^\| ([\w-]+) +\| (.*?) +\|$", text, re.M))
    assert {"package": "torchvae", "learning-rate": "0.001", "network": "mlp"}.items() <= rows.items()
    layout = lib.layouts.Layout.FromString(found["custom_scalars__config__"].tensor.string_val[0])
    (category,) = layout.category
    tags = [next(iter(chart.multiline.tag)) for chart in category.chart]
    assert tags == ["^loss/.*$", "^reconstruction/.*$", "^kl/.*$"]
    content = found["_hparams_/session_start_info"].metadata.plugin_data.content
    values = lib.parameters.HParamsPluginData.FromString(content).session_start_info.hparams
    assert (values["beta"].number_value, values["network"].string_value) == (1.0, "mlp")
    kinds = lib.parameters.HParamsPluginData.FromString(found["_hparams_/experiment"].metadata.plugin_data.content)
    assert {info.name for info in kinds.experiment.hparam_infos} == set(values)


@pytest.mark.parametrize("schedule", ["exponential --decay 0.5", "cosine --rate-warmup 4", "iwae", "steps --decay 0.5"])
def test_the_rate_that_is_shown_is_the_packages(schedule: str) -> None:
    flags = ["train", "--schedule", *schedule.split(), *(["--decay-steps", "3"] if "steps" in schedule else [])]
    spec = resolved(cli._parse("jaxvae", flags).spec, 1280)
    for step in range(0, 40, 3):
        expected = float(updates.learning_rate(spec, step // 10, step))
        assert learning_rate(spec.training, step // 10, step) == pytest.approx(expected, rel=1e-6), step


@pytest.mark.parametrize(
    "flags", quick(["", "--preset adversarial --hidden 6 --discriminator 5", "--preset flax-example"], [""])
)
def test_the_norm_is_that_of_the_gradient_of_a_step(flags: str, digits: Dataset, x64) -> None:
    """The same from both packages, where a state is left as it is; that of what a loop of one's own minimizes."""
    small = ["--data", "digits", "--hidden", "6", "--latent", "3", "--dtype", "float64"]
    spec = cli._parse("jaxvae", ["train", *flags.split(), *small]).spec
    images, states = digits.train[:20], [package.init_state(spec) for package in (jaxvae, torchvae)]
    states[1].model.load_state_dict(
        {name: torch.tensor(array) for name, array in jaxvae.to_arrays(spec, states[0].params).items()}
    )
    before = {name: array.copy() for name, array in torchvae.to_arrays(spec, states[1].model).items()}
    by_jax = jaxvae.gradient_norm(spec, states[0], images)
    assert torchvae.gradient_norm(spec, states[1], images) == pytest.approx(by_jax, rel=1e-12)
    assert all((array == before[name]).all() for name, array in torchvae.to_arrays(spec, states[1].model).items())
    if not flags:
        key = jax.random.fold_in(jaxvae.streams(states[0].key).noise, 0)
        grads = jax.grad(lambda params: jaxvae.loss(spec, params, jnp.asarray(images), key)[0])(states[0].params)
        squares = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(grads))
        assert by_jax == pytest.approx(squares**0.5, rel=1e-12)


def test_the_projector_has_the_latents_after_the_last_epoch(package, boards, digits) -> None:
    folder = boards[package.__name__] / "tensorboard"
    spec, weights = package.load(folder.parent / "model.safetensors")
    key = package.stream_key(package.root_key(0), "evaluation", 3)
    mean = package.encode_images(spec, weights, digits.test, key).mean
    # Six digits are written.
    np.testing.assert_allclose(np.loadtxt(folder / "tensors.tsv", delimiter="\t"), mean, rtol=1e-5, atol=1e-6)
    assert (folder / "metadata.tsv").read_text().split() == [str(label) for label in digits.test_labels]
    with Image.open(folder / "sprite.png") as sprite:
        tiles = np.asarray(sprite).reshape(18, 28, 18, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    np.testing.assert_array_equal(tiles[:297], digits.test[..., 0])


@pytest.mark.parametrize("step", [5, 24, 30])
def test_a_run_that_goes_on_shows_nothing_twice(package, boards, tmp_path, step: int) -> None:
    """In the other package, within an epoch, at its end, with what was written after the checkpoint; TensorBoard may
    have that in memory."""
    other = next(name for name in PACKAGES if name != package.__name__)
    run = at_step(boards[other], tmp_path / "run", step)
    before = events(files(run)[0])
    assert cli.main(package, ["train", "--resume", str(run)]) == 0
    assert len(files(run)) == 1
    after = events(files(run)[0])
    assert shown(after) == expected(run)
    assert len(shown(after)["loss/test"]) == 3
    assert shown([*before, *after]) == shown(after)


def test_tensorboard_is_begun_left_off_and_taken_up_at_any_time(boards, tmp_path) -> None:
    run = at_step(boards["jaxvae"], tmp_path / "run", 10)
    before = {path: path.read_bytes() for path in (run / "tensorboard").iterdir()}
    resume = ["train", "--resume", str(run)]
    assert cli.main(NUMPY_BACKEND, [*resume, "--no-tensorboard"]) == 0
    assert {path: path.read_bytes() for path in (run / "tensorboard").iterdir()} == before
    assert cli.main(NUMPY_BACKEND, resume) == 0
    assert shown(events(files(run)[0])) == expected(run)
    for path in (run / "tensorboard").iterdir():
        path.unlink()
    (run / "tensorboard").rmdir()
    assert cli.main(NUMPY_BACKEND, resume) == 0
    assert not (run / "tensorboard").exists()
    assert cli.main(NUMPY_BACKEND, [*resume, "--tensorboard"]) == 0
    assert shown(events(files(run)[0])) == expected(run)


@pytest.mark.parametrize("broken", ["events", "projector"])
def test_what_can_not_be_written_is_reported_and_made_up_for(broken: str, capsys, tmp_path, monkeypatch) -> None:
    """In the second of three epochs. The run is that of one without TensorBoard."""
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--out", str(tmp_path / "whole")]) == 0
    place, name = {"events": (tensorboard, "_append"), "projector": (projector, "update")}[broken]
    real, calls = getattr(place, name), []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == {"events": 3, "projector": 1}[broken]:  # the first is the run's beginning
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(place, name, full)
    run = tmp_path / "run"
    capsys.readouterr()
    assert cli.main(NUMPY_BACKEND, ["train", *TINY, "--tensorboard", "--out", str(run)]) == 0
    err = capsys.readouterr()[1]
    assert err == (
        f"jaxvae: WARNING: {run / 'tensorboard'} can't be written (No space left on device); training continues, and "
        "the next epoch or --resume writes it again.\n"
    )
    assert shown(events(files(run)[0])) == expected(run)
    results = {name: content for name, content in contents(run).items() if not name.startswith("tensorboard/")}
    assert results == contents(tmp_path / "whole")


def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(tmp_path) -> None:
    file = tmp_path / "events"
    file.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            tensorboard._append(file, bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"before"


def test_a_folder_that_can_not_be_made_is_reported_before_anything_is_written(boards, capsys, tmp_path) -> None:
    run = copy(boards["jaxvae"], tmp_path / "run")
    for path in (run / "tensorboard").iterdir():
        path.unlink()
    (run / "tensorboard").rmdir()
    (run / "tensorboard").write_text("mine")
    before = contents(run)
    capsys.readouterr()
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(run), "--tensorboard"]) == 2
    message = "must be a writable folder; remove it, or give --no-tensorboard."
    assert capsys.readouterr() == ("", f"jaxvae: {run / 'tensorboard'} {message}\n")
    after = contents(run)
    assert [name for name in before | after if before.get(name) != after.get(name)] == []


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_without_the_extra_it_is_named_before_anything_is_written(
    package, command: str, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    tensorboard._library.cache_clear()
    assert cli.main(package, [command, *TINY, "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    install = "pip install -e '.[tensorboard]' in the clone"
    message = f"--tensorboard needs tensorboardX; run {install}, or give --no-tensorboard."
    assert capsys.readouterr() == ("", f"{package.__name__}: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_brings_in_neither_torch_nor_jax_and_hides_neither() -> None:
    asked = "import importlib.util; from jaxvae.shared.training import tensorboard; tensorboard.require()"
    loaded = modules_after(f"{asked}; assert importlib.util.find_spec('torch')")
    assert "tensorboardX" in loaded
    assert not loaded & {"torch", "jax", "tensorflow"}


def numbered(n: int, height: int, width: int, channels: int) -> np.ndarray:
    """Image i is filled with i + 1."""
    return np.broadcast_to(np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None], (n, height, width, channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "side"), [(1, 1), (4, 2), (5, 3)])
def test_the_projectors_files(n: int, side: int, channels: int, tmp_path) -> None:
    latents = np.random.default_rng(0).normal(size=(n, 3))
    projector.write(tmp_path / "new", latents, [str(i % 3) for i in range(n)], numbered(n, 4, 6, channels))
    results = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert sorted(results) == ["metadata.tsv", "projector_config.pbtxt", "sprite.png", "tensors.tsv"]
    assert results["metadata.tsv"] == "".join(f"{i % 3}\n" for i in range(n)).encode()
    rows = [[float(number) for number in line.split("\t")] for line in results["tensors.tsv"].decode().splitlines()]
    np.testing.assert_allclose(rows, latents, rtol=1e-5)
    for line in ('tensor_path: "tensors.tsv"', 'metadata_path: "metadata.tsv"', 'image_path: "sprite.png"'):
        assert line in results["projector_config.pbtxt"].decode()
    assert results["projector_config.pbtxt"].decode().count("single_image_dim: 6\n") == 2
    with Image.open(tmp_path / "new" / "sprite.png") as image:
        assert (image.size, image.mode) == ((side * 6, side * 6), {1: "L", 3: "RGB"}[channels])
        tiles = np.asarray(image).reshape(side, 6, side, 6, channels).swapaxes(1, 2).reshape(-1, 6, 6, channels)
    np.testing.assert_array_equal(tiles[:n, 1:5], numbered(n, 4, 6, channels))
    assert not tiles[:, [0, 5]].any()  # beside what is wider than high
    assert not tiles[n:].any()


def test_a_sprite_that_would_be_too_large_is_made_smaller(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(projector, "_MAX_SPRITE", 10)
    projector.write(tmp_path, np.zeros((7, 2)), ["0"] * 7, numbered(7, 8, 4, 3))
    assert (tmp_path / "projector_config.pbtxt").read_text().count("single_image_dim: 3\n") == 2
    with Image.open(tmp_path / "sprite.png") as image:
        assert image.size == (9, 9)
        tiles = np.asarray(image).reshape(3, 3, 3, 3, 3).swapaxes(1, 2).reshape(9, 3, 3, 3)
    assert [set(tile.ravel()) - {0} for tile in tiles] == [*({i + 1} for i in range(7)), set(), set()]
    for n in (0, 101):
        with pytest.raises(InputError, match=f"shows from 1 to 100 images, found {n}"):
            projector.write(tmp_path, np.zeros((n, 2)), ["0"] * n, numbered(n, 8, 4, 3))


def test_the_projector_is_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    some = np.zeros((2, 2)), ["0", "0"], numbered(2, 4, 4, 1)
    with pytest.raises(InputError, match=r"no/folder can't be written \(No such file or directory\); give another"):
        projector.write(tmp_path / "no" / "folder", *some)
    projector.write(tmp_path / "there", *some)
    before = {path: path.read_bytes() for path in (tmp_path / "there").iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(projector.os, "fsync", full)
    for folder in ("there", "new"):
        with pytest.raises(InputError, match=rf"{folder} can't be written \(No space left on device\)"):
            projector.write(tmp_path / folder, np.ones((2, 2)), *some[1:])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_a_model_with_classes_gets_its_labels(tmp_path) -> None:
    flags = ["--classes", "10", "--max-steps", "2", "--tensorboard", "--out", str(tmp_path / "run")]
    assert cli.main(torchvae, ["train", *TINY, *flags]) == 0
    assert len((tmp_path / "run" / "tensorboard" / "tensors.tsv").read_text().splitlines()) == 297


def test_a_thousand_images_at_most(tmp_path, digits: Dataset) -> None:
    many = digits._replace(test=digits.test.repeat(4, 0), test_labels=digits.test_labels.repeat(4))
    np.save(tmp_path / "test.npy", many.test[..., 0])
    np.save(tmp_path / "train.npy", digits.train[..., 0])
    flags = ["--data", f"npy:{tmp_path}", "--tensorboard", "--out", str(tmp_path / "run")]
    assert cli.main(NUMPY_BACKEND, ["train", *TINY[2:], *flags]) == 0
    assert len((tmp_path / "run" / "tensorboard" / "tensors.tsv").read_text().splitlines()) == 1000
