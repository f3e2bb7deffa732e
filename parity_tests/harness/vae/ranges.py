"""States with every head at both ends of its range.

A clip, a floor, an added epsilon, a saturation or an overflow in one package shows only where a head, which is a last
layer of a network, or a hidden layer gives numbers beyond it. Training gets there late or never, so each layer is
driven there by its bias, one layer and one number at a time. A small model of the same kinds of layers stands for the
configuration's: a layer's range depends on its kind and not on the number of its units, and hundreds of states of a
small model cost less than one of a large one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxvae.shared.config import layer_words
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from parity_tests.harness.compare import Gap, named_pairs
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.batch import Batch

Arrays = dict[str, np.ndarray]

# Next to 0, where a quotient may be replaced by a series; then between the usual clips: above those at 2 to 8, at 10,
# at 15, and at 30 and 50. A softplus that is linear from 20 on differs most just above 20, which a learned log-variance
# reaches at 8. The last numbers overflow exp in float32, then in float64. None has an exponential between a dtype's
# least normal number and 0, where XLA gives 0 and PyTorch does not.
_LADDER = (1e-3, 1.0, 9.0, 12.0, 20.0, 80.0)
LADDER = {"float32": (*_LADDER, 120.0), "float64": (*_LADDER, 300.0, 800.0)}
_HIDDEN = (1.0, 9.0, 120.0, 800.0)  # what of it a hidden layer is driven to: activations have fewer ends
_UNITS, _CHANNELS, _LATENT, _IMAGES, _SAMPLES, _STEP = 8, 2, 6, 8, 3, 20
_SPREAD = 0.2  # of a head's numbers around the one that it is driven to, as a share of it, and at most 1


class State(NamedTuple):
    """A small model with one layer driven to one number."""

    layer: str
    value: float
    spec: Spec
    arrays: Arrays
    batch: Batch

    @property
    def name(self) -> str:
        return f"with {self.layer} at {self.value:g}"


def small(spec: Spec) -> Spec:
    """Make a configuration of the same kinds of layers, likelihood, posterior and objective, with few units."""
    image = (4, 3, min(spec.model.image[2], 3))
    model = replace(
        spec.model,
        image=image,
        encoder=_few(spec.model.encoder, "encoder", image),
        decoder=_few(spec.model.decoder, "decoder", image),
        hidden=spec.model.hidden and (_UNITS,),
        latent=_LATENT,
        discriminator=spec.model.discriminator and (_UNITS,),
        init="pytorch",
    )
    return replace(
        spec,
        model=model,
        objective=replace(spec.objective, samples=min(spec.objective.samples, _SAMPLES)),
        images=replace(spec.images, train_images=None, resize=False),
        training=replace(spec.training, batch_size=_IMAGES),
    )


def _few(texts: tuple[str, ...], network: str, image: layer_words.Map) -> tuple[str, ...]:
    """Words of one layer of each kind with each ending, in the order of the first of them. All of them give maps of an
    image's height and width, and a decoder's end in the image."""
    height, width, channels = image
    words = layer_words.words(texts, network)
    maps = {"conv": "conv{}k3p1", "conv-transpose": "up{}k3p1", "linear": f"linear{height}x{width}x{{}}"}

    def word(layer: layer_words.Word, outputs: int) -> str:
        endings = ["norm"] * layer.norm + ["plain"] * layer.plain + ([layer.activation] if layer.activation else [])
        return "+".join([maps[layer.kind].format(outputs), *endings])

    if network == "encoder" or not words:
        return tuple(dict.fromkeys(word(layer, _CHANNELS) for layer in words))
    hidden = dict.fromkeys(word(layer, _CHANNELS) for layer in words[:-1])
    if words[0].kind != "linear":  # a map of that size, of one pixel
        hidden = {maps["linear"].format(_CHANNELS): None, **hidden}
    return (*hidden, word(words[-1], channels))


def states(spec: Spec) -> dict[str, State]:
    """Make the states of a configuration.

    Args:
        spec: The configuration.

    Returns:
        The states by name; of each layer in the order of the distance from 0, first the one next to it.
    """
    spec = small(spec)
    rng = np.random.default_rng(spec.training.seed)
    start, batch = _weights(spec, rng), _batch(spec, rng)
    record: dict[str, np.ndarray] = {}
    out = reference.forward(spec, start, batch, record=record)
    if spec.model.discriminator:
        reference.judge(spec, start, out.z[0], record)
    made = [
        _driven(spec, start, batch, record, layer, sign * size)
        for layer in driven(spec)
        for size in LADDER[spec.training.stored]
        for sign in (1.0, -1.0)
        if ".hidden." not in layer or size in _HIDDEN
    ]
    return {state.name: state for state in made}


def driven(spec: Spec) -> list[str]:
    """List the layers that are driven: all that end in an activation, a part of the posterior, or an output."""
    layers = layout.layers(spec.model)
    return [".".join(map(str, a.path)) for a in layers if not a.normed and a.path != ("decoder", "input")]


def measure(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Gap:
    """Find the worst difference in arrays named `LABEL with LAYER at VALUE`.

    It is a share of |VALUE|, where that is above 1, times the largest finite magnitude of the array: the exponential of
    a number multiplies its rounding by the number. For terms and gradients the largest of those up to 1 counts too,
    since a saturated one is a rounding of what it was there. NaN and infinities must be in the same entries.

    Args:
        actual: The arrays to compare.
        expected: Arrays of the same names, in the same order.

    Returns:
        The difference and its position.

    Raises:
        ValueError: If names, shapes or dtypes differ.
    """
    return max(_sizes(actual, expected), key=lambda g: g.size, default=Gap(0.0, ""))


def first_over(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> str:
    """Find the first name, of any layer the one next to 0, whose difference as in `measure` is over the tolerance."""
    return next(found.name for found in _sizes(actual, expected) if not found.size <= tolerance)


def _sizes(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Iterator[Gap]:
    pairs, near_0 = named_pairs(actual, expected), dict[str, float]()
    for name, _, b in pairs:
        series, _, value = name.rpartition(" at ")
        if abs(float(value)) <= 1 and series.partition(" with ")[0] not in OUTPUTS:
            near_0[series] = max(near_0.get(series, 0.0), _largest(b))
    for name, a, b in pairs:
        series, _, value = name.rpartition(" at ")
        largest, times = max(_largest(b), near_0.get(series, 0.0)), max(1.0, abs(float(value)))
        with np.errstate(all="ignore"):
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            size = np.abs(a.astype(np.float64) - b.astype(np.float64)) / (times * largest)
        size = np.where(same, 0.0, np.where(np.isfinite(size), size, np.inf))
        index = np.unravel_index(int(size.argmax()), size.shape)
        yield Gap(float(size[index]), name, tuple(map(int, index)))


OUTPUTS = ("mean", "logvar", "scale", "z", "logits", "pixel means")
"""What a backend's `outputs` gives that is no sum, whose largest may be as small as it likes."""


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _weights(spec: Spec, rng: np.random.Generator) -> Arrays:
    """Weights as a run starts from; in numpy, since a draw of the packages would be another program to compile."""
    return {
        p.name: (rng.uniform(-p.bound, p.bound, p.shape) if p.bound else np.full(p.shape, p.fill)).astype(
            spec.training.stored
        )
        for p in layout.table(spec.model)
    }


def _batch(spec: Spec, rng: np.random.Generator) -> Batch:
    """A black image, a white one, and grey ones with black and white pixels, as the configuration prepares them."""
    rows, pixels, dtype, level = _IMAGES, spec.model.pixels, spec.training.stored, spec.images.corruption_level
    x = rng.integers(-128, 384, (rows, pixels)).clip(0, 255) / 255
    x[0], x[1] = 0.0, 1.0
    if spec.images.binarization != "none":
        x = (x > 0.5).astype(dtype)
    if spec.images.range == "signed":
        x = 2 * x - 1

    def keep(shape: tuple[int, ...]) -> np.ndarray:
        return ((rng.uniform(size=(rows, *shape)) >= level) / (1 - level)).astype(dtype)

    samples = (spec.objective.samples,) if spec.objective.samples > 1 else ()
    corruption = None
    if spec.images.corruption == "gaussian":
        corruption = rng.normal(size=x.shape).astype(dtype)
    elif spec.images.corruption == "dropout":
        corruption = keep((pixels,))
    dropped = spec.images.corruption == "hidden-dropout"
    return Batch(
        x.astype(dtype),
        rng.normal(size=(*samples, rows, spec.model.latent)).astype(dtype),
        rng.integers(0, spec.model.classes, rows, dtype=np.uint8) if spec.model.classes else None,
        rng.normal(size=(rows, spec.model.latent)).astype(dtype) if spec.objective.form == "adversarial" else None,
        corruption,
        tuple(keep(shape) for shape in layout.hidden_units(spec.model)) if dropped else (),
        _STEP,
    )


def _followers(spec: Spec, layer: str) -> list[str]:
    """The layers that take this one's numbers, which would otherwise be driven too."""
    network, *rest = layer.split(".")
    layers = [each for each in layout.layers(spec.model) if each.kind not in ("norm", "scalar")]
    followers: list[layout.Layer] = []
    if rest[0] == "hidden":
        own = [each for each in layers if each.path[0] == network]
        followers = [each for each in own if each.path[1:3] == ("hidden", int(rest[1]) + 1)]
        followers = followers or [each for each in own if each.path[1] not in ("hidden", "input")]
    elif layer == "encoder.mean":
        for taking in ("decoder", "discriminator"):
            own = [each for each in layers if each.path[0] == taking]
            followers += [each for each in own if each.path[1] in ("hidden", "input")][:1] or own
    return [".".join(map(str, each.path)) for each in followers]


def _driven(spec: Spec, start: Arrays, batch: Batch, record: Arrays, layer: str, value: float) -> State:
    """The state with the layer's bias at the value, and its weight such that its numbers spread a little around it."""
    dtype, arrays = np.dtype(spec.training.stored).type, dict(start)
    if layer not in start:
        bias = start[f"{layer}.bias"]
        spread = np.abs(record[f"{layer}, output"].reshape(-1, len(bias)) - bias).max()
        arrays[f"{layer}.weight"] = start[f"{layer}.weight"] * dtype(min(_SPREAD * abs(value), 1.0) / spread)
        arrays[f"{layer}.bias"] = np.full_like(bias, value)
    else:  # a scalar
        arrays[layer] = np.full_like(start[layer], value)
    for name in (f"{after}.weight" for after in _followers(spec, layer)):  # they stay where they are
        arrays[name] = start[name] / dtype(max(1.0, abs(value)))
    if layer == "encoder.logvar":  # sigma * eps stays a number that the decoder can take, and a floor of sigma shows
        batch = batch._replace(eps=batch.eps * dtype(np.exp(min(-value / 2, 10.0))))
    elif layer == "encoder.logscale":
        batch = batch._replace(eps=batch.eps * dtype(np.exp(min(-value, 10.0))))
    elif layer == "encoder.scale":
        batch = batch._replace(eps=batch.eps / dtype(max(1.0, value)))
    return State(layer, value, spec, arrays, batch)
