"""All pairs of the gallery."""

from gallery_pairs import text
from gallery_pairs.pair import Pair

PAIRS: tuple[Pair, ...] = (*text.PAIRS,)
