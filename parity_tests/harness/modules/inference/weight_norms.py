"""Pair kernels with weight normalization, whose size and direction are apart in torch."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

from parity_tests.harness.modules.inference.pieces import Arrangement, Pair
from parity_tests.harness.modules.joining.joints import Shape, weight_norm
from parity_tests.harness.modules.joining.links import as_one, in_parts
from parity_tests.harness.modules.torch_state import entries
from parity_tests.harness.modules.transforms import Transform, layout


class Normed(NamedTuple):
    """A tensor with weight normalization."""

    size: str
    axis: int | None
    """The axis that has a size for each entry."""


def normed(module: nn.Module) -> dict[str, Normed]:
    """Return the tensors with weight normalization in a torch module, by the names of their directions."""
    found = {}
    for layer, held in module.named_modules():
        prefix = f"{layer}." if layer else ""
        if parametrize.is_parametrized(held):
            for leaf, steps in held.parametrizations.items():  # type: ignore[union-attr, operator]
                if len(steps) == 1 and type(steps[0]).__name__ == "_WeightNorm":
                    names = [f"{prefix}parametrizations.{leaf}.original{i}" for i in range(2)]
                    found[names[1]] = Normed(names[0], None if steps[0].dim == -1 else steps[0].dim)
        for hook in held._forward_pre_hooks.values():
            if type(hook).__name__ == "WeightNorm":
                leaf = hook.name
                axis = None if hook.dim == -1 else hook.dim
                found[f"{prefix}{leaf}_v"] = Normed(f"{prefix}{leaf}_g", axis)
    return found


def without_sizes(shapes: Mapping[str, Shape]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the arrays without those of Flax's own weight normalization, each by a path without its wrapper, and for
    such a path that of its size."""
    sizes = {}
    for path in shapes:
        if (match := re.fullmatch(r"(?:.*/)?WeightNorm_\d+/(.+)/scale", path)) is not None:
            inner = match[1]
            kernels = [other for other in shapes if other == inner or other.endswith(f"/{inner}")]
            parent = path[: match.start(1)].rpartition("WeightNorm_")[0]
            sizes.update({f"{parent}{inner}": path for _ in kernels[:1]})
        elif (match := re.fullmatch(r"(?:(.*)/)?scales/\('(.+)',\)", path)) is not None:
            parent = f"{match[1]}/" if match[1] else ""
            sizes[f"{parent}{match[2].replace(chr(39), '').replace(', ', '/')}"] = path
    kept = {path.replace("layer_instance/", ""): path for path in shapes if path not in sizes.values()}
    return kept, sizes


def arranged(
    found: Arrangement,
    shapes: Mapping[str, Shape],
    module: nn.Module,
    kept: Mapping[str, str],
    sizes: Mapping[str, str],
) -> Arrangement:
    """Return an arrangement with the sizes of the directions that are in it.

    Args:
        found: The arrangement without the sizes; its paths are without Flax's wrappers.
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module, with weight normalization.
        kept: The JAX model's own path of each.
        sizes: The path of the size of each that has Flax's weight normalization.
    """
    every, directions = entries(module), normed(module)
    direct, links = [], [link._replace(paths=tuple(kept[path] for path in link.paths)) for link in found.links]
    for pair in found.pairs:
        path = kept.get(pair.path, pair.path)
        if pair.name not in directions and pair.path in sizes:
            paths = [sizes[pair.path], path]
            link = as_one(paths, [shapes[one] for one in paths], f"{path} (normed)", shapes[path], weight_norm())
            links.append(link)
            direct.append(pair._replace(path=link.parts[0]))
            continue
        if pair.name not in directions:
            direct.append(pair._replace(path=path))
            continue
        one = directions[pair.name]
        size = tuple(every[one.size].tensor.shape)
        if pair.path in sizes:
            direct.append(Pair(path, pair.name, pair.transform))
            mine = shapes[sizes[pair.path]]
            direct.append(Pair(sizes[pair.path], one.size, layout(every[one.size].layer, "scale", size, mine)))
            continue
        direction = tuple(every[pair.name].tensor.shape)
        axes = () if one.axis is None else (_axis(pair.transform, one.axis, len(direction)),)
        link = in_parts(
            path, shapes[path], [size, shapes[path]], weight_norm(axes), [f"{path} (size)", path + " (direction)"]
        )
        links.append(link)
        direct += [Pair(link.parts[0], one.size, Transform()), Pair(link.parts[1], pair.name, pair.transform)]
    return found._replace(pairs=tuple(direct), links=tuple(links))


def _axis(transform: Transform, axis: int, ndim: int) -> int:
    """Return the axis of JAX's layout that is an axis of torch's."""
    shape = [1] * ndim
    shape[axis] = 2
    return transform.to_jax(np.empty(shape)).shape.index(2)
