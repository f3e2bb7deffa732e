"""torchvae's training loop, and those of PyTorch's users. Each function prepares one and returns a function of one
epoch."""

import functools
import sys
from collections.abc import Callable
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

import torchvae
from benchmarks import baselines, matmul_bound
from benchmarks.workload import Setting
from jaxvae.shared.errors import InputError

Epoch = Callable[[], object]
_NO_LAYERS = "No loop of a PyTorch user is written here for the network layers."


def start(device: str) -> None:
    """Raises InputError where there is no such device."""
    torchvae.prepare(device)


def tutorial(setting: Setting) -> Epoch:
    model, loss = plain(setting)
    if loss is baselines.elbo_loss:
        loss = baselines.tutorial_loss
    adam = torch.optim.Adam(model.parameters(), setting.spec.training.learning_rate)
    signed, cuda = setting.spec.images.range == "signed", setting.device == "gpu"
    batches = baselines.loader(setting.train[..., 0], setting.spec.training.batch_size, signed, cuda)
    return synchronized(setting, lambda: baselines.tutorial_epoch(loss, model, adam, batches))


def in_memory(setting: Setting) -> Epoch:
    return _in_memory(setting, *plain(setting))


def compiled(setting: Setting, mode: str = "default") -> Epoch | None:
    """Prepare `in_memory` with a compiled loss; None, with a warning, if torch.compile fails."""
    model, loss = plain(setting)
    loss = torch.compile(loss, dynamic=False, mode=mode)
    try:
        loss(model, pixels(setting)[: setting.spec.training.batch_size]).backward()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        print(f"WARNING: torch.compile fails here and is left out ({reason}).", file=sys.stderr)
        return None
    return _in_memory(setting, model, loss)


def cuda_graphs(setting: Setting) -> Epoch | None:
    return compiled(setting, "reduce-overhead")


def tuned(setting: Setting) -> Epoch | None:
    return compiled(setting, "max-autotune")


def package(setting: Setting, compile: bool = False) -> Epoch:
    """Train as `torchvae.fit` does."""
    spec, n = setting.spec, len(setting.train)
    state = torchvae.init_state(spec, setting.train, setting.torch_device)
    images = torch.tensor(setting.train, device=setting.torch_device)

    def epoch() -> None:
        nonlocal state
        order = torchvae.epoch_order(spec, state.key, state.step // setting.steps, n)
        state, log = torchvae.train_epoch(
            *(spec, state, images, None, state.step + setting.steps, order), compile=compile
        )
        log.cpu()

    return synchronized(setting, epoch, search=False)


def compiled_package(setting: Setting) -> Epoch | None:
    """Prepare `package` with compiled steps; None, with a warning, if torch.compile fails."""
    few = setting._replace(train=setting.train[: setting.spec.training.batch_size])
    try:
        package(few, compile=True)()
    except InputError as error:
        print(f"WARNING: torchvae --compile is left out. {error}", file=sys.stderr)
        return None
    return package(setting, compile=True)


def products(setting: Setting) -> Epoch:
    return matmul_bound.by_torch(setting.spec, setting.steps, setting.torch_device)


def log_likelihood(setting: Setting, images: np.ndarray, samples: int) -> Epoch:
    state = torchvae.init_state(setting.spec, setting.train, setting.torch_device)
    return lambda: torchvae.log_likelihood(setting.spec, state.model, images, state.key, samples=samples)


def plain_log_likelihood(setting: Setting, images: np.ndarray, samples: int) -> Epoch:
    model, _ = plain(setting)
    nll = baselines.bernoulli_nll if isinstance(model, baselines.PlainVAE) else baselines.squared_nll
    x = pixels(setting._replace(train=images))
    return lambda: baselines.log_likelihood(nll, model, x, samples).cpu()


def sample(setting: Setting, n: int) -> Epoch:
    state = torchvae.init_state(setting.spec, setting.train, setting.torch_device)
    return lambda: torchvae.sample(setting.spec, state.model, state.key, n)


def plain_sample(setting: Setting, n: int) -> Epoch:
    model, _ = plain(setting)
    return lambda: baselines.sample(model, n, setting.spec.model.latent)


def plain(setting: Setting) -> tuple[baselines.PlainVAE | baselines.ConvVAE, baselines.Loss]:
    """Make the model and the loss that a PyTorch user writes for the configuration."""
    torch.manual_seed(setting.spec.training.seed)
    spec, objective = setting.spec.model, setting.spec.objective
    match spec.network:
        case "mlp":
            model = baselines.PlainVAE(spec.pixels, spec.hidden[0], spec.latent)
            loss = baselines.elbo_loss
            if objective.form == "iwae":
                loss = functools.partial(baselines.iwae_loss, samples=objective.samples)
        case "conv":
            model, loss = baselines.ConvVAE(spec.hidden, spec.latent, spec.image[0]), baselines.conv_loss
        case "layers":
            raise ValueError(_NO_LAYERS)
        case kind:
            assert_never(kind)
    return model.to(setting.torch_device), loss


def pixels(setting: Setting) -> Tensor:
    """The training images as float32 on the device: `[n, pixels]`, or `[n, 1, height, width]` in [-1, 1]."""
    x = torch.tensor(setting.train[..., 0], device=setting.torch_device).float() / 255
    match setting.spec.model.network:
        case "mlp":
            return x.flatten(1)
        case "conv":
            return 2 * x[:, None] - 1
        case "layers":
            raise ValueError(_NO_LAYERS)
        case kind:
            assert_never(kind)


def synchronized(setting: Setting, run: Callable[[], object], search: bool = True) -> Epoch:
    """Wait for the GPU after `run`; search: let cuDNN search for its fastest convolutions."""

    def epoch() -> None:
        torch.backends.cudnn.benchmark = search
        run()
        if setting.device == "gpu":
            torch.cuda.synchronize()

    return epoch


def peak_bytes() -> int | None:
    """Read the maximum of the device's memory, if it has its own."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def _in_memory(setting: Setting, model: baselines.PlainVAE | baselines.ConvVAE, loss: baselines.Loss) -> Epoch:
    adam = torch.optim.Adam(model.parameters(), setting.spec.training.learning_rate, fused=True)
    images, batch = pixels(setting), setting.spec.training.batch_size
    return synchronized(setting, lambda: baselines.memory_epoch(loss, model, adam, images, batch))
