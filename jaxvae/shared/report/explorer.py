"""What of a model goes into a page that explores its latents: the decoder itself or frames it gave, and test images as
points. `static/explorer.js` reads it."""

import base64
import io
import math
from typing import Any

import numpy as np

from jaxvae.shared.analysis import latent_paths
from jaxvae.shared.analysis.latents import Space, flat
from jaxvae.shared.analysis.trained_model import TrainedModel
from jaxvae.shared.config.likelihoods import mean_of
from jaxvae.shared.model import layout, requirements

_LARGEST = 4_000_000  # weights of a decoder that goes into the page
_POINTS, _POINTS_ROOM = 1000, 2_000_000  # test images in the page, and bytes of their pixels
STOPS = 21
"""Images along a latent."""
_AXES, _FRAMES_ROOM = 10, 6_000_000  # latents with frames, bytes of their pixels
_DRAWN = 48  # samples that stand in for draws where the decoder isn't in the page


def images(subject: TrainedModel, z: np.ndarray, label: int = 0) -> np.ndarray:
    """What is said of latents `[n, latent]`, of a class for a model with classes: `[n, height, width, channels]`, in
    [0, 1] but for a linear output."""
    spec = subject.run.spec
    labels = np.full(len(z), label) if spec.model.classes else None
    return subject.side.decode_images(spec, subject.weights, z, labels)


def samples(subject: TrainedModel, n: int, label: int | None = None) -> np.ndarray:
    """Images from the prior, as the command sample draws them from the run's seed: `[n, height, width, channels]`, of
    each class in turn unless one is named."""
    side, spec = subject.side, subject.run.spec
    key = side.stream_key(side.root_key(spec.training.seed), "pictures", 0)
    return side.sample(spec, subject.weights, key, n, None if label is None else np.full(n, label))


def along(space: Space, latent: int) -> np.ndarray:
    """Codes along a latent, the centre in the middle: `[STOPS, latent]`."""
    ends = space.low[latent], space.centre[latent], space.high[latent]
    values = np.interp(np.arange(STOPS), [0, STOPS // 2, STOPS - 1], ends)
    return latent_paths.along(space.centre, np.array([latent]), values[None])[0]


def content(subject: TrainedModel, space: Space, name: str) -> dict[str, Any]:
    """The model for the page, as plain JSON values."""
    spec, order = subject.run.spec, space.order
    decoder = _decoder(subject)
    return {
        "name": name,
        "image": list(spec.model.image),
        "latent": spec.model.latent,
        "classes": spec.model.classes,
        "seed": spec.training.seed % 2**32,
        "prior": requirements.has_prior(spec),
        "unit": space.unit,
        "activity": space.activity.tolist(),
        "order": order.tolist(),
        "low": space.low.tolist(),
        "high": space.high.tolist(),
        "centre": space.centre.tolist(),
        "decoder": decoder,
        "frames": None if decoder else _frames(subject, space),
        "points": _points(subject, space, decoder is None),
    }


def png(picture: np.ndarray) -> str:
    """A picture `[height, width, channels]`, uint8 or in [0, 1], as a data URI."""
    from PIL import Image

    if picture.dtype != np.uint8:
        picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _decoder(subject: TrainedModel) -> dict[str, Any] | None:
    """The layers of an MLP that is small enough, in the weight file's names and layout; None for another."""
    spec = subject.run.spec
    decoder = [layer for layer in layout.layers(spec.model) if layer.path[0] == "decoder"]
    layers = [layer for layer in decoder if layer.path[1] in ("hidden", "logits")]
    if any(layer.kind != "linear" for layer in layers):
        return None
    arrays = subject.side.to_arrays(spec, subject.weights)
    names = [".".join(map(str, layer.path)) for layer in layers]
    if sum(arrays[f"{name}.weight"].size for name in names) > _LARGEST:
        return None
    return {
        "dtype": spec.training.stored,
        "activation": spec.model.activation,
        "output": mean_of(spec.model.likelihood, spec.model.output, spec.images.range),
        "signed": spec.images.range == "signed",
        "layers": [
            {
                "outputs": len(arrays[f"{name}.bias"]),
                "weight": _packed(arrays[f"{name}.weight"], spec.training.stored),
                "bias": _packed(arrays[f"{name}.bias"], spec.training.stored),
            }
            for name in names
        ],
    }


def _frames(subject: TrainedModel, space: Space) -> dict[str, Any]:
    """Sheets of frames along the latents that say most, a row for each class, and a sheet of samples."""
    model = subject.run.spec.model
    classes = max(1, model.classes)
    axes = max(1, min(_AXES, model.latent, _FRAMES_ROOM // (STOPS * classes * model.pixels)))
    sheets = []
    for latent in space.order[:axes]:
        z = along(space, latent)
        sheets.append(png(_sheet(np.concatenate([images(subject, z, label) for label in range(classes)]), STOPS)))
    drawn = None
    if requirements.has_prior(subject.run.spec):
        drawn = png(_sheet(np.concatenate([samples(subject, _DRAWN, label) for label in range(classes)]), _DRAWN))
    return {"stops": STOPS, "sheets": sheets, "drawn": drawn, "draws": _DRAWN}


def _points(subject: TrainedModel, space: Space, again: bool) -> dict[str, Any]:
    """Test images, where their codes are, and with `again` their reconstructions, rendered beforehand."""
    data, spec = subject.data, subject.run.spec
    n = min(_POINTS, len(data.test), max(1, _POINTS_ROOM // spec.model.pixels))
    columns = math.ceil(math.sqrt(n))
    codes, labels = space.codes[:n], data.test_labels[:n]
    directions = np.eye(2) if codes.shape[1] == 2 else flat(space.codes)[0]
    middle = space.codes.mean(0)
    found = (codes - middle) @ directions.T
    if codes.shape[1] == 1:  # the other axis is the label's
        found[:, 1] = labels - labels.mean()
    stored = spec.training.stored
    sheet = None
    if again:
        sheet = png(_sheet(subject.side.reconstruct(spec, subject.weights, data.test[:n], labels), columns))
    return {
        "columns": columns,
        "labels": labels.tolist(),
        "codes": {"dtype": stored, "data": _packed(codes, stored)},
        "places": {"dtype": "float32", "data": _packed(found, "float32")},
        "directions": directions.tolist(),
        "middle": middle.tolist(),
        "sheet": png(_sheet(data.test[:n], columns)),
        "again": sheet,
    }


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images `[n, height, width, channels]` edge to edge, row by row, as one picture; black where there is none."""
    n, height, width, channels = images.shape
    rows = math.ceil(n / columns)
    blank = np.zeros((rows * columns - n, height, width, channels), images.dtype)
    whole = np.concatenate([images, blank]).reshape(rows, columns, height, width, channels)
    return whole.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def _packed(array: np.ndarray, dtype: str) -> str:
    """Base64 of the little-endian numbers."""
    return base64.b64encode(np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()).decode()
