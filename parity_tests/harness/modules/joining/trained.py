"""What the optimizers of two models train otherwise, since one has in parts what the other has as one."""

import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.inference.pieces import Arrangement
from parity_tests.harness.modules.joining.joints import SUMMED
from parity_tests.harness.modules.torch_state import whole


def without_frozen(arrangement: Arrangement, module: torch.nn.Module) -> Arrangement:
    """Return the arrangement in which what torch adds to another tensor, and doesn't train, is held at zero."""
    frozen = {name for name, tensor in module.named_parameters() if not tensor.requires_grad}
    names = {pair.path: pair.name for pair in arrangement.pairs}
    links, zeros, dropped = [], [], set()
    for link in arrangement.links:
        # Whichever of the parts has the array's shape may be the one that is trained.
        whole_ones = [part for part, shape in zip(link.parts, link.part_shapes, strict=True) if shape == link.shapes[0]]
        trained = [part for part in whole_ones if whole(names[part]) not in frozen]
        kept = trained[0] if trained else link.parts[0]
        extra = [part for part in link.parts if part != kept]
        if link.difference == SUMMED and all(whole(names[part]) in frozen for part in extra):
            alone = {"parts": (kept,), "part_shapes": link.shapes, "difference": None}
            link = link._replace(parted=lambda arrays: arrays, joined=lambda parts: parts, **alone)
            zeros += [names[part] for part in extra]
            dropped |= {*extra}
        links.append(link)
    pairs = tuple(pair for pair in arrangement.pairs if pair.path not in dropped)
    return arrangement._replace(pairs=pairs, links=tuple(links), zeros=(*arrangement.zeros, *zeros))


def apart(arrangement: Arrangement, module: torch.nn.Module) -> tuple[str, ...]:
    """Say what the optimizers of the two train otherwise, since one has in parts what the other has as one."""
    trained = {name for name, tensor in module.named_parameters() if tensor.requires_grad}
    names = {pair.path: pair.name for pair in arrangement.pairs}
    found: dict[str, list[str]] = {}
    for link in arrangement.links:
        theirs = [names[part] for part in link.parts if part in names]
        if link.difference and (len(link.paths) > 1 or any(whole(name) in trained for name in theirs[1:])):
            found.setdefault(link.difference, []).append(f"{_list(link.paths)} in JAX and {_list(theirs)} in PyTorch")
    for name, first in arrangement.shared.items():
        if name in trained:
            places = found.setdefault("the two take steps of their own", [])
            places.append(f"one array in JAX and {_list([first, name])} in PyTorch")
    if SUMMED in found:
        found[f"{SUMMED}, unless all but one are frozen at 0 (requires_grad_(False).zero_())"] = found.pop(SUMMED)
    alone = [
        f"{name!r}, which PyTorch trains and JAX doesn't have" for name in arrangement.zeros if whole(name) in trained
    ]
    return (*(f"{'; '.join(places)}: {difference}" for difference, places in found.items()), *alone)


def check_shared(arrangement: Arrangement, module: torch.nn.Module) -> None:
    """Raise InputError if of tensors that are one array in JAX torch trains some: tied, it would train all of them."""
    trained = {name: tensor.requires_grad for name, tensor in module.named_parameters(remove_duplicate=False)}
    for name, first in arrangement.shared.items():
        if trained[name] != trained[first]:
            frozen, other = (name, first) if trained[first] else (first, name)
            raise InputError(
                f"mapping: the JAX model has one array where the torch module has {other!r}, which is trained, and "
                f"{frozen!r}, which is frozen (requires_grad=False), so that their gradients can't be compared: give "
                "the JAX model two arrays, or train both, or leave losses out."
            )


def _list(names) -> str:
    return " and ".join(map(repr, names))
