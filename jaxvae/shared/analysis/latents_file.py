"""Latents of test images as a CSV or an NPY file."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.errors import InputError

_SUFFIXES = (".csv", ".npy")


def require(path: Path) -> None:
    """Raise InputError unless the path ends in .csv or .npy and can be written; to be called before slow work."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"Latents are written as CSV or NPY: {path} should end in .csv or .npy.")
    safe_io.require_writable(path, "give another --save")


def table(images: np.ndarray, labels: np.ndarray, names: Sequence[str], means: np.ndarray) -> np.ndarray:
    """Make the table of the latents.

    Args:
        images: The numbers of the test images, `[n]`.
        labels: Their classes, `[n]`.
        names: The names of these, `[n]`.
        means: The means of their posteriors, `[n, latent]`.

    Returns:
        A structured array `[n]` with the fields image, label, name and mean.
    """
    named = np.array(names)
    result = np.empty(
        len(images),
        [("image", "<i8"), ("label", "<i8"), ("name", named.dtype), ("mean", means.dtype, means.shape[1:])],
    )
    result["image"], result["label"], result["name"], result["mean"] = images, labels, named, means
    return result


def write(path: Path, table: np.ndarray) -> None:
    """Write the table, whole or not at all.

    Args:
        path: The file. A CSV has a column for each latent, mean_1 and so on, with digits that give the same number
            again; an NPY is read by `numpy.load`.
        table: What `table` returns.

    Raises:
        InputError: If the file can't be written.
    """
    try:
        safe_io.write_atomically(path, _csv(table) if path.suffix.lower() == ".csv" else _npy(table))
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); give another --save.") from None


def _csv(table: np.ndarray) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "name", *(f"mean_{i + 1}" for i in range(table["mean"].shape[1]))])
    for image, label, name, mean in table:
        writer.writerow([image, label, name, *map(str, mean)])
    return text.getvalue().encode()


def _npy(table: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    return buffer.getvalue()
