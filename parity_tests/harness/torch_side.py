"""torchvae on named arrays: numpy in, numpy out. Every function asks the package one question; the same function of
`jax_side` asks the other."""

import numpy as np
import torch

import torchvae
from jaxvae.shared.data import Dataset
from jaxvae.shared.spec import Spec
from parity_tests.harness import torch_layers
from torchvae import random

Arrays = dict[str, np.ndarray]
NAME = "torchvae"
_device = torch.device("cpu")


def use(device: str) -> str:
    """Computes on `cpu` or `gpu` from now on, and says what that is. Raises InputError where there is none."""
    global _device
    _device = torchvae.prepare(device)
    return torchvae.device_label(_device)


def device() -> str:
    """What it computes on."""
    return torchvae.device_label(_device)


def keys(spec: Spec, places: int) -> Arrays:
    """The run's keys as words, what is drawn from them as bits, and an order of so many places."""
    root = torchvae.root_key(spec.training.seed, _device)
    kind = getattr(torch, spec.training.dtype)
    named = {"root": root, "root of a 64-bit seed": torchvae.root_key(2**63 + 12345)}
    named |= torchvae.streams(root)._asdict()
    named |= {f"{s}, {t}": torchvae.stream_key(root, s, t) for s in named if s in root_streams() for t in (1000, 0, 1)}
    drawn = {
        "split": random.split(root, 10),
        "bits": random.bits(root, (1000,), torch.uint32),
        "uniforms": random.uniform(root, (1000,), kind),
        "masks": random.bernoulli(root, torch.tensor(0.3, dtype=kind), (1000,)).to(torch.uint8),
        "shuffled": random.permutation(root, places),
    }
    return _numpy(named | drawn)


def normals(spec: Spec, size: int) -> Arrays:
    """Standard normals from the run's root key."""
    root = torchvae.root_key(spec.training.seed, _device)
    return _numpy({"normals": random.normal(root, (size,), getattr(torch, spec.training.dtype))})


def initial(spec: Spec) -> Arrays:
    """The parameters a run starts from."""
    key = torchvae.streams(torchvae.root_key(spec.training.seed, _device)).init
    return torchvae.to_arrays(spec, torchvae.init(spec, key))


def pixels(spec: Spec, images: np.ndarray) -> Arrays:
    """uint8 images as the network sees them: `[n, pixels]`."""
    return _numpy({"pixels": torchvae.scale(_tensor(images), spec.training.dtype)})


@torch.no_grad()
def layers(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """What every layer is given and gives, in the order of the computation, and the latent between the networks."""
    model = model_of(spec, arrays)
    with torch_layers.record(model) as calls:
        posterior = model.encode(_tensor(x))
        z = torchvae.locate(posterior, _tensor(eps))
        model.decode(z)
    named = {f"{name}, {kind}": value for name, call in calls.items() for kind, value in call._asdict().items()}
    return named | _numpy({"mean": posterior.mean, "logvar": posterior.logvar, "z": z})


def forward(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """The outputs, `[batch, ..]`: the posterior, the latent, the logits."""
    model = model_of(spec, arrays)
    posterior = torchvae.encode(spec, model, _tensor(x))
    z = torchvae.locate(posterior, _tensor(eps))
    return _numpy({**posterior._asdict(), "z": z, "logits": torchvae.decode(spec, model, z)})


def losses(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """Every term for each image, `[batch]`."""
    return _numpy(torchvae.negative_elbo(spec, model_of(spec, arrays), _tensor(x), _tensor(eps))._asdict())


def gradients(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """The mean loss's gradient by every parameter, through the sampled latent."""
    model = model_of(spec, arrays)
    torchvae.negative_elbo(spec, model, _tensor(x), _tensor(eps)).loss.mean().backward()
    return _numpy({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()})


def optimize(spec: Spec, arrays: Arrays, gradients: list[Arrays]) -> tuple[Arrays, Arrays]:
    """The parameters and Adam's state after one update by each of the gradients."""
    model = model_of(spec, arrays)
    optimizer = torchvae.make_optimizer(spec, model)
    for gradient in gradients:
        for name, parameter in model.named_parameters():
            parameter.grad = _tensor(gradient[name])
        optimizer.step()
    return torchvae.to_arrays(spec, model), torchvae.optimizer_to_arrays(spec, optimizer)


def steps(
    spec: Spec, arrays: Arrays, batches: list[np.ndarray], optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """After one step of training on each batch, from Adam's state as given or at its start: the parameters, Adam's
    state, and the terms of each step."""
    state, terms = _state(spec, arrays, optimizer), []
    for batch in batches:
        state, step = torchvae.train_step(spec, state, _tensor(batch))
        terms.append(torch.stack(step).numpy(force=True))
    return *_trained(spec, state), np.stack(terms)


def train(
    spec: Spec, arrays: Arrays, images: np.ndarray, optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """After the epochs or steps of the configuration over uint8 images, from these parameters: the parameters, Adam's
    state, and the terms of each step."""
    state, on_device, terms = _state(spec, arrays, optimizer), _tensor(images), []
    while state.step < spec.training.total_steps(len(images)):
        state, epoch = torchvae.train_epoch(spec, state, on_device)
        terms.append(epoch.numpy(force=True))
    return *_trained(spec, state), np.concatenate(terms)


def epoch(spec: Spec, images: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """One epoch from the run's start over uint8 images: the parameters after it, and the terms of each step."""
    state, terms = torchvae.train_epoch(spec, torchvae.init_state(spec, _device), _tensor(images))
    return torchvae.to_arrays(spec, state.model), terms.numpy(force=True)


def evaluate(spec: Spec, arrays: Arrays, images: np.ndarray, t: int) -> Arrays:
    """The terms over test images as epoch `t` measures them, and that epoch's pictures: samples, reconstructions."""
    model, root = model_of(spec, arrays), torchvae.root_key(spec.training.seed, _device)
    terms = torchvae.average_terms(spec, model, images, torchvae.stream_key(root, "evaluation", t))
    named = dict(zip(torchvae.Terms._fields, terms, strict=True))
    named["samples"] = torchvae.sample(spec, model, torchvae.stream_key(root, "pictures", t), 64)
    named["reconstructions"] = torchvae.reconstruct(spec, model, images[:64])
    return {name: np.asarray(value) for name, value in named.items()}


def run(spec: Spec, data: Dataset) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """A whole run: the final parameters, the terms of each step `[steps, 3]` and of each evaluation `[epochs, 3]`."""
    seen: list[torchvae.Progress] = []
    state = torchvae.fit(spec, data, seen.append, _device)
    train, test = np.concatenate([p.train for p in seen]), np.stack([p.test for p in seen])
    return torchvae.to_arrays(spec, state.model), train, test


def root_streams() -> tuple[str, ...]:
    """The names of the key streams."""
    return torchvae.Streams._fields


def wide_bits(spec: Spec, size: int) -> Arrays:
    """64-bit words from the run's root key."""
    return _numpy({"wide bits": random.bits(torchvae.root_key(spec.training.seed, _device), (size,), torch.uint64)})


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, device=_device)


def model_of(spec: Spec, arrays: Arrays) -> torchvae.VAE:
    """The model of these arrays, where this side computes."""
    return torchvae.from_arrays(spec, arrays).to(_device)


def _state(spec: Spec, arrays: Arrays, optimizer: Arrays | None) -> torchvae.TrainState:
    model = model_of(spec, arrays)
    if optimizer is None:
        adam = torchvae.make_optimizer(spec, model)
    else:
        adam = torchvae.optimizer_from_arrays(spec, optimizer, model)
    step = 0 if optimizer is None else int(optimizer["step"])
    return torchvae.TrainState(model, adam, step, torchvae.root_key(spec.training.seed, _device))


def _trained(spec: Spec, state: torchvae.TrainState) -> tuple[Arrays, Arrays]:
    return torchvae.to_arrays(spec, state.model), torchvae.optimizer_to_arrays(spec, state.optimizer)


def _numpy(named: dict) -> Arrays:
    return {name: value.numpy(force=True) for name, value in named.items()}
