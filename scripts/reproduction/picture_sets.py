"""Folders of small colour pictures, drawn from a seed: what somebody's own pictures may be like.

Each set has 500 pictures of 64x64 in class folders, PNG and JPEG. `train` keeps every tenth one for testing.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jaxvae.shared.data.sklearn_digits import digits

EDGE, PICTURES = 64, 500
_LARGE = 2 * EDGE  # drawn at this size and made smaller, so that edges are smooth
_JPEG = 92  # quality

Draw = Callable[[np.random.Generator, str], np.ndarray]
"""Draws a picture of a class: `[height, width, 3]` in [0, 1]."""


def write(name: str, folder: Path, pictures: int | None = None, seed: int = 0) -> None:
    """Write a set: a third of the pictures as PNG, the others as JPEG.

    Args:
        name: The set, an entry of SETS.
        folder: The folder to write, which gets a subfolder for each class.
        pictures: The number of pictures; by default PICTURES.
        seed: The seed of the drawings.
    """
    classes, draw = SETS[name]
    rng = np.random.default_rng(list(SETS).index(name) + len(SETS) * seed)
    for i in range(PICTURES if pictures is None else pictures):
        label = classes[i % len(classes)]
        picture = Image.fromarray((draw(rng, label).clip(0, 1) * 255).round().astype(np.uint8))
        (folder / label).mkdir(parents=True, exist_ok=True)
        ending = ".png" if i // len(classes) % 3 == 0 else ".jpg"
        picture.resize((EDGE, EDGE), Image.Resampling.LANCZOS).save(folder / label / f"{i:03d}{ending}", quality=_JPEG)


def shape(rng: np.random.Generator, label: str) -> np.ndarray:
    """Draw a striped disc, square or triangle anywhere, of any size and turn, on a smooth background."""
    mask = Image.new("L", (_LARGE, _LARGE))
    radius, turn = rng.uniform(0.18, 0.36) * _LARGE, rng.uniform(0, 2 * np.pi)
    centre = rng.uniform(0.3, 0.7, 2) * _LARGE
    angles = turn + 2 * np.pi * np.arange(corners := {"disc": 60, "square": 4, "triangle": 3}[label]) / corners
    outline = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in outline], fill=255)
    y, x = np.mgrid[:_LARGE, :_LARGE] / _LARGE
    direction, waves = rng.uniform(0, 2 * np.pi), rng.uniform(3, 7)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * waves * (x * np.cos(direction) + y * np.sin(direction)))
    return _over(_slope(rng), _mixed(rng.random(3), rng.random(3), stripes), np.asarray(mask) / 255)


def digit(rng: np.random.Generator, label: str) -> np.ndarray:
    """Draw one of scikit-learn's digits in a colour, turned and moved, on a background of another colour."""
    data = digits((EDGE, EDGE, 1))
    number = rng.choice(np.flatnonzero(data.train_labels == int(label)))
    inner, border = round(0.7 * _LARGE), round(0.15 * _LARGE)
    small = Image.fromarray(data.train[number, :, :, 0]).resize((inner, inner), Image.Resampling.BICUBIC)
    picture = Image.new("L", (_LARGE, _LARGE))
    picture.paste(small, (border, border))
    x, y = rng.integers(-_LARGE // 10, _LARGE // 10 + 1, 2)
    turned = picture.rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC, translate=(int(x), int(y)))
    return _over(_slope(rng), np.broadcast_to(rng.random(3), (1, 1, 3)), np.asarray(turned) / 255)


def landscape(rng: np.random.Generator, label: str) -> np.ndarray:
    """Draw hills, a sea or a desert below a clouded sky: textures have the 1/f amplitudes of photographs."""
    y = np.mgrid[:_LARGE, :_LARGE][0] / _LARGE
    blue, haze = np.array([0.25, 0.45, 0.85]), np.array([0.95, 0.8, 0.65])
    horizon = rng.uniform(0.35, 0.65)
    sky = _mixed(blue + rng.normal(0, 0.08, 3), haze + rng.normal(0, 0.08, 3), (y / horizon).clip(0, 1))
    clouds = (rng.uniform(0.2, 0.6) + 0.35 * _texture(rng)).clip(0, 1) * (1 - (y / horizon).clip(0, 1) ** 2)
    picture = _over(sky, np.full((1, 1, 3), rng.uniform(0.8, 1)), clouds)
    ground = np.array({"hills": (0.2, 0.42, 0.15), "sea": (0.1, 0.35, 0.5), "desert": (0.8, 0.6, 0.35)}[label])
    layers = {"hills": 3, "sea": 1, "desert": 2}[label]
    for i in range(layers):
        rough = {"hills": 0.09, "sea": 0.0, "desert": 0.04}[label]
        ridge = horizon + (1 - horizon) * i / layers + rough * _texture(rng, 2)[_LARGE // 2][None]
        light = 0.8 + 0.4 * (i + 1) / layers * rng.uniform(0.6, 1)
        surface = (ground + rng.normal(0, 0.05, 3)) * light * (1 + 0.18 * _texture(rng))[..., None]
        picture = _over(picture, surface, ((y - ridge) * _LARGE + 0.5).clip(0, 1))
    return picture


SETS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "shapes": (("disc", "square", "triangle"), shape),
    "digits": (tuple("0123456789"), digit),
    "landscapes": (("hills", "sea", "desert"), landscape),
}
"""The classes of each set, and what draws a picture of one."""


def _texture(rng: np.random.Generator, power: int = 1) -> np.ndarray:
    """Noise with amplitudes of 1/f^power, mean 0 and variance 1: `[height, width]`."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(_LARGE), np.fft.rfftfreq(_LARGE), indexing="ij"))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(_LARGE, _LARGE))) / frequency**power, (_LARGE, _LARGE))
    return (noise - noise.mean()) / noise.std()


def _slope(rng: np.random.Generator) -> np.ndarray:
    """A colour that turns into another in some direction."""
    y, x = np.mgrid[:_LARGE, :_LARGE] / _LARGE - 0.5
    direction = rng.uniform(0, 2 * np.pi)
    return _mixed(rng.random(3), rng.random(3), 0.5 + (x * np.cos(direction) + y * np.sin(direction)) / np.sqrt(2))


def _mixed(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The first colour where the share is 0, the second where it is 1."""
    return first + (second - first) * share[..., None]


def _over(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return below + (above - below) * mask[..., None]
