"""torchvae on named arrays: numpy in, numpy out. `jax_backend` has the same functions for the other package."""

import numpy as np
import torch

import torchvae
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.model import layout, optimizer_state
from jaxvae.shared.model.requirements import has_prior
from parity_tests.harness.hooks import torch_layers
from parity_tests.harness.vae.batch import Batch, averages
from torchvae import distributions, objectives, random

Arrays = dict[str, np.ndarray]
NAME = "torchvae"
SPLITS = ("train", "test", "validation")
_device = torch.device("cpu")


def use(device: str) -> str:
    """Select `cpu` or `gpu` and return its label. Raises InputError if there is no such device."""
    global _device
    _device = torchvae.prepare(device)
    return torchvae.device_label(_device)


def device() -> str:
    """Return the label of the device."""
    return torchvae.device_label(_device)


def keys(spec: Spec, places: int) -> Arrays:
    """Compute the run's keys as words, draws from them as bits, and an order of `places` images."""
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
    static = {f"static {split}": torchvae.static_key(root, split) for split in SPLITS}
    return _numpy(named | static | drawn)


def normals(spec: Spec, size: int) -> Arrays:
    """Draw standard normals from the run's root key."""
    root = torchvae.root_key(spec.training.seed, _device)
    return _numpy({"normals": random.normal(root, (size,), getattr(torch, spec.training.dtype))})


def initial(spec: Spec, images: np.ndarray | None = None) -> Arrays:
    """Compute the initial parameters of a run; some depend on the training images."""
    return torchvae.to_arrays(spec, torchvae.init_state(spec, images, _device).model)


def pixels(spec: Spec, images: np.ndarray) -> Arrays:
    """Convert uint8 images to floats, `[n, pixels]`."""
    return _numpy({"pixels": torchvae.scale(_tensor(images), spec.training.dtype)})


def prepared(spec: Spec, images: np.ndarray) -> Arrays:
    """Prepare the first training images as a step of the configuration does."""
    root, places = torchvae.root_key(spec.training.seed, _device), np.arange(len(images))
    keys = (torchvae.static_key(root, "train"), random.fold_in(torchvae.stream_key(root, "noise", 3), 0))
    static, dynamic = (torchvae.image_keys(key, _tensor(places)) for key in keys)
    return _numpy({"prepared": torchvae.prepare_pixels(spec, _tensor(images), static, dynamic)})


def draws(spec: Spec, rows: int, t: int) -> Arrays:
    """Draw the random numbers of step `t` for `rows` images."""
    key = torchvae.stream_key(torchvae.root_key(spec.training.seed, _device), "noise", t)
    drawn = torchvae.draw(spec, key, rows)
    named = {name: value for name, value in drawn._asdict().items() if name != "masks" and value is not None}
    return _numpy(named | {f"mask {i}": mask for i, mask in enumerate(drawn.masks)})


@torch.no_grad()
def layers(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the inputs and outputs of every layer in training, in the order of the computation, and the latent.
    Images have the order height, width, channel."""
    model, given = model_of(spec, arrays).train(), _inputs(spec, batch)
    with torch_layers.record(model, leaves=True) as calls:
        posterior = model.encode(given.seen, given.labels, given.training)
        z = torchvae.locate(posterior, given.draws.eps.reshape(-1, *posterior.mean.shape)[0])
        model.decode(z, given.labels, given.training)
        if spec.model.discriminator:
            model.discriminate(z)
    by_name = {".".join(map(str, layer.path)): layer for layer in layout.layers(spec.model)}

    def ordered(name: str, kind: str, value: np.ndarray) -> np.ndarray:
        shape = by_name[name].flattened if kind == "input" else by_name[name].unflattened
        if shape is not None:
            value = value.reshape(len(value), *shape)
            return value.transpose(0, 2, 3, 1).reshape(len(value), -1)
        return value.transpose(0, 2, 3, 1) if value.ndim == 4 else value

    seen = {f"{n}, {kind}": ordered(n, kind, value) for n, c in calls.items() for kind, value in c._asdict().items()}
    return seen | _numpy({**posterior._asdict(), "z": z})


def forward(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the outputs in evaluation, `[batch, ..]`: the posterior, the latent, the logits."""
    model, labels = model_of(spec, arrays), _optional(batch.labels)
    posterior = torchvae.encode(spec, model, _tensor(batch.x), labels)
    z = torchvae.locate(posterior, _tensor(batch.eps).reshape(-1, *posterior.mean.shape)[0])
    return _numpy({**posterior._asdict(), "z": z, "logits": torchvae.decode(spec, model, z, labels).logits})


@torch.no_grad()
def outputs(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute in evaluation the posterior, the latent, what the decoder makes of it, and every term of each image."""
    model, given = model_of(spec, arrays), _inputs(spec, batch)
    posterior = torchvae.encode(spec, model, given.x, given.labels)
    z = torchvae.locate(posterior, given.draws.eps.reshape(-1, *posterior.mean.shape)[0])
    decoded = torchvae.decode(spec, model, z, given.labels)
    named = {**posterior._asdict(), "z": z, "logits": decoded.logits}
    if decoded.logvar is not None:
        named["pixel logvar"] = distributions.pixel_logvar(spec, decoded)
    named["pixel means"] = torchvae.pixel_means(spec, decoded)
    return _numpy(named | torchvae.image_terms(spec, model, given.x, given.draws, given.labels)._asdict())


def losses(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute every term of each image in evaluation, `[batch]`."""
    model, draws = model_of(spec, arrays), _inputs(spec, batch).draws
    return _numpy(torchvae.image_terms(spec, model, _tensor(batch.x), draws, _optional(batch.labels))._asdict())


def training(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute every term of the batch in training, and the running statistics after it."""
    model, given, terms = model_of(spec, arrays).train(), _inputs(spec, batch), {}
    assert given.training is not None
    for phase in torchvae.phases(spec):
        terms |= objectives.average(spec, phase.terms(spec, model, given), given.training.weights, given.step)
    now = torchvae.to_arrays(spec, model)
    # Names and order as in jaxvae's tree.
    running = sorted((p for p in layout.table(spec.model) if "running" in p.name), key=lambda p: p.path)
    return _numpy(terms) | {"".join(f"[{step!r}]" for step in p.path): now[p.name] for p in running}


def gradients(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the gradients of each phase, by the parameters it trains; `PHASE.NAME` where there are several phases."""
    model, given, by_name = model_of(spec, arrays).train(), _inputs(spec, batch), {}
    assert given.training is not None
    named = dict(model.named_parameters())
    for phase in torchvae.phases(spec):
        model.zero_grad(set_to_none=True)
        terms = objectives.average(spec, phase.terms(spec, model, given), given.training.weights, given.step)
        (next(iter(terms.values())) * phase.share).backward()
        for parameter in optimizer_state.trained(spec, phase.networks):
            tensor = named[parameter.name]
            name = f"{phase.name}.{parameter.name}" if phase.name else parameter.name
            by_name[name] = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.clone()
    return _numpy(by_name)


def optimize(spec: Spec, arrays: Arrays, gradients: list[Arrays]) -> tuple[Arrays, Arrays]:
    """Compute the parameters and Adam's state after one update by each of the gradients, named as in `gradients`."""
    model = model_of(spec, arrays)
    optimizer, named = torchvae.init_optimizers(spec, model), dict(model.named_parameters())
    for gradient in gradients:
        for phase in spec.phases:
            for parameter in optimizer_state.trained(spec, spec.phases[phase]):
                name = f"{phase}.{parameter.name}" if phase else parameter.name
                named[parameter.name].grad = _tensor(gradient[name])
            optimizer[phase].step()
    return torchvae.to_arrays(spec, model), torchvae.optimizer_to_arrays(spec, optimizer)


def steps(
    spec: Spec, arrays: Arrays, batches: list[Batch], optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """Take one training step on the pixels and labels of each batch, from the given or the initial state of Adam, and
    return the parameters, Adam's state, and the terms of each step."""
    state, terms = _state(spec, arrays, optimizer), []
    for batch in batches:
        state, step = torchvae.train_step(spec, state, _tensor(batch.x), _optional(batch.labels))
        terms.append(torch.stack(step).numpy(force=True))
    return *_trained(spec, state), np.stack(terms)


def train(
    spec: Spec, arrays: Arrays, data: Dataset, optimizer: Arrays | None = None, last: int | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """Train from these parameters for the epochs or steps of the configuration, or up to step `last`, and return the
    parameters, Adam's state, and the terms of each step."""
    state, terms = _state(spec, arrays, optimizer), []
    on_device, labels = _tensor(data.train), _tensor(data.train_labels) if spec.model.classes else None
    end = spec.training.total_steps(len(data.train))
    while (done := state.step) < (end if last is None else min(end, last)):
        state, epoch = torchvae.train_epoch(spec, state, on_device, labels, last)
        terms.append(epoch.numpy(force=True)[: state.step - done])
    return *_trained(spec, state), np.concatenate(terms)


def evaluate(spec: Spec, arrays: Arrays, data: Dataset, t: int) -> Arrays:
    """Evaluate the test images as after epoch `t`: the terms, samples if there is a prior, and reconstructions."""
    model, root = model_of(spec, arrays), torchvae.root_key(spec.training.seed, _device)
    key = torchvae.stream_key(root, "evaluation", t)
    named = dict(zip(spec.terms, torchvae.average_terms(spec, model, data.test, key, data.test_labels), strict=True))
    if has_prior(spec):
        named["samples"] = torchvae.sample(spec, model, torchvae.stream_key(root, "pictures", t), 64)
    named["reconstructions"] = torchvae.reconstruct(spec, model, data.test[:64], data.test_labels[:64])
    return {name: np.asarray(value) for name, value in named.items()}


def run(spec: Spec, data: Dataset) -> tuple[Arrays, Arrays, np.ndarray, np.ndarray]:
    """Train a whole run and return the final parameters, Adam's state, the terms of each step `[steps, terms]` and of
    each evaluation, on validation images first, `[evaluations, terms]`."""
    seen: list[torchvae.Progress] = []
    state = torchvae.fit(spec, data, seen.append, _device)
    held = [p.validation for p in seen if p.validation is not None]
    train, test = np.concatenate([p.train for p in seen]), np.stack([*held, *(p.test for p in seen)])
    return *_trained(spec, state), train, test


def root_streams() -> tuple[str, ...]:
    """Return the names of the key streams."""
    return torchvae.Streams._fields


def wide_bits(spec: Spec, size: int) -> Arrays:
    """Draw 64-bit words from the run's root key."""
    return _numpy({"wide bits": random.bits(torchvae.root_key(spec.training.seed, _device), (size,), torch.uint64)})


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, device=_device)


def model_of(spec: Spec, arrays: Arrays) -> torchvae.VAE:
    """Make the model of these arrays, on the selected device."""
    return torchvae.from_arrays(spec, arrays).to(_device)


def _inputs(spec: Spec, batch: Batch) -> torchvae.Inputs:
    """The batch as training has it."""
    x, prior, corruption = _tensor(batch.x), _optional(batch.prior), _optional(batch.corruption)
    draws = torchvae.Draws(_tensor(batch.eps), prior, corruption, tuple(map(_tensor, batch.masks)))
    shares = torch.full((len(x),), 1 / len(x), dtype=x.dtype, device=x.device)
    return torchvae.inputs(spec, x, draws, _optional(batch.labels), shares, batch.step)


def _optional(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else _tensor(array)


def _state(spec: Spec, arrays: Arrays, optimizer: Arrays | None) -> torchvae.TrainState:
    model, average, step = model_of(spec, arrays), None, 0
    if spec.training.ema:
        average = model_of(spec, arrays if optimizer is None else averages(optimizer)[0])
    if optimizer is None:
        adam = torchvae.init_optimizers(spec, model)
    else:
        adam = torchvae.optimizer_from_arrays(spec, averages(optimizer)[1], model)
        step = next(int(array) for name, array in optimizer.items() if name.endswith("step"))
    return torchvae.TrainState(model, adam, step, torchvae.root_key(spec.training.seed, _device), average)


def _trained(spec: Spec, state: torchvae.TrainState) -> tuple[Arrays, Arrays]:
    """The weights, and Adam's state with the average of the weights if there is one."""
    optimizer = torchvae.optimizer_to_arrays(spec, state.optimizer)
    if state.average is not None:
        optimizer |= {f"average.{name}": array for name, array in torchvae.to_arrays(spec, state.average).items()}
    return torchvae.to_arrays(spec, state.model), optimizer


def _numpy(named: dict) -> Arrays:
    return {name: value.numpy(force=True) for name, value in named.items()}
