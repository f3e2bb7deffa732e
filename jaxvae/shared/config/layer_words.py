"""The layers of the network `layers` in words, such as `conv32k4s2p1+norm`, and the maps that they give.

A map is height, width and channels; what a linear layer gives, and a latent, is a map of one pixel.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from jaxvae.shared.config.choices import Activation
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

Map = tuple[int, int, int]
KINDS = "conv32k4s2p1, up32k4s2p1o0, linear256 or linear4x4x32"
HELP = (
    "`conv32k4s2p1` is a convolution to 32 channels with a 4x4 kernel, stride 2 and padding 1, without s and p stride "
    "1 and padding 0; `up32k4s2p1o0` is its transpose, whose output is o0 larger at the end; `linear256` gives 256 "
    "features and `linear4x4x32` a map of height 4, width 4 and 32 channels. `+norm` after a word is batch norm before "
    "the activation, `+plain` no activation, and `+tanh`, or another of them, that activation in place of the model's."
)
_ACTIVATIONS = ("plain", *get_args(Activation))
_MOST = 2**31  # numbers in a map
_SPATIAL = re.compile(r"(conv|up)(\d{1,9})k(\d{1,9})(?:s(\d{1,9}))?(?:p(\d{1,9}))?(?:o(\d{1,9}))?", re.ASCII)
_LINEAR = re.compile(r"linear(\d{1,9})(?:x(\d{1,9})x(\d{1,9}))?", re.ASCII)


class Word(NamedTuple):
    """A layer, as its word says."""

    text: str
    kind: Literal["linear", "conv", "conv-transpose"]
    outputs: int
    """Channels of the map it gives."""
    size: tuple[int, int] = (1, 1)
    """Height and width of the map that a linear layer gives."""
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    norm: bool = False
    plain: bool = False
    """Whether no activation follows."""
    activation: Activation | None = None
    """The activation that follows in place of the model's."""

    def gives(self, given: Map) -> Map:
        """The map it makes of another; its height or width is not positive where that is too small."""
        if self.kind == "linear":
            return (*self.size, self.outputs)
        if self.kind == "conv":
            height, width = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in given[:2])
        else:
            height, width = (
                (n - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding for n in given[:2]
            )
        return height, width, self.outputs


def parse(text: str, network: str) -> Word:
    """Read a word.

    Args:
        text: The word.
        network: `encoder` or `decoder`, for the message.

    Returns:
        The layer.

    Raises:
        InputError: If it is no such word, or a number in it is invalid.
    """
    name, *endings = text.split("+")
    last = [ending for ending in endings if ending in _ACTIVATIONS]
    if sorted(set(endings)) != sorted(endings) or len(last) > 1 or not {"norm", *last}.issuperset(endings):
        allowed = ", ".join(f"+{ending}" for ending in _ACTIVATIONS)
        raise _invalid(network, f"words that end in nothing, +norm or one of {allowed}, found {shown(text)}")
    own = next((ending for ending in last if ending != "plain"), None)
    after: dict[str, Any] = {"norm": "norm" in endings, "plain": "plain" in endings, "activation": own}
    if found := _LINEAR.fullmatch(name):
        first, width, channels = (int(n or 1) for n in found.groups())
        made = (first, (1, 1)) if found[2] is None else (channels, (first, width))
        word = Word(text, "linear", *made, **after)
    elif found := _SPATIAL.fullmatch(name):
        outputs, kernel, stride, padding, more = (int(n or d) for n, d in zip(found.groups()[1:], "00100", strict=True))
        if found[1] == "conv" and found[6] is not None:
            raise _invalid(network, f"words of which only up has an output padding o, found {shown(text)}")
        kind = "conv" if found[1] == "conv" else "conv-transpose"
        word = Word(text, kind, outputs, (1, 1), kernel, stride, padding, more, **after)
    else:
        raise _invalid(network, f"words such as {KINDS}, found {shown(text)}")
    if min(word.outputs, *word.size, word.kernel, word.stride) < 1:
        raise _invalid(network, f"words with positive numbers but for p and o, found {shown(text)}")
    if word.output_padding >= word.stride and word.output_padding:
        raise _invalid(network, f"words with an output padding below the stride, found {shown(text)}")
    return word


def words(texts: Sequence[str], network: str) -> list[Word]:
    """Read the words of a network; see `parse`."""
    return [parse(text, network) for text in texts]


def maps(layers: Sequence[Word], given: Map, network: str) -> list[Map]:
    """Compute the maps that layers give, one after another.

    Args:
        layers: The layers.
        given: The map that the first one takes.
        network: `encoder` or `decoder`, for the message.

    Returns:
        One map for each layer.

    Raises:
        InputError: If a layer gets a map that is too small for it, or gives one that is too large.
    """
    result = []
    for layer in layers:
        before, given = given, layer.gives(given)
        if min(given) < 1:
            raise _invalid(
                network, f"layers that give one pixel at least, found {layer.text} after a map of {_by(before)}"
            )
        if math.prod(given) >= _MOST:
            raise _invalid(network, f"layers that give fewer than 2^31 numbers, found {layer.text}")
        result.append(given)
    return result


def image(decoder: Sequence[str]) -> Map:
    """Compute the image that a decoder's words give, or the `square` of all numbers if the last is a linear layer."""
    layers = words(decoder, "decoder")
    made = maps(layers, (1, 1, 1), "decoder")[-1]
    return square(made[2]) or made if layers[-1].kind == "linear" and made[:2] == (1, 1) else made


def square(pixels: int) -> Map | None:
    """The square image with this number of values, grey if possible, or else in three colours; None if there is
    none."""
    for channels in (1, 3):
        edge = math.isqrt(max(0, pixels) // channels)
        if edge and edge * edge * channels == pixels:
            return (edge, edge, channels)
    return None


def check(encoder: Sequence[str], decoder: Sequence[str], image: Map, latent: int) -> None:
    """Check that the words of both networks fit one another and the image.

    Args:
        encoder: The words of the encoder.
        decoder: The words of the decoder.
        image: Height, width and channels of an image.
        latent: The number of latents.

    Raises:
        InputError: If a network has no word, a word is invalid, a map is too small, or the decoder gives no image.
    """
    for texts, network in ((encoder, "encoder"), (decoder, "decoder")):
        if not texts:
            raise _invalid(network, f"one layer or more for the network layers, words such as {KINDS}, found none")
    maps(words(encoder, "encoder"), image, "encoder")
    layers = words(decoder, "decoder")
    if "+" in layers[-1].text:
        raise _invalid("decoder", f"words of which the last, its output, has no +, found {layers[-1].text}")
    made = maps(layers, (1, 1, latent), "decoder")[-1]
    if made != image and (layers[-1].kind != "linear" or made != (1, 1, math.prod(image))):
        raise _invalid(
            "decoder", f"layers that give the image, {_by(image)}, found {layers[-1].text}, which gives {_by(made)}"
        )


def _by(size: Map) -> str:
    return "x".join(map(str, size))


def _invalid(network: str, expected: str) -> InputError:
    return InputError(f"The configuration's {network} must be {expected}.")
