"""A recording of JAX with its arrays as the torch module has them: in parts, see `mapping.arrange`."""

import itertools
from typing import Any

import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.common.names import in_list
from parity_tests.harness.recordings.arrays import Arrays
from parity_tests.harness.recordings.recording import BACKWARD, LAYERS, ROUNDING, WHOLE, Recording, Tensor


def arranged(recording: Recording, arrangement: Any, tensors: Arrays) -> Recording:
    """Return a recording whose linked arrays are in parts, under the names of the parts.

    Args:
        recording: A recording of JAX.
        arrangement: The arrangement of the two models.
        tensors: Torch's numbers in JAX's layout by the paths of the parts, where they were recorded too: which sum
            an array is can't be told from it.

    Raises:
        InputError: If what stands for several arrays has another gradient than they have.
    """
    from parity_tests.harness.modules.joining.joints import NORMED, SUMMED

    if not arrangement.links and not arrangement.stacks:
        return recording
    for link in arrangement.links:
        if link.difference == NORMED:
            raise InputError(
                f"mapping: {', '.join(map(repr, link.paths))} of JAX is in other arrays in PyTorch "
                f"({link.difference}), which a recording of JAX can't be arranged as: record the torch module, and "
                "compare the live JAX model with that."
            )
    arrays, about = dict(recording.arrays), dict(recording.about)
    shapes, places = dict(about["shapes"]), dict(recording.places)
    order = list(about["order"])
    paths = [path for link in arrangement.links for path in link.paths]
    ends = [(name, f"/{path}") for path in paths for name in order]
    prefixes = dict.fromkeys(name.removesuffix(end) for name, end in ends if name.endswith(end))
    for prefix in prefixes:
        for link in arrangement.links:
            whole = [f"{prefix}/{path}" for path in link.paths]
            if not all(name in arrays for name in whole):
                continue
            parts = _parts(recording, link, whole, prefix.rpartition("/")[2] == "gradients")
            if prefix == "weights":
                _check(link, recording, parts)
            if prefix == "weights" and link.difference == SUMMED:
                parts = _torchs(link, parts, tensors)
            names = [f"{prefix}/{part}" for part in link.parts]
            at = order.index(whole[0])
            order = [name for name in order if name not in whole]
            order[at:at] = names
            for name in whole:
                for old in (name, ROUNDING + name, WHOLE + name, f"{ROUNDING}{WHOLE}{name}"):
                    arrays.pop(old, None)
                shapes.pop(name, None)
            for name, part in zip(names, parts, strict=True):
                arrays[name], arrays[ROUNDING + name] = part.values, part.floor
                if part.places is not None:
                    shapes[name], places[name] = list(part.shape), part.places
    state = [part for link in arrangement.links for part in link.parts if link.paths[0] in about["state"]]
    unmoved = [f"weights/{part}" for link in arrangement.links for part in link.parts
               if f"weights/{link.paths[0]}" in about["unmoved"]]  # fmt: skip
    renamed = {label: in_list(label, arrangement.stacks) for label in about["calls"]}
    for old, new in renamed.items():
        starts = itertools.product(("", ROUNDING, WHOLE, ROUNDING + WHOLE), (LAYERS, BACKWARD), ("input", "output"))
        for start, kind, which in starts if old != new else ():
            if (name := f"{start}{kind}/{old}/{which}") in arrays:
                arrays[f"{start}{kind}/{new}/{which}"] = arrays.pop(name)
    about |= {
        "order": order,
        "shapes": shapes,
        "state": [*about["state"], *state],
        "unmoved": [*about["unmoved"], *unmoved],
        "parts": [part for link in arrangement.links for part in link.parts],
        "calls": [renamed[label] for label in about["calls"]],
    }
    return Recording.of(about, arrays, recording.source, places)


def _check(link: Any, recording: Recording, parts: list[Tensor]) -> None:
    """Raise InputError if several arrays that the torch module has as one don't hold the same numbers."""
    again = link.joined([part.values for part in parts])
    for path, other in zip(link.paths, again, strict=True):
        held = recording.arrays[f"weights/{path}"]
        if len(link.paths) > 1 and not np.allclose(held, other, rtol=4 * np.finfo(np.float32).eps, atol=0):
            raise InputError(
                f"mapping: the JAX arrays {', '.join(map(repr, link.paths))} are one tensor in the torch module, and "
                f"{path!r} doesn't hold its numbers: record the model with the same numbers."
            )


def _slopes(link: Any, gradients: list[np.ndarray]) -> list[np.ndarray]:
    """Return the gradient of each part, of which every entry is in some entries of the whole."""
    slopes = []
    for i, shape in enumerate(link.part_shapes):
        probes = [np.zeros(other, np.int64) for other in link.part_shapes]
        probes[i] = np.arange(1, int(np.prod(shape, dtype=np.int64)) + 1).reshape(shape)
        slope = np.zeros(probes[i].size, gradients[0].dtype)
        for ids, gradient in zip(link.joined(probes), gradients, strict=True):
            inside = np.asarray(ids).reshape(-1) > 0
            np.add.at(slope, np.asarray(ids).reshape(-1)[inside] - 1, gradient.reshape(-1)[inside])
        slopes.append(slope.reshape(shape))
    return slopes


def _parts(recording: Recording, link: Any, names: list[str], gradient: bool) -> list[Tensor]:
    """Return the parts of linked tensors; `gradient`: whether they are gradients, of which the sum's terms have all."""
    tensors = [recording.tensor(name) for name in names]

    def parted(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if gradient and arrays[0].dtype.kind in "fc":
            return _slopes(link, arrays)
        every = zip(link.parted(arrays), link.part_shapes, strict=True)
        return [np.asarray(part).reshape(shape) for part, shape in every]

    if all(tensor.places is None for tensor in tensors):
        values = parted([tensor.values for tensor in tensors])
        floors = parted([tensor.floor for tensor in tensors])
        every = zip(values, floors, strict=True)
        return [Tensor(np.ascontiguousarray(v), v.shape, None, np.ascontiguousarray(f)) for v, f in every]
    if len(tensors) > 1 or link.difference is not None:
        raise InputError(
            f"mapping: {', '.join(names)} of {recording.source} is sampled, and is in other arrays in PyTorch: record "
            "it without sample."
        )
    whole = tensors[0]
    size, held = int(np.prod(whole.shape, dtype=np.int64)), whole.places
    assert held is not None
    result = []
    for ids in parted([np.arange(size).reshape(whole.shape)]):
        at = np.minimum(np.searchsorted(held, ids.reshape(-1)), len(held) - 1)
        kept = np.flatnonzero(held[at] == ids.reshape(-1))
        result.append(Tensor(whole.values[at[kept]], ids.shape, kept, whole.floor[at[kept]]))
    return result


def _torchs(link: Any, parts: list[Tensor], tensors: Arrays) -> list[Tensor]:
    """Return torch's terms of a sum, if they were recorded and make the sum."""
    if not all(part in tensors for part in link.parts):
        return parts
    theirs = [np.ascontiguousarray(tensors[part]) for part in link.parts]
    given = link.joined([part.values for part in parts])
    again = link.joined(theirs)
    rounding = 4 * np.finfo(theirs[0].dtype).eps
    if all(np.allclose(a, b, rtol=rounding, atol=rounding) for a, b in zip(given, again, strict=True)):
        return [part._replace(values=other) for part, other in zip(parts, theirs, strict=True)]
    return parts
