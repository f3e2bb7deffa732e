"""A long metrics.jsonl: what is read of it, what is drawn, and where it is cut."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import svg_charts
from jaxvae.shared.runs import best_epoch, metrics, metrics_parts, run_folder
from parity_tests.corrupt import readers

STEPS, EPOCHS = 2000, 10
TERMS = "loss", "reconstruction", "kl"


@pytest.fixture
def run(tmp_path) -> run_folder.Run:
    return run_folder.read(readers.run(tmp_path / "run"))


def written(run: run_folder.Run) -> list[dict[str, Any]]:
    """Ten epochs of records, numbers of every form among them."""
    draw, records = np.random.default_rng(0), []
    for step in range(1, STEPS * EPOCHS + 1):
        epoch = (step - 1) // STEPS + 1
        values = dict(zip(TERMS, draw.normal(size=3).tolist(), strict=True))
        records.append({"step": step, "epoch": epoch, "split": "train", **values})
        if step % STEPS == 0:
            records.append({"step": step, "epoch": epoch, "split": "test", **dict.fromkeys(TERMS, 1.0 / epoch)})
    for place, value in {5: 1e-7, 77: -1.5e300, 4321: 12345678901234567.0, 9999: 2.5e16, 15000: -0.0}.items():
        records[place]["kl"] = value
    run.metrics.write_bytes(metrics._lines(records))
    return records


def test_a_long_file_is_drawn_by_its_first_last_and_extreme_records(run) -> None:
    records = written(run)
    drawn = metrics.to_draw(run)
    assert len(drawn) <= len(records) / 2
    for split in ("train", "test"):
        whole, some = ([r for r in found if r["split"] == split] for found in (records, drawn))
        assert len(some) <= (metrics_parts._PARTS + 1) * (2 + 2 * len(TERMS))
        assert (some[0], some[-1]) == (whole[0], whole[-1])
        for term in TERMS:
            for extreme in (min, max):
                assert extreme(r[term] for r in some) == extreme(r[term] for r in whole)
    places = {json.dumps(record): i for i, record in enumerate(records)}
    order = [places[json.dumps(record)] for record in drawn]
    assert order == sorted(set(order))
    assert metrics.read(run) == records
    assert metrics.last(run) == records[-1]
    assert best_epoch.steps_and_epochs(run) == (STEPS * EPOCHS, EPOCHS)


def test_a_short_file_is_drawn_whole(run) -> None:
    assert metrics.to_draw(run) == metrics.read(run)
    run.metrics.write_bytes(b"")
    assert metrics.to_draw(run) == []
    assert metrics.last(run) is None
    assert best_epoch.steps_and_epochs(run) == (0, run.spec.training.epochs)


@pytest.mark.parametrize("epoch", [1, 4, EPOCHS + 1])
def test_a_long_file_is_cut_before_an_epoch(run, epoch: int) -> None:
    written(run)
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    with run.metrics.open("ab") as file:
        file.write(lines[0][:-9])  # its process was killed
    metrics.cut(run, epoch, STEPS * (epoch - 1))
    assert run.metrics.read_bytes() == b"".join(lines[: (STEPS + 1) * (epoch - 1)])
    with pytest.raises(InputError, match=f"the records of the first {epoch} epochs"):
        metrics.cut(run, epoch + 1, STEPS * epoch)


def test_a_last_line_without_its_end_gets_it(run) -> None:
    whole = run.metrics.read_bytes()
    run.metrics.write_bytes(whole[:-1])
    metrics.cut(run, 2, 3)
    assert run.metrics.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'"kl": 1e999}', "kl must be a finite number, found inf"),
        (b'"kl": 1e+99999}', "kl must be a finite number, found inf"),
        (b'"kl": 2}', "kl must be a finite number, found 2"),
        (b'"kl": 00.5}', "Expecting ',' delimiter"),
        (b'"kl": 0.5} {}', "Extra data"),
        (b'"kl": 0.5, "kl": 0.5}', "'kl' given twice"),
    ],
)
@pytest.mark.parametrize("read", [metrics.read, metrics.to_draw])
def test_a_wrong_line_of_a_long_file_is_named(run, text: bytes, says: str, read: Any) -> None:
    written(run)
    lines = run.metrics.read_bytes().splitlines()
    lines[12_344] = lines[12_344].partition(b'"kl"')[0] + text
    run.metrics.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=f"line 12345, is not a record of metrics .{says}"):
        read(run)


def test_a_line_without_an_end_is_refused_after_some_megabytes(run) -> None:
    with run.metrics.open("ab") as file:
        file.truncate(2**33)  # eight gigabytes of zeros, which take no place on the disk
    for read in (metrics.read, metrics.to_draw, metrics.last):
        with pytest.raises(InputError, match=r"line 5, is not a record of metrics .*4,194,304"):
            read(run)


def test_a_long_line_of_a_chart_has_its_ends_and_extremes() -> None:
    y = np.random.default_rng(0).normal(size=100_000)
    points = svg_charts._thinned(svg_charts.Line("train", np.arange(100_000.0), y))
    assert len(points) <= 300
    assert (points[0], points[-1]) == ((0.0, y[0]), (99_999.0, y[-1]))
    assert {float(y.min()), float(y.max())} <= {value for _, value in points}
    assert [x for x, _ in points] == sorted({x for x, _ in points})


def test_a_file_of_another_program_is_read_as_it_is(run, tmp_path: Path) -> None:
    """Other spaces, other line ends, fields in another order."""
    records = metrics.read(run)
    text = "\r\n".join(json.dumps(dict(reversed(record.items())), indent=None) for record in records)
    run.metrics.write_text(text.replace(": ", " :"))
    assert metrics.read(run) == records == metrics.to_draw(run)
    assert metrics.last(run) == records[-1]
