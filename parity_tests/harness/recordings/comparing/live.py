"""Compare a live model with a recording: it is given the recording's inputs and weights, and recorded here."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis, Layer, Report, Source
from parity_tests.harness.modules.common.names import kind
from parity_tests.harness.modules.common.structure import order_of
from parity_tests.harness.modules.layers import owners
from parity_tests.harness.recordings import arguments
from parity_tests.harness.recordings.arguments import Call
from parity_tests.harness.recordings.comparing import parts
from parity_tests.harness.recordings.comparing.compare import across, compare_recordings, compared, held_in_parts
from parity_tests.harness.recordings.comparing.pairing import Layouts, Pairing, carried_inputs, same_names
from parity_tests.harness.recordings.measure import measured
from parity_tests.harness.recordings.model import Model, Options
from parity_tests.harness.recordings.recorder import check, is_torch, model_of
from parity_tests.harness.recordings.recording import Recording

_RECORDED = {"steps": 5, "train": False, "dtype": "float64", "share_dropout": False}
"""What a recording decides, with the defaults of `compare_modules`: only another value was asked for."""
_LIVE = {
    "jax_inputs": (None, "the inputs are the recording's"),
    "torch_inputs": (None, "the inputs are the recording's"),
    "weights": ("jax", "the weights are the recording's"),
    "strict": (False, "the report lists what was not exercised"),
    "statistics": (True, "the state that was recorded is compared"),
}
"""What is for two live models alone, with its default and why."""


DEFAULTS = {
    **{name: default for name, (default, _) in _LIVE.items()},
    **_RECORDED,
    **dict.fromkeys(("losses", "optimizers", "scheduler", "input_layouts", "output_layouts", "outputs")),
    **{"method": None, "torch_method": None, "channels_last": True, "ignore": ()},
}
"""Of the options of `compare_modules` that are read here."""


def compare(
    jax_model: Any, params: Any, torch_module: Any, mapping: Any, inputs: Any, options: dict[str, Any]
) -> Report:
    """Compare a recording with a live model, or with another recording; see `compare_modules` for the arguments.

    Raises:
        InputError: If inputs or options are given that the recording decides, or as `compare_recordings` raises it.
    """
    if unknown := options.keys() - DEFAULTS.keys():
        raise TypeError(f"assert_parity() got an unexpected keyword argument {min(unknown)!r}")
    options = DEFAULTS | options
    layouts = (
        options["channels_last"],
        options["input_layouts"],
        options["output_layouts"],
        order_of(options["outputs"]),
    )
    given = Layouts(*layouts)
    recordings = [one for one in (jax_model, torch_module) if isinstance(one, Recording)]
    if not (isinstance(inputs, tuple) and not inputs):
        raise InputError(
            f"inputs: they are those of the recording {recordings[0].source}, and were given again: leave them out."
        )
    for name, (default, why) in _LIVE.items():
        if options[name] != default:
            raise InputError(f"{name}: with a recording expected {default!r}, found {options[name]!r}: {why}.")
    if isinstance(options["ignore"], str):
        raise InputError(f"ignore: expected a list of regexes, found {options['ignore']!r}: put it in a list.")
    _check_recorded(recordings[0], options)
    if len(recordings) == 1:
        return _against(jax_model, params, torch_module, mapping, given, options)
    if options["losses"] is not None or options["optimizers"] is not None:
        raise InputError("losses: both are recordings, which hold their own: leave losses and optimizers out.")
    named = ("channels_last", "input_layouts", "output_layouts", "outputs", "ignore")
    one, other = recordings
    return compare_recordings(one, other, mapping, **{name: options[name] for name in named})


def _against(
    jax_model: Any, params: Any, torch_module: Any, mapping: Any, given: Layouts, options: Mapping[str, Any]
) -> Report:
    first = isinstance(torch_module, Recording)  # whether the live model stands in the first place
    model, recording = (jax_model, torch_module) if first else (torch_module, jax_model)
    about, framework = recording.about, "torch" if is_torch(model) else "jax"
    same = framework == recording.framework
    loss, optimizer = (_own(options[name], name, first) for name in ("losses", "optimizers"))
    missing = _missing(recording, loss, optimizer)
    chosen = Options(
        dtype=recording.dtype,
        train=about["mode"] == "training",
        method=options["method"] if first else options["torch_method"],
        loss=loss,
        optimizer=optimizer,
        scheduler=options["scheduler"],
        steps=max(1, about["steps"]),
        layers=about["layers"] if same else None,
        sample=about["sample"],
        key=about["key"],
        share_dropout=about["masks"] is not None,
    )
    check(model, params, chosen)
    arrays = carried_inputs(recording, framework, given)
    call = Call(recording.names("inputs"), arrays, arguments.from_json(about["arguments"]))
    mine = model_of(model, params, call, chosen)
    pairing, recording = _filled(mine, recording, first, mapping, options["ignore"])
    made = measured(mine, call, chosen)
    left, right = (made, recording) if (first if same else framework == "jax") else (recording, made)
    report = compared(left, right, pairing, given, missing)
    return report._replace(diagnosis=report.diagnosis and _located(report.diagnosis, model, framework))


def _located(diagnosis: Diagnosis, model: Any, framework: str) -> Diagnosis:
    """Return a diagnosis with the class of the live model that has each layer, or the function that is the model."""
    layer = diagnosis.layer
    if inspect.isfunction(model):
        layer = (layer or Layer())._replace(jax_source=owners.own(model))
    elif layer is not None and framework == "torch":
        layer = layer._replace(torch_source=_owner(model, layer.torch, ".", framework))
    elif layer is not None:
        layer = layer._replace(jax_source=_owner(model, layer.jax, "/", framework))
    return diagnosis._replace(layer=layer, more=tuple(_located(one, model, framework) for one in diagnosis.more))


def _owner(model: Any, name: str | None, separator: str, framework: str) -> Source | None:
    """Return the source of what has a layer; None of Linen's, whose modules exist in a call alone."""
    if name is None:
        return None
    if framework == "torch":
        return owners.owner(name, separator, {name: type(part) for name, part in model.named_modules()})
    from flax import nnx

    parts = nnx.iter_modules(model) if isinstance(model, nnx.Module) else ()
    return owners.owner(name, separator, {"/".join(map(str, path)): type(part) for path, part in parts})


def _filled(
    mine: Model, recording: Recording, first: bool, mapping: Any, ignore: Sequence[str]
) -> tuple[Pairing, Recording]:
    """Carry the recording's weights over to the live model, by the mapping, or by equal names in one framework.

    Returns:
        The pairs, and the recording as they name its arrays.
    """
    weights = {f"weights/{name}": array for name, array in mine.weights().items()}
    outline = {**mine.outline(calls=mapping is None), "order": list(weights), "shapes": {}}
    live = Recording.of(outline, weights)
    if mine.framework == recording.framework:
        if mapping is not None:
            raise InputError("mapping: both models are of one framework and are paired by equal names: leave it out.")
        pairs, ignored = same_names(*((live, recording) if first else (recording, live)), ignore)
        for pair in pairs:
            shapes = [one.arrays[f"weights/{pair.right}"].shape for one in (recording, live)]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"{pair.right} has the shape {list(shapes[0])} in {recording.source} and {list(shapes[1])} in the "
                    "live model: compare models of the same shapes."
                )
        mine.fill({pair.right: recording.arrays[f"weights/{pair.right}"] for pair in pairs})
        return Pairing(pairs, (), (), ignored=ignored), recording
    if mine.framework == "torch":
        return _filled_torch(mine, recording, live, mapping, ignore)
    pairing = across(live, recording, mapping, ignore)
    mine.arrange(pairing.arrangement)  # type: ignore[attr-defined]
    mine.fill(held_in_parts(pairing, recording))
    return pairing, recording


def _filled_torch(
    mine: Any, recording: Recording, live: Recording, mapping: Any, ignore: Sequence[str]
) -> tuple[Pairing, Recording]:
    from parity_tests.harness.modules.inference.ties import tied
    from parity_tests.harness.modules.joining.trained import check_shared
    from parity_tests.harness.modules.torch_state import entries, entry

    pairing = across(recording, live, mapping, ignore, mine.module)
    found = pairing.arrangement
    if recording.names("gradients"):
        check_shared(found, mine.module)
    tied(mine.module, found.shared)
    every = entries(mine.module)
    for name in found.zeros:
        entry(mine.module, name, every).value.zero_()
    recording = parts.arranged(recording, found, {})
    held = recording.part("weights")
    mine.fill({one.name: one.transform.to_torch(held[one.path]) for one in found.pairs})
    return pairing, recording


def _missing(recording: Recording, loss: Any, optimizer: Any) -> tuple[str, ...]:
    """Return what was recorded and the live model was given no function for."""
    held = {"losses": bool(recording.names("loss")), "optimizers": bool(recording.about["steps"])}
    for (name, recorded), own in zip(held.items(), (loss, optimizer), strict=True):
        if own is not None and not recorded:
            what = {"losses": "a loss", "optimizers": "an optimizer"}[name]
            raise InputError(f"{name}: {recording.source} was recorded without {what}: record it with one.")
    missing = ["the recorded loss and its gradients"] if held["losses"] and loss is None else []
    return (*missing, *(["the recorded optimizer steps"] if held["optimizers"] and optimizer is None else []))


def _own(given: Any, where: str, first: bool) -> Any:
    """Return the live model's of a pair of losses or optimizers, of which the other is None, or what is given alone."""
    if not isinstance(given, tuple) or hasattr(given, "update"):
        return given
    if len(given) != 2 or given[first] is not None:
        raise InputError(
            f"{where}: the recording holds its own, found {kind(given)} of {len(given)}: pass the live model's alone."
        )
    return given[not first]


def _check_recorded(recording: Recording, options: Mapping[str, Any]) -> None:
    about = recording.about
    held = {"steps": about["steps"], "train": about["mode"] == "training", "dtype": recording.dtype}
    held["share_dropout"] = about["masks"] is not None
    if options["dtype"] not in ("float32", "float64"):
        raise InputError(
            f"dtype: with a recording expected {held['dtype']!r}, which {recording.source} was recorded with, found "
            f"{options['dtype']!r}: fewer bits are compared between two live models alone."
        )
    for name, default in _RECORDED.items():
        if options[name] not in (default, held[name]):
            raise InputError(
                f"{name}: {recording.source} was recorded with {held[name]!r}, found {options[name]!r}: leave it out, "
                "or record it again."
            )
