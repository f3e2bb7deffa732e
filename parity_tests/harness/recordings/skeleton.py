"""The layers of a torch module as JSON, and a module of the same kinds of layers that holds the recorded tensors."""

import sys
from typing import Any

import numpy as np
import torch
from torch import nn

from parity_tests.harness.modules.torch_state import persistent, tensor

_OWN = "recorded"


def to_json(module: nn.Module) -> dict[str, Any]:
    """Describe a module's layers: each one's class, the torch layer it is a kind of, and its settings.

    Settings are None, booleans, numbers, texts and tuples of these; others are left out.
    """
    saved = persistent(module)
    first: dict[int, str] = {}
    tensors = []
    for kind, named in (("parameter", module.named_parameters), ("buffer", module.named_buffers)):
        for name, held in named(remove_duplicate=False):
            same = first.setdefault(id(held), name)
            settings = {"trained": held.requires_grad, "saved": kind == "parameter" or name in saved}
            tensors.append({"name": name, "kind": kind, "same": same, **settings})
    layers = []
    for name, layer in module.named_modules(remove_duplicate=False):
        base = next(cls for cls in type(layer).__mro__ if _class(cls.__module__, cls.__qualname__) is cls)
        settings = {k: _plain(v) for k, v in vars(layer).items() if _is_plain(v) and not k.startswith("__")}
        layers.append(
            {
                "name": name,
                "class": type(layer).__qualname__,
                "own": base is not type(layer),
                "kind": [base.__module__, base.__qualname__],
                "settings": settings,
                "empty": [[k for k, v in held.items() if v is None] for held in (layer._parameters, layer._buffers)],
            }
        )
    return {"tensors": tensors, "layers": layers}


def from_json(described: dict[str, Any], weights: dict[str, np.ndarray]) -> nn.Module:
    """Make a module of layers of the recorded kinds, which hold the recorded tensors.

    Layers of torch's own compute what they computed there; a layer of the user's own class is one of a kind that is
    named alike, and computes what the torch layer that it extends does.
    """
    kinds: dict[tuple[str, ...], type[nn.Module]] = {}
    layers: dict[str, nn.Module] = {}
    for one in described["layers"]:
        base = _class(*one["kind"])
        kind = kinds.setdefault(
            (one["class"], *one["kind"]), type(one["class"], (base,), {"__module__": _OWN}) if one["own"] else base
        )
        layer = kind.__new__(kind)
        nn.Module.__init__(layer)
        vars(layer).update({name: _tuple(value) for name, value in one["settings"].items()})
        for held, empty in zip((layer._parameters, layer._buffers), one["empty"], strict=True):
            held.update(dict.fromkeys(empty))
        layers[one["name"]] = layer
        parent, _, leaf = one["name"].rpartition(".")
        if one["name"]:
            layers[parent]._modules[leaf] = layer
    made: dict[str, torch.Tensor] = {}
    for one in described["tensors"]:
        parent, _, leaf = one["name"].rpartition(".")
        layer, name = layers[parent], one["same"]
        if name not in made:
            value = tensor(weights[name]).clone()
            made[name] = nn.Parameter(value, one["trained"]) if one["kind"] == "parameter" else value
        held = made[name]
        if one["kind"] == "parameter":
            layer._parameters[leaf] = held  # type: ignore[assignment]
        else:
            layer._buffers[leaf] = held
            if not one["saved"]:
                layer._non_persistent_buffers_set.add(leaf)
    for layer in layers.values():
        if names := getattr(layer, "_flat_weights_names", None):
            layer._flat_weights = [layer._parameters.get(name) for name in names]  # type: ignore[assignment]
    return layers[""].train(bool(described["layers"][0]["settings"].get("training", False)))


def _class(module: str, name: str) -> type[nn.Module]:
    """Return a torch layer's class, `nn.Module` for one that this torch has not; nothing is imported."""
    found = getattr(sys.modules.get(module), name, None) if module.startswith("torch.nn") else None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else nn.Module


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | str | type(None)) or (isinstance(value, float) and np.isfinite(value))


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
