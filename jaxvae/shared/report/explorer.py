"""The data of a page's latent explorer: the decoder or frames rendered by it, and test images as points.

`static/explorer.js` reads it.
"""

import base64
import io
import math
from typing import Any

import numpy as np

from jaxvae.shared.analysis import latent_paths
from jaxvae.shared.analysis.latents import Space, flat
from jaxvae.shared.analysis.reconstructions import reconstruct
from jaxvae.shared.analysis.trained_model import TrainedModel
from jaxvae.shared.config.likelihoods import mean_of
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.data.spread import spread
from jaxvae.shared.model import layout, requirements
from jaxvae.shared.plotting.class_colours import class_colour
from jaxvae.shared.plotting.image_grid import visible

_MAX_WEIGHTS = 4_000_000  # of a decoder in the page
_MAX_POINTS, _MAX_POINT_BYTES = 1000, 2_000_000  # test images in the page, and their pixels
STOPS = 21
"""Images along a latent, for the most active ones."""
_MAX_FRAME_BYTES = 12_000_000  # pixels of rendered frames
_FULL, _FEWER = 10, (STOPS, 11, 7, 5, 3)  # latents with all stops if they fit, and the stops of the others
_DRAWS = 48  # rendered samples, for a decoder that is not in the page


def images(model: TrainedModel, z: np.ndarray, label: int = 0) -> np.ndarray:
    """Decode latents.

    Args:
        model: The model.
        z: `[n, latent]`.
        label: The class, for a model with classes.

    Returns:
        `[n, height, width, channels]`, in [0, 1] except for a linear output.
    """
    spec = model.run.spec
    labels = np.full(len(z), label) if spec.model.classes else None
    return model.backend.decode_images(spec, model.weights, z, labels)


def drawn_latents(model: TrainedModel, n: int) -> np.ndarray:
    """The latents that `samples` decodes, `[n, latent]`."""
    backend, spec = model.backend, model.run.spec
    return backend.draw_latents(spec, backend.stream_key(backend.root_key(spec.training.seed), "pictures", 0), n)


def samples(model: TrainedModel, n: int, label: int | None = None) -> np.ndarray:
    """Draw images from the prior, as the command sample does from the run's seed.

    Args:
        model: The model.
        n: The number of images.
        label: The class; by default each in turn.

    Returns:
        `[n, height, width, channels]`.
    """
    backend, spec = model.backend, model.run.spec
    key = backend.stream_key(backend.root_key(spec.training.seed), "pictures", 0)
    return backend.sample(spec, model.weights, key, n, None if label is None else np.full(n, label))


def along(space: Space, latent: int, stops: int = STOPS) -> np.ndarray:
    """Return codes along a latent, with the centre in the middle: `[stops, latent]`, an odd number of them."""
    ends = space.low[latent], space.centre[latent], space.high[latent]
    values = np.interp(np.arange(stops), [0, stops // 2, stops - 1], ends)
    return latent_paths.along(space.centre, np.array([latent]), values[None])[0]


def content(model: TrainedModel, space: Space, name: str) -> dict[str, Any]:
    """Collect the data of the explorer.

    Args:
        model: The model.
        space: Its latent space.
        name: Its name on the page.

    Returns:
        JSON values.
    """
    spec, order = model.run.spec, space.order
    height, width, channels = spec.model.image
    decoder, kinds = _decoder(model), max(spec.model.classes, 1 + int(model.data.test_labels.max()))
    return {
        "name": name,
        "image": list(visible(np.empty((height, width, channels))).shape),
        "latent": spec.model.latent,
        "classes": spec.model.classes,
        "names": label_names(model.data.class_names, range(kinds)),
        "colours": [class_colour(label) for label in range(kinds)],
        "seed": spec.training.seed % 2**32,
        "prior": requirements.has_prior(spec),
        "unit": space.unit,
        "activity": space.activity.tolist(),
        "order": order.tolist(),
        "low": space.low.tolist(),
        "high": space.high.tolist(),
        "centre": space.centre.tolist(),
        "decoder": decoder,
        "frames": None if decoder else _frames(model, space),
        "points": _points(model, space, decoder is None),
    }


def png(picture: np.ndarray) -> str:
    """Encode a picture `[height, width, channels]`, uint8 or in [0, 1], as the data URI of a PNG."""
    from PIL import Image

    if picture.dtype != np.uint8:
        picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    picture = visible(picture)
    buffer = io.BytesIO()
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _decoder(model: TrainedModel) -> dict[str, Any] | None:
    """The layers of an MLP that is small enough, named and laid out as in the weight file; None for another decoder."""
    spec = model.run.spec
    decoder = [layer for layer in layout.layers(spec.model) if layer.path[0] == "decoder"]
    layers = [layer for layer in decoder if layer.path[1] in ("hidden", "logits")]
    own = spec.model.parts.decoder is not None or spec.model.parts.nll is not None
    if own or spec.model.network != "mlp" or spec.model.image[2] not in (1, 3):
        return None
    arrays = model.backend.to_arrays(spec, model.weights)
    names = [".".join(map(str, layer.path)) for layer in layers]
    if sum(arrays[f"{name}.weight"].size for name in names) > _MAX_WEIGHTS:
        return None
    return {
        "dtype": spec.training.stored,
        "activation": spec.model.activation,
        "slope": spec.model.slope,
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


def _frames(model: TrainedModel, space: Space) -> dict[str, Any]:
    """Sheets of frames along each latent, a row for each class, and a sheet of samples with their latents."""
    spec = model.run.spec
    classes, sheets = max(1, spec.model.classes), []
    stops, scale = frame_stops(spec.model.latent, classes * spec.model.pixels)
    for latent, n in zip(space.order, stops, strict=True):
        z = along(space, latent, n)
        frames = np.concatenate([_smaller(images(model, z, label), scale) for label in range(classes)])
        sheets.append(png(_sheet(frames, n)))
    drawn, codes = None, None
    if requirements.has_prior(spec):
        drawn = png(_sheet(np.concatenate([samples(model, _DRAWS, label) for label in range(classes)]), _DRAWS))
        codes = {"dtype": spec.training.stored, "data": _packed(drawn_latents(model, _DRAWS), spec.training.stored)}
    return {"stops": stops, "scale": scale, "sheets": sheets, "drawn": drawn, "draws": _DRAWS, "codes": codes}


def frame_stops(latents: int, values: int) -> tuple[list[int], int]:
    """Choose how many frames each latent has, so that all latents have some and a page stays moderate.

    Args:
        latents: The number of latents.
        values: The pixels' values of one stop, in all classes.

    Returns:
        The frames of each latent by falling activity, odd numbers; and the factor by which frames are reduced.
    """
    for scale in (1, 2, 4, 8):
        for stops in _FEWER:
            of = [max(stops, STOPS if i < _FULL else 0) for i in range(latents)]
            if sum(of) * values <= _MAX_FRAME_BYTES * scale**2:
                return of, scale
    return [_FEWER[-1]] * latents, 8


def _smaller(images: np.ndarray, scale: int) -> np.ndarray:
    """Images whose sides are divided by a factor: the means of the pixels in each square."""
    n, height, width, channels = images.shape
    if scale == 1 or min(height, width) < scale:
        return images
    rows, columns = height // scale, width // scale
    return images[:, : rows * scale, : columns * scale].reshape(n, rows, scale, columns, scale, channels).mean((2, 4))


def _points(model: TrainedModel, space: Space, reconstructed: bool) -> dict[str, Any]:
    """Test images, their codes, and with `reconstructed` their rendered reconstructions."""
    data, spec = model.data, model.run.spec
    n = min(_MAX_POINTS, len(data.test), max(1, _MAX_POINT_BYTES // spec.model.pixels))
    columns, chosen = math.ceil(math.sqrt(n)), spread(data.test_labels, n)
    codes, labels = space.codes[chosen], data.test_labels[chosen]
    latents = codes.shape[1]
    directions, shares = (np.eye(2), np.ones(2)) if latents == 2 else flat(space.codes)
    middle = space.codes.mean(0) if latents > 2 else np.zeros(latents)
    coordinates = (codes - middle) @ directions.T
    names = ["latent 1", "latent 2"]
    if latents == 1:
        coordinates[:, 1], names = labels, ["latent 1", "label"]
    elif latents > 2:
        names = [f"component {i + 1}, {100 * share:.0f} % of the variance" for i, share in enumerate(shares)]
    stored = spec.training.stored
    reconstructions = None
    if reconstructed:
        reconstructions = png(_sheet(reconstruct(model.backend, spec, model.weights, data, chosen), columns))
    return {
        "columns": columns,
        "labels": labels.tolist(),
        "codes": {"dtype": stored, "data": _packed(codes, stored)},
        "places": {"dtype": "float32", "data": _packed(coordinates, "float32")},
        "directions": directions.tolist(),
        "middle": middle.tolist(),
        "axes": names,
        "sheet": png(_sheet(data.test[chosen], columns)),
        "again": reconstructions,
    }


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images `[n, height, width, channels]` edge to edge, row by row, as one picture; the rest is black."""
    n, height, width, channels = images.shape
    rows = math.ceil(n / columns)
    blank = np.zeros((rows * columns - n, height, width, channels), images.dtype)
    whole = np.concatenate([images, blank]).reshape(rows, columns, height, width, channels)
    return whole.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def _packed(array: np.ndarray, dtype: str) -> str:
    """The numbers, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()).decode()
