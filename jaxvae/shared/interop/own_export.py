"""The configuration that an export of this project has beside its tensors, from which the model is known."""

from collections.abc import Sequence
from pathlib import Path

from jaxvae.shared.backend import FileKind
from jaxvae.shared.config.presets import DEFAULT_PRESET
from jaxvae.shared.config.serialization import from_json
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.name_mapping import Rule, entries
from jaxvae.shared.interop.name_table import TABLE
from jaxvae.shared.interop.recognition import Match
from jaxvae.shared.interop.source import Source
from jaxvae.shared.model import layout
from jaxvae.shared.safe_io import read_json
from jaxvae.shared.text import shown


def match(path: Path, kind: FileKind, names: Sequence[str], given: Given) -> Match | None:
    """Match tensors to the configuration beside them.

    Args:
        path: The file, with its configuration in `NAME.config.json`, or Orbax's folder, with `config.json` in it.
        kind: The kind of the file.
        names: The tensors' names without the prefixes of wrappers.
        given: What replaces fields of the configuration.

    Returns:
        The export as a source, and its configuration; None if there is none beside it, or one of another model.

    Raises:
        InputError: If the configuration is invalid, or something given is incompatible with it.
    """
    file = path / "config.json" if kind == "orbax" else path.with_name(f"{path.stem}.config.json")
    try:
        value = read_json(file)
    except (OSError, ValueError):  # of no concern, unless the names are unknown
        return None
    if not isinstance(value, dict) or not {"jaxvae_version", "spec"} <= set(value):
        return None
    spec = from_json(value["spec"], f"The configuration in {file}")
    for name in ("network", "encoder", "decoder", "classes"):
        if (asked := getattr(given, name)) not in (None, own := getattr(spec.model, name)):
            raise InputError(f"{file} has the {name} {shown(own)}, not {shown(asked)}; leave --{name} out.")
    spec = given.applied(spec)
    laid = "flax" if kind in ("msgpack", "orbax") else "torch-hwc"
    layers = {".".join(map(str, layer.path)): layer.kind for layer in layout.layers(spec.model)}
    targets = [name if kind == "scalar" else f"{name}.*" for name, kind in layers.items()]
    rules = tuple(Rule(target, target, laid) for target in targets)
    if {entry.source for entry in entries(spec.model, rules)} != set(names):
        return None
    source = Source(TABLE, "an export of this project", given.preset or DEFAULT_PRESET, rules)
    return Match(source, source.preset, spec, configured=file)
