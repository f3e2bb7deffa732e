"""Images held out for validation: which ones, their loss, the best epoch's weights, and training that ends early."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxvae
from jaxvae.shared import cli
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import streaming
from jaxvae.shared.data.dataset import Dataset, digest, held_out
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import best_epoch, metrics, run_folder
from parity_tests.support.numpy_backend import NUMPY_BACKEND, SIZES, contents
from parity_tests.support.tiny import small, some

pytestmark = pytest.mark.either

both = pytest.mark.parametrize("package", ["jaxvae", "torchvae"])
FLAGS = [*SIZES, "--train-images", "90", "--validation", "10", "--batch-size", "40", "--epochs", "9"]


def test_images_are_held_out_evenly(tmp_path: Path) -> None:
    images = np.arange(13, dtype=np.uint8).repeat(4).reshape(13, 2, 2, 1)
    data = Dataset("it", "memory", images, np.arange(13) // 5, images[:1], np.zeros(1))
    split = held_out(data, 4)
    assert split.validation is not None
    assert split.validation[:, 0, 0, 0].tolist() == [1, 4, 8, 11]
    assert split.train[:, 0, 0, 0].tolist() == [0, 2, 3, 5, 6, 7, 9, 10, 12]
    assert split.validation_labels.tolist() == [0, 0, 1, 2]  # type: ignore[union-attr]
    assert held_out(split, 4) is split
    assert digest(data) != digest(split)
    np.save(tmp_path / "train.npy", images)
    mapped = streaming.Mapped(np.load(tmp_path / "train.npy", mmap_mode="r"))
    assert digest(held_out(data._replace(train=mapped), 4)) == digest(split)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="13 training images, 13 are to be held out; give --validation 12 or"):
        held_out(data, 13)
    with pytest.raises(InputError, match="holds 4 images out for validation, the configuration 3"):
        held_out(split, 3)


def validating(**training: Any) -> Spec:
    """Statically binarised, with a bias of the training images' mean."""
    spec = small("flax-example")
    model = dataclasses.replace(spec.model, init="glorot-data")
    images = dataclasses.replace(spec.images, binarization="static", validation=10)
    training = {"dtype": "float64", "epochs": 3, **training}
    return dataclasses.replace(
        spec, model=model, images=images, training=dataclasses.replace(spec.training, **training)
    )


@both
def test_validation_images_are_evaluated_and_never_trained_on(package: str, x64: None) -> None:
    module, spec, data, seen = importlib.import_module(package), validating(), some(validating()), ([], [])
    state = module.fit(spec, data, seen[0].append)
    split = held_out(data, 10)
    assert split.validation is not None
    key = module.stream_key(module.root_key(spec.training.seed), "validation", 3)
    expected = module.average_terms(spec, state.evaluated, split.validation, key, None, "validation")
    assert (seen[0][-1].validation == expected).all()
    other = split._replace(validation=255 - split.validation)
    again = module.fit(spec, other, seen[1].append)
    assert [progress.test[0] for progress in seen[0]] == [progress.test[0] for progress in seen[1]]
    assert all(a.validation[0] != b.validation[0] for a, b in zip(*seen, strict=True))
    before, after = (module.to_arrays(spec, one.evaluated) for one in (state, again))
    assert all((before[name] == after[name]).all() for name in before)
    if package == "torchvae":
        theirs: list[jaxvae.Progress] = []
        jaxvae.fit(spec, data, theirs.append)
        for mine, their in zip(seen[0], theirs, strict=True):
            assert their.validation is not None
            np.testing.assert_allclose(mine.validation, their.validation, rtol=1e-13)


@both
def test_training_ends_when_the_patience_does(package: str) -> None:
    module, seen = importlib.import_module(package), []
    spec = validating(dtype="float32", patience=2)
    state = module.fit(spec, some(spec), lambda progress: seen.append(progress.epoch), history=[-1e9])
    assert seen == [1, 2]
    assert int(state.step) == 2 * spec.training.epoch_steps(60)


@pytest.mark.slow
def test_runs_trained_together_end_each_by_its_own_patience() -> None:
    spec = validating(dtype="float32", patience=2)
    specs = [spec, dataclasses.replace(spec, training=dataclasses.replace(spec.training, seed=1))]
    seen: list[tuple[int, int, Any]] = []
    finals = jaxvae.fit_together(
        specs, some(spec), lambda i, now: seen.append((i, now.epoch, now.validation)), histories=[[], [-1e9]]
    )
    assert [pair[:2] for pair in seen] == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]
    assert all(terms.shape == (3,) for *_, terms in seen)
    assert [int(finals[i].step) for i in (0, 1)] == [12, 8]


def test_the_best_epochs_weights_are_kept_and_training_ends_early(tmp_path: Path, capsys: Any) -> None:
    """The validation losses of this backend are 13, 11, 11, 13 and so on."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    train = lambda *flags: cli.main(NUMPY_BACKEND, ["train", *flags])  # noqa: E731
    assert train(*FLAGS, "--patience", "2", "--checkpoint-every", "100", "--keep", "9", "--out", str(out)) == 0
    text = capsys.readouterr().out
    assert "\n90 training images: 80 to train on, 10 to validate; 297 test images\n" in text
    assert "lowest after epoch 2 of 4, 11.000 nats per image: its weights are kept; training ended early" in text
    run = run_folder.read(out)
    assert [record["split"] for record in metrics.read(run)] == ["train", "validation", "test"] * 4
    assert run.config["data"]["train"] == 80
    assert best_epoch.steps_and_epochs(run) == (4, 2)
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-000000008.safetensors"]
    assert cli.main(NUMPY_BACKEND, ["list", str(out), "--json"]) == 0
    listed = capsys.readouterr().out
    assert '"state": "finished"' in listed
    assert '"best": 2' in listed
    before = contents(out)
    assert train("--resume", str(out)) == 0
    assert "It is finished, since 2 epochs did not improve its validation loss" in capsys.readouterr().out
    assert contents(out) == before
    # Resumed with more patience it is the run that had it from the beginning.
    assert train("--resume", str(out), "--patience", "4") == 0
    assert train(*FLAGS, "--patience", "4", "--checkpoint-every", "100", "--keep", "9", "--out", str(whole)) == 0
    kept, expected = contents(out), contents(whole)
    assert [name for name in kept if kept[name] != expected.get(name)] == [
        "checkpoints/step-000000008.safetensors",
        "checkpoints/steps.json",
        "model.safetensors",  # of the same weights, with the patience in its configuration
    ]
    weights = [weight_file.load(path)[1] for path in (out, whole)]
    assert all((weights[0][name] == array).all() for name, array in weights[1].items())


def test_the_best_weights_are_missed_when_they_are_gone(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert cli.main(NUMPY_BACKEND, ["train", *FLAGS, "--max-steps", "7", "--out", str(out)]) == 0
    (out / "model.safetensors").unlink()
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(out), "--max-steps", "9"]) == 2
    assert "the weights of epoch 2, the best one; restore it or train again" in capsys.readouterr().err


def test_an_epoch_that_was_cut_short_is_no_best_one_of_a_longer_run(tmp_path: Path, capsys: Any) -> None:
    """After step 5, within the third epoch, the loss is the lowest; at that epoch's end it is that of the second."""
    run, whole = run_folder.Run(tmp_path / "run", Spec(), {}), tmp_path / "whole"
    train = lambda *flags: cli.main(NUMPY_BACKEND, ["train", *flags])  # noqa: E731
    assert train(*FLAGS, "--max-steps", "5", "--out", str(run.path)) == 0
    for steps in ("5", "8"):
        assert "lowest after epoch 3 of 3, 10.000 nats per image" in capsys.readouterr().out
        assert train("--resume", str(run.path), "--max-steps", steps) == 0
    assert train(*FLAGS, "--max-steps", "8", "--out", str(whole)) == 0
    weights = [weight_file.load(path)[1] for path in (run.path, whole)]
    assert all((weights[0][name] == array).all() for name, array in weights[1].items())
    assert best_epoch.kept(run_folder.read(run.path))["epoch"] == 2  # type: ignore[index]


def test_lost_validation_records_are_reported(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert cli.main(NUMPY_BACKEND, ["train", *FLAGS, "--max-steps", "5", "--out", str(out)]) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(lines[:1] + lines[2:]))
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(out), "--max-steps", "9"]) == 2
    assert "should hold the records of the first 2 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--patience", "3"], "no images are held out for validation; give --validation, or --patience 0."),
        (["--validation", "90", "--train-images", "90"], "90 are to be held out; give --validation 89 or less."),
        (["--validation", "-1"], "validation must be"),
        (["--validation", "9", "--patience", "-1"], "patience must be"),
    ],
)
def test_what_can_not_be_is_refused(tmp_path: Path, capsys: Any, flags: list[str], sentence: str) -> None:
    assert cli.main(NUMPY_BACKEND, ["train", *SIZES, *flags, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_sweep_keeps_each_runs_best(tmp_path: Path, capsys: Any) -> None:
    command = ["sweep", *FLAGS, "--patience", "2", "--seeds", "0:2", "--out", str(tmp_path / "sweep")]
    assert cli.main(NUMPY_BACKEND, command) == 0
    assert "after the best epoch by validation loss" in capsys.readouterr().out
    assert cli.main(NUMPY_BACKEND, command) == 0
    assert "2 runs, 2 of them finished already" in capsys.readouterr().out
