"""Measure the memory that rejecting each malformed weight file takes: python -m parity_tests.corrupt.memory"""

import json
import resource
import struct
import tempfile
import tracemalloc
from pathlib import Path

from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from jaxvae.shared.safe_io import MAX_JSON_BYTES
from parity_tests.corrupt import transforms
from parity_tests.corrupt.transforms import Kind
from parity_tests.corrupt.weights import CHECKPOINT, WEIGHTS

LARGEST = Kind("4 MB of empty lists", transforms.text(transforms.empty_lists(MAX_JSON_BYTES)), "")
ROOM = 2**30  # bytes of address space, the interpreter included


def peak(kind: Kind, whole: bytes) -> tuple[int, int, int]:
    """Return numbers of bytes: stored on disk, declared as the header's length, and allocated to reject the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        kind.put(path, whole)
        stored = path.stat().st_blocks * 512 if path.is_file() else 0
        header = 0
        if stored:
            with path.open("rb") as file:
                header = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        tracemalloc.start()
        try:
            weight_file.load_checkpoint(path)
        except InputError:
            return stored, header, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    raise AssertionError(f"{kind.name} was accepted")


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    weights, checkpoint = transforms.whole_weights(), transforms.whole_checkpoint()
    peaks = {f"weights: {kind.name}": peak(kind, weights) for kind in [*WEIGHTS, LARGEST]}
    peaks |= {f"checkpoint: {kind.name}": peak(kind, checkpoint) for kind in CHECKPOINT}
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
