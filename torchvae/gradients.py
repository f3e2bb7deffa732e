"""The size of the gradient that a run follows."""

import copy

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_state
from jaxvae.shared.model.optimizer_state import trained
from torchvae import random
from torchvae.augmentation import augment
from torchvae.checks import check_images
from torchvae.draws import draw, image_keys
from torchvae.keys import static_key, streams
from torchvae.objectives import inputs, minimized, phases
from torchvae.pixels import prepare_pixels
from torchvae.train import TrainState


def gradient_norm(
    spec: Spec, state: TrainState, images: Tensor | np.ndarray, labels: Tensor | np.ndarray | None = None
) -> float:
    """Compute the norm of the gradient that a step from `state` on these images would follow.

    It is taken over all tensors of all phases together, before clipping. The state stays as it is.

    Args:
        spec: The configuration.
        state: The state; the step draws from its key.
        images: uint8, `[batch, height, width, channels]`: the first training images.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        The Euclidean norm of the gradient of what the optimizer minimizes.

    Raises:
        InputError: If the state, the images or the labels are not the configuration's.
    """
    require_spec(spec)
    require_state("gradient_norm", state, TrainState, spec.training)
    check_images("gradient_norm", spec, state.model, images, labels)
    device = state.key.device
    given = None if labels is None else torch.as_tensor(labels, device=device)
    return float(_norm(spec, state, torch.as_tensor(images, device=device), given))


def _norm(spec: Spec, state: TrainState, images: Tensor, labels: Tensor | None) -> Tensor:
    n, key = len(images), random.fold_in(streams(state.key).noise, state.step)
    places = torch.arange(n, device=images.device)
    if spec.images.augments:
        images = augment(spec, images, key)
    static, dynamic = (image_keys(k, places) for k in (static_key(state.key, "train"), random.fold_in(key, 0)))
    x = prepare_pixels(spec, images, static, dynamic)
    batch = inputs(spec, x, draw(spec, key, n), labels, torch.full_like(x[:, 0], 1 / n), state.step)
    model = copy.deepcopy(state.model).train()  # batch norm would update the state's statistics
    tensors, norms = dict(model.named_parameters()), []
    for phase in phases(spec):
        model.zero_grad(set_to_none=True)
        minimized(spec, model, batch, phase)[0].backward()
        grads = (tensors[parameter.name].grad for parameter in trained(spec, phase.networks))
        norms.append(torch.stack([grad.norm() for grad in grads if grad is not None]).norm())
    return torch.stack(norms).norm()
