"""All pairs of the gallery."""

from gallery_pairs import convolution, diffusion, image, recurrent, text
from gallery_pairs.pair import Pair

PAIRS: tuple[Pair, ...] = (*text.PAIRS, *image.PAIRS, *convolution.PAIRS, *diffusion.PAIRS, *recurrent.PAIRS)
