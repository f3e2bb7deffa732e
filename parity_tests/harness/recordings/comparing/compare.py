"""Compare two recordings level by level, and find the first layer that differs."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import MODULES, Diagnosis, Report
from parity_tests.harness.hooks.masks import first_apart
from parity_tests.harness.modules import layouts
from parity_tests.harness.modules.common.draws import alike
from parity_tests.harness.modules.common.structure import order_of, unchosen
from parity_tests.harness.recordings.arrays import Arrays
from parity_tests.harness.recordings.comparing import parts
from parity_tests.harness.recordings.comparing.levels import Levels
from parity_tests.harness.recordings.comparing.pairing import (
    FRAMEWORKS,
    Layouts,
    Pairing,
    by_mapping,
    of_inputs,
    same_names,
)
from parity_tests.harness.recordings.comparing.tree import grown
from parity_tests.harness.recordings.outputs import from_json
from parity_tests.harness.recordings.recording import Recording

_ALIKE = {
    "dtype": "dtype",
    "mode": "mode",
    "steps": "number of steps",
    "sample": "sample",
    "key": "key",
}
_SUBJECTS = {"jax": "The two JAX models", "torch": "The two torch modules"}


def compare_recordings(
    left: str | Path | Recording,
    right: str | Path | Recording,
    mapping: Any = None,
    *,
    channels_last: bool = True,
    input_layouts: layouts.Layouts = None,
    output_layouts: layouts.Layouts = None,
    outputs: Mapping[str, str] | Sequence[str] | None = None,
    ignore: Sequence[str] = (),
) -> Report:
    """Compare two recordings: inputs, weights, outputs, state, loss, gradients, optimizer steps.

    One of JAX and one of PyTorch are compared in PyTorch's names and layout, for which torch has to be installed; two
    of one framework need no framework. An entry may differ by a number of its own rounding errors, which `record`
    measured in both. The comparison ends at the first level that differs, since later levels depend on it.

    Args:
        left: A recording, or its file.
        right: Another one.
        mapping: Which JAX array is which torch tensor, see `compare_modules`; None to go by names and shapes. Two
            recordings of one framework are paired by equal names.
        channels_last: Whether the JAX model takes arrays of four axes as `[batch, height, width, channels]`.
        input_layouts: How JAX holds each input, see `compare_modules`.
        output_layouts: How JAX holds each output.
        outputs: Which output of JAX is which of torch, or a list of places that are the same in both; others are not
            compared, and are listed as not exercised.
        ignore: Regexes of whole paths and names that have no counterpart.

    Returns:
        The report. `about` says where each side is from.

    Raises:
        InputError: If a file is no whole recording, if the two were recorded otherwise (dtype, mode, steps, sample, a
            loss in one alone), or if their weights can't be paired.
    """
    if isinstance(ignore, str):
        raise InputError(f"ignore: expected a list of regexes, found {ignore!r}: put it in a list.")
    one, other = (given if isinstance(given, Recording) else Recording(given) for given in (left, right))
    if (one.framework, other.framework) == ("torch", "jax"):
        one, other = other, one
    _check_alike(one, other)
    given = Layouts(channels_last, input_layouts, output_layouts, order_of(outputs))
    if one.framework == other.framework:
        if mapping is not None:
            raise InputError(
                f"mapping: both recordings are of {FRAMEWORKS[one.framework]}, whose weights are paired by equal "
                "names: leave it out."
            )
        pairs, ignored = same_names(one, other, ignore)
        pairing = Pairing(pairs, (), (), ignored=ignored)
    else:
        pairing = across(one, other, mapping, ignore)
        one = parts.arranged(one, pairing.arrangement, held_in_parts(pairing, other))
    return compared(one, other, pairing, given)


def across(left: Recording, right: Recording, mapping: Any, ignore: Sequence[str], module: Any = None) -> Pairing:
    """Pair the weights of a recording of JAX with those of one of PyTorch; `module` is the torch module if it is here.

    Raises:
        InputError: If torch is missing, or the weights can't be paired.
    """
    if module is None:
        try:
            from parity_tests.harness.recordings import skeleton
        except ModuleNotFoundError as error:
            raise InputError(
                f"A recording of JAX and one of PyTorch are compared with {error.name}, which is not installed here: "
                "compare them where it is."
            ) from None
        module = skeleton.from_json(right.about["skeleton"], right.part("weights"))
    return by_mapping(left, right, module, mapping, ignore)


def held_in_parts(pairing: Pairing, recording: Recording) -> Arrays:
    """Return the recorded numbers of a torch module in JAX's layout, by the paths of the pairs.

    Raises:
        InputError: If the module has numbers of its own where JAX has none, or one array for several of its tensors.
    """
    from parity_tests.harness.modules.torch_state import entries, entry

    found, weights = pairing.arrangement, recording.part("weights")
    for name, first in found.shared.items():
        if not np.array_equal(weights[name], weights[first]) or recording.names("gradients"):
            raise InputError(
                f"mapping: JAX has one array where the recorded torch module has {first!r} and {name!r}, each with its "
                "own numbers or gradient: tie them there, or record the JAX model and compare the live torch module."
            )
    every = entries(pairing.module)
    for name in found.zeros:
        if entry(pairing.module, name, every).numpy().any():
            raise InputError(f"mapping: JAX has no array for {name!r} of the torch module, which isn't 0: give it one.")
    return {one.path: one.transform.to_jax(entry(pairing.module, one.name, every).numpy()) for one in found.pairs}


def compared(
    left: Recording,
    right: Recording,
    pairing: Pairing,
    given: Layouts,
    missing: tuple[str, ...] = (),
) -> Report:
    """Compare two recordings whose weights are paired; `missing`: what was recorded in one and can't be compared."""
    pairing = pairing._replace(inputs=of_inputs(left, right, given))
    levels = Levels(left, right, pairing, given)
    findings, diagnosis = [], None
    for finding, diagnose in levels:
        findings.append(finding)
        if not finding.passed:
            diagnosis = _with_masks(diagnose(), levels)
            break
    subject = MODULES if left.framework != right.framework else _SUBJECTS[left.framework]
    unexercised = () if diagnosis is not None else (*levels.unexercised, *pairing.ignored, *missing)
    if diagnosis is None and not (left.names("loss") and right.names("loss")):
        unexercised += alike({pair.right: right.arrays[f"weights/{pair.right}"] for pair in pairing.weights})
    if diagnosis is None:
        unexercised += unchosen(from_json(left.about["outputs"]), from_json(right.about["outputs"]), given.order)
    tree = None
    with contextlib.suppress(Exception):  # whatever goes wrong there, the report has the rest
        tree = grown(levels.layers, findings, diagnosis, levels.differences())
    return Report(
        _about(left, right),
        tuple(findings),
        diagnosis=diagnosis,
        drawn=tuple(dict.fromkeys([*left.about["drawn"], *right.about["drawn"]])),
        unexercised=unexercised,
        tree=tree,
        subject=subject,
    )


def _with_masks(diagnosis: Diagnosis | None, levels: Levels) -> Diagnosis | None:
    """Say in a diagnosis that the two drop other things, if they do."""
    both = [one.about["masks"] or () for one in (levels.left, levels.right)]
    if diagnosis is None or (k := first_apart(*both)) is None:
        return diagnosis
    drawn = " and ".join(
        f"{list(masks[k]) if k < len(masks) else 'none'} in {label}"
        for masks, label in zip(both, levels.labels, strict=True)
    )
    return diagnosis._replace(
        difference=f"{diagnosis.difference} Dropout takes other masks: number {k + 1} is {drawn}."
    )


def _check_alike(left: Recording, right: Recording) -> None:
    for field, name in _ALIKE.items():
        if left.about[field] != right.about[field]:
            raise InputError(
                f"{left.source} and {right.source} have not the same {name}: {left.about[field]} and "
                f"{right.about[field]}; record both with the same."
            )
    if (left.about["masks"] is None) != (right.about["masks"] is None):
        one, other = (left, right) if right.about["masks"] is None else (right, left)
        raise InputError(
            f"{one.source} was recorded with share_dropout=True and {other.source} without: record both alike."
        )
    for one, other in ((left, right), (right, left)):
        if one.names("loss") and not other.names("loss"):
            raise InputError(f"{one.source} has a loss and {other.source} has none: record both with one, or without.")


def _about(left: Recording, right: Recording) -> dict[str, Any]:
    """Return what made both: from which file or process, with which versions, on which devices."""
    labels = ("jax", "torch") if left.framework != right.framework else ("left", "right")
    kept = ("framework", "versions", "devices", "flags", "digests of", "sample", "layers")
    sides = {
        label: {"from": one.source, **{name: one.about[name] for name in kept}}
        for label, one in zip(labels, (left, right), strict=True)
    }
    return {**sides, "dtype": right.dtype, "mode": right.about["mode"]}
