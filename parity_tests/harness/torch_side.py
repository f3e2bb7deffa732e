"""torchvae on named arrays: numpy in, numpy out."""

import numpy as np
import torch

import torchvae
from jaxvae.shared.data import Dataset
from jaxvae.shared.spec import Spec

Arrays = dict[str, np.ndarray]


def initial(spec: Spec) -> Arrays:
    """The parameters a run starts from."""
    key = torchvae.streams(torchvae.root_key(spec.training.seed)).init
    return torchvae.to_arrays(spec, torchvae.init(spec, key))


def forward(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """Every layer's output, `[batch, ..]`: the posterior, the latent, the logits."""
    model = torchvae.from_arrays(spec, arrays)
    posterior = torchvae.encode(spec, model, torch.tensor(x))
    z = torchvae.locate(posterior, torch.tensor(eps))
    named = {"mean": posterior.mean, "logvar": posterior.logvar, "z": z, "logits": torchvae.decode(spec, model, z)}
    return {name: value.numpy(force=True) for name, value in named.items()}


def losses(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """Every term for each image, `[batch]`."""
    terms = torchvae.negative_elbo(spec, torchvae.from_arrays(spec, arrays), torch.tensor(x), torch.tensor(eps))
    return {name: value.numpy(force=True) for name, value in terms._asdict().items()}


def gradients(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """The mean loss's gradient by every parameter, through the sampled latent."""
    model = torchvae.from_arrays(spec, arrays)
    torchvae.negative_elbo(spec, model, torch.tensor(x), torch.tensor(eps)).loss.mean().backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters() if parameter.grad is not None}


def optimize(spec: Spec, arrays: Arrays, gradients: list[Arrays]) -> tuple[Arrays, Arrays]:
    """The parameters and Adam's state after one update by each of the gradients."""
    model = torchvae.from_arrays(spec, arrays)
    optimizer = torchvae.make_optimizer(spec, model)
    for gradient in gradients:
        for name, parameter in model.named_parameters():
            parameter.grad = torch.tensor(gradient[name])
        optimizer.step()
    return torchvae.to_arrays(spec, model), torchvae.optimizer_to_arrays(spec, optimizer)


def steps(
    spec: Spec, arrays: Arrays, batches: list[np.ndarray], optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """After one step of training on each batch, from Adam's state as given or at its start: the parameters, Adam's
    state, and the terms of each step."""
    model = torchvae.from_arrays(spec, arrays)
    state = torchvae.init_state(spec)._replace(model=model, optimizer=torchvae.make_optimizer(spec, model))
    if optimizer is not None:
        adam = torchvae.optimizer_from_arrays(spec, optimizer, model)
        state = state._replace(optimizer=adam, step=int(optimizer["step"]))
    terms = []
    for batch in batches:
        state, step = torchvae.train_step(spec, state, torch.tensor(batch))
        terms.append(torch.stack(step).numpy())
    optimizer = torchvae.optimizer_to_arrays(spec, state.optimizer)
    return torchvae.to_arrays(spec, state.model), optimizer, np.stack(terms)


def epoch(spec: Spec, images: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """One epoch from the run's start over uint8 images: the parameters after it, and the terms of each step."""
    state, terms = torchvae.train_epoch(spec, torchvae.init_state(spec), torch.tensor(images))
    return torchvae.to_arrays(spec, state.model), terms.numpy()


def run(spec: Spec, data: Dataset) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """A whole run: the final parameters, the terms of each step `[steps, 3]` and of each evaluation `[epochs, 3]`."""
    seen: list[torchvae.Progress] = []
    state = torchvae.fit(spec, data, seen.append)
    train, test = np.concatenate([p.train for p in seen]), np.stack([p.test for p in seen])
    return torchvae.to_arrays(spec, state.model), train, test
