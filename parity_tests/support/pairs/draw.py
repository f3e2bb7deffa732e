"""Draw a case from a seed: a network that one edit can change, the edited copy, and the way to compare them."""

import contextlib
import itertools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from parity_tests.support.pairs.block import chance, pick
from parity_tests.support.pairs.blocks.heads import Logits
from parity_tests.support.pairs.blocks.pointwise import Dropped
from parity_tests.support.pairs.case import Case
from parity_tests.support.pairs.edits import EDITS, Edit
from parity_tests.support.pairs.generic import gap, torch_gap
from parity_tests.support.pairs.grammar import draw_net
from parity_tests.support.pairs.network import Net

SEEN = 1e-6
"""The least difference of an edited pair at random weights."""
_NETS = 3000
"""How many networks are drawn for an edit at most."""
_TRIED = 40
"""How many of those that have something to edit are run."""


class Drawn(NamedTuple):
    """A pair as it is, and edited."""

    edit: Edit
    framework: str
    """The framework that is edited."""
    places: tuple[str, ...] | None
    """The torch names of the layers of which one must be named; None where the place is undefined."""
    plain: Case
    edited: Case


def edit_of(seed: int) -> Edit:
    """Return the edit of a seed: each in its turn, in another order every time."""
    turn, place = divmod(seed, len(EDITS))
    return EDITS[np.random.default_rng(turn).permutation(len(EDITS))[place]]


def draw(seed: int, edit: Edit | None = None) -> Drawn:
    """Draw the pair of a seed and its edit, which is a difference at random weights.

    Args:
        seed: Any whole number from 0.
        edit: The edit; None takes that of the seed, or the next one if it changes nothing that the inputs of the seed
            show, such as the embedding of a word that is not among them.
    """
    for chosen in [edit] if edit else map(edit_of, range(seed, seed + len(EDITS))):
        candidates = filter(None, (candidate(seed, attempt, chosen) for attempt in range(_NETS)))
        for drawn in itertools.islice(candidates, _TRIED):
            with contextlib.suppress(ValueError, TypeError, RuntimeError):  # the shapes after the edit don't fit
                if (gap if chosen.framework == "JAX" else torch_gap)(drawn.edited) > SEEN:
                    return drawn
    raise AssertionError(f"no network was drawn of which an edit of seed {seed} is a difference")


def candidate(seed: int, attempt: int, edit: Edit) -> Drawn | None:
    """Draw a network, and edit it if the edit finds something to change in it."""
    rng = np.random.default_rng([seed, attempt])
    net = draw_net(rng, seed)
    steady = net.flavour == "function" or any(isinstance(block, Dropped) for block in net.blocks)
    if steady and edit.train:
        return None
    changed = list(edit.changed(net))
    if not changed:
        return None
    other, places = pick(rng, changed)
    framework = pick(rng, ("JAX", "PyTorch")) if edit.framework == "either" else edit.framework
    train = edit.train if edit.train is not None else not steady and chance(rng, 0.4)
    loss = pick(rng, ("square", "waves")) if edit.losses or chance(rng, 0.75) else None
    if loss and isinstance(net.blocks[-1], Logits):
        loss = "logsumexp"
    plain = Case(net, net, train, loss, chance(rng, 0.5))
    edited = replace(plain, **{"in_jax" if framework == "JAX" else "in_torch": other})
    return Drawn(edit, framework, places, plain, edited)


def blocks(net: Net) -> list[str]:
    """Return the kinds of a network's blocks."""
    return [type(block).__name__ for block in net.blocks]
