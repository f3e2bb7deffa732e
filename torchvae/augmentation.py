"""Other views of the training images: mirrored, and moved by some pixels."""

import torch
from torch import Tensor

from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes, require_kind
from torchvae import random
from torchvae.draws import image_keys

_VIEWS = 2**30  # folded into a step's key: what else is drawn from it takes the smaller numbers


def augment(spec: Spec, images: Tensor, key: random.Key, places: Tensor | None = None) -> Tensor:
    """Mirror and move a step's images.

    Args:
        spec: The configuration.
        images: uint8, `[batch, height, width, channels]`.
        key: The key of the step.
        places: The images' indices in the step's batch, if they are only some of it, `[batch]`.

    Returns:
        The images, of the same shape. What comes in from beyond an edge repeats the edge.

    Raises:
        InputError: If the images are not uint8, or not of the model's size.
    """
    require_spec(spec)
    require_bytes("augment", images, spec.model.image)
    require_kind("augment", "images", images, Tensor)
    places = torch.arange(len(images), device=key.device) if places is None else places
    keys, most = image_keys(random.fold_in(key, _VIEWS), places), spec.images.shift
    # In float32 always, so that a float64 run sees the same images.
    uniforms = random.uniform(keys, (3,), torch.float32)
    if spec.images.flip:
        images = torch.where(uniforms[:, 0, None, None, None] < 0.5, images.flip(2), images)
    if not most:
        return images
    by = torch.floor(uniforms[:, 1:] * (2 * most + 1)).to(torch.int64) - most
    (height, width), device = images.shape[1:3], images.device
    rows = (torch.arange(height, device=device) - by[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) - by[:, 1:]).clamp(0, width - 1)
    return images[torch.arange(len(images), device=device)[:, None, None], rows[:, :, None], columns[:, None]]
