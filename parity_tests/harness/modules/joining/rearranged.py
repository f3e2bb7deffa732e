"""Give a JAX model its arrays as the torch module has them: in parts, or several as one."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.adapters import Network, flatten, path_of
from parity_tests.harness.modules.common.names import in_list
from parity_tests.harness.modules.inference.pieces import Arrangement
from parity_tests.harness.modules.inference.ties import tied
from parity_tests.harness.modules.joining.joints import TIED
from parity_tests.harness.modules.joining.links import Arrays, Link, joined, parted
from parity_tests.harness.modules.joining.trained import apart, check_shared, without_frozen
from parity_tests.harness.modules.pair import Both
from parity_tests.harness.modules.torch_state import entries, entry

__all__ = ["apart", "arranged", "check_shared", "rearranged", "without_frozen"]


def arranged(both: Both, arrangement: Arrangement, weights: str) -> Both:
    """Return both networks with the pairs of an arrangement, and with what it needs in either: parts of arrays in JAX;
    tied tensors, and zeros, in torch.

    Args:
        both: Both networks, as they were passed.
        arrangement: The arrangement.
        weights: Whose weights are compared: "jax", "torch" or "compare".

    Raises:
        InputError: If the weights of one framework are none that the other one can hold.
    """
    every = entries(both.module)
    for name, first in arrangement.shared.items():
        if weights != "jax" and not torch.equal(every[name].tensor, every[first].tensor):
            raise InputError(
                f"mapping: the JAX model has one array where the torch module has {first!r} and {name!r}, which hold "
                "other numbers: tie them, or pass weights='jax'."
            )
    tied(both.module, arrangement.shared)
    for name in arrangement.zeros:
        held = entry(both.module, name, every).value
        if weights != "jax" and held.any():
            raise InputError(
                f"mapping: the JAX model has no array for {name!r} of the torch module, which isn't 0: give the JAX "
                "model one, or pass weights='jax'."
            )
        held.zero_()
    both = both._replace(net=rearranged(both.net, arrangement), pairs=arrangement.pairs)
    return _with_torchs_parts(both, arrangement) if weights == "compare" else both


def _with_torchs_parts(both: Both, arrangement: Arrangement) -> Both:
    """Take torch's parts where they make JAX's array: which sum, or which size and direction, can't be told from it."""
    tensors, transforms = both.tensors(both.module), {pair.path: pair for pair in both.pairs}
    own = both.arrays()
    for link in arrangement.links:
        if link.difference is None or not all(part in transforms for part in link.parts):
            continue
        pairs = [transforms[part] for part in link.parts]
        theirs = [pair.transform.to_jax(tensors[pair.name]) for pair in pairs]
        given = link.joined([own[part] for part in link.parts])
        if all(_near(mine, np.asarray(other)) for mine, other in zip(given, link.joined(theirs), strict=True)):
            both = both.holding(dict(zip(link.parts, theirs, strict=True)))
    return both


def rearranged(net: Network, arrangement: Arrangement) -> Network:
    """Return the network with its arrays by path in two flat dicts, those that are linked in parts.

    Raises:
        InputError: If several arrays that the torch module has as one don't hold the same numbers.
    """
    links = arrangement.links
    if not links:
        return net
    trees = net.params, net.state

    def own(tree: Any, arrays: Arrays) -> Any:
        whole = joined(arrays, links)
        return jax.tree_util.tree_map_with_path(lambda path, _: whole[path_of(path)], tree)

    def parts(tree: Any) -> dict[str, Any]:
        return parted({path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}, links)

    def apply(params: Any, state: Any, *inputs: Any) -> tuple[Any, Any]:
        outputs, after = net.apply(own(trees[0], params), own(trees[1], state), *inputs)
        return outputs, parts(after)

    def watch(params: Any, state: Any, *inputs: Any) -> Any:
        assert net.watch is not None
        calls = net.watch(own(trees[0], params), own(trees[1], state), *inputs)
        return {in_list(label, arrangement.stacks): call for label, call in calls.items()}

    def tapped(taps: Any, params: Any, state: Any, *inputs: Any) -> Any:
        assert net.tapped is not None
        return net.tapped(taps, own(trees[0], params), own(trees[1], state), *inputs)

    params, state = map(parts, trees)
    _check(flatten(trees[0]) | flatten(trees[1]), flatten(params) | flatten(state), links)
    return Network(
        params,
        state,
        apply,
        net.watch and watch,
        net.tapped and tapped,
        lambda arrays: own(trees[0], arrays),
        lambda tree: parts(tree),
    )


def _check(own: Arrays, parts: Arrays, links: Sequence[Link]) -> None:
    again = joined(parts, links)
    for link in links:
        for path in link.paths if link.difference == TIED else ():
            if path in own and own[path].dtype.kind in "fc" and not _near(own[path], again[path]):
                raise InputError(
                    f"mapping: the JAX arrays {', '.join(map(repr, link.paths))} are one tensor in the torch module, "
                    f"and {path!r} doesn't hold its numbers: give them the same numbers."
                )


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays are the same to rounding; numbers of float32 in float64 to that of float32."""
    single = np.array_equal(one, one.astype(np.float32), equal_nan=True)
    with np.errstate(all="ignore"):
        return bool(
            np.allclose(one, other, rtol=4 * np.finfo(np.float32 if single else one.dtype).eps, atol=0, equal_nan=True)
        )
