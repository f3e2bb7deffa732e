"""What the commands ask of a package: `Backend`.

jaxvae and torchvae are backends, as modules. Any object with these attributes is one too, and the command line runs
with it. Calls take and return NumPy arrays, except for the opaque types below, which a command only passes on."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeGuard, TypeVar

import numpy as np

from jaxvae.shared.config.choices import Dtype, Shard
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset

Weights: TypeAlias = Any
"""A model's parameters: in jaxvae a nested dict of arrays, in torchvae an `nn.Module`."""
State: TypeAlias = Any
"""A backend's TrainState: its step is `state.step`, its root key `state.key`; `state.evaluated` are the weights that
are evaluated, drawn and saved."""
Key: TypeAlias = Any
"""A key of jax.random's threefry streams: in jaxvae a typed key, in torchvae a tensor of two words."""
Device: TypeAlias = Any
"""A `jax.Device` or a `torch.device`."""

DeviceName = Literal["auto", "cpu", "gpu", "tpu"]
Format = Literal["safetensors", "torch", "flax", "orbax", "stablehlo", "torch-export", "onnx"]
"""The formats that models are exported to, by one package or by both."""
FileKind = Literal["safetensors", "msgpack", "npz", "orbax", "pickle"]
"""The kinds of files that models of other programs are imported from."""

S = TypeVar("S")


class Part(NamedTuple, Generic[S]):
    """The progress of a run within an epoch, or at its end before the evaluation."""

    state: S
    """The TrainState. Valid until the callback returns: training continues in it."""
    epoch: int
    """Number of the epoch, from 1."""
    step: int
    """Steps taken since the beginning of the run."""
    train: np.ndarray
    """Mean terms of each step of the epoch so far: `[steps, terms]`, nats per image."""


class Progress(NamedTuple, Generic[S]):
    """The progress of a run after an epoch, or after its last step."""

    state: S
    """The TrainState. Valid until the callback returns: training continues in it."""
    epoch: int
    """Number of the epoch, from 1."""
    step: int
    """Steps taken since the beginning of the run."""
    train: np.ndarray
    """Mean terms of each step of the epoch: `[steps, terms]`, nats per image."""
    test: np.ndarray
    """Mean terms over the test images: `[terms]`, float64, nats per image."""
    validation: np.ndarray | None = None
    """Those over the validation images; None without any."""


class Likelihood(NamedTuple):
    """Importance-weighted estimates for `n` images, float64."""

    nats: np.ndarray
    """The estimate of log p(x) of each image: `[n]`, nats."""
    effective: np.ndarray
    """Effective sample size of each image (Kong 1992), (sum w)^2 / sum w^2, from 1 to the number of samples: `[n]`."""


class Latents(NamedTuple):
    """Posteriors of `n` images, float64. `logvar` and `z` are None for a posterior without a density."""

    mean: np.ndarray
    """`[n, latent]`"""
    logvar: np.ndarray | None
    """`[n, latent]`"""
    z: np.ndarray | None
    """One draw from each posterior: `[n, latent]`."""


class Pixels(NamedTuple):
    """The decoder's output for `n` latents, float64."""

    location: np.ndarray
    """Logits of a Bernoulli likelihood, means of a Gaussian one: `[n, pixels]`."""
    logvar: np.ndarray | None
    """Log-variance of a Gaussian likelihood: `[n, pixels]`, or `[]` where all pixels share it. None for a Bernoulli."""


class Tensor(NamedTuple):
    """One tensor of another program's file."""

    path: tuple[str, ...]
    """The keys that lead to it; one key where names are flat."""
    dtype: str
    """Name of its type as NumPy spells it, or `bfloat16`."""
    array: np.ndarray
    """Its values. The bits of bfloat16 are uint16, since NumPy has no such type."""

    @property
    def is_float(self) -> bool:
        return self.dtype in ("float16", "bfloat16", "float32", "float64")


class File(NamedTuple):
    """The tensors of another program's file, in the file's order."""

    kind: FileKind
    tensors: tuple[Tensor, ...]
    header: str = ""
    """A safetensors file's header, verbatim, so that the file can be written again byte for byte."""


class Backend(Protocol):
    """A package that trains, evaluates, samples and converts models.

    The functions are documented where they are written, under the same names, in jaxvae and torchvae. Labels `[n]` are
    needed for models with classes only. Images are uint8, `[n, height, width, channels]`.
    """

    __name__: str
    """`jaxvae` or `torchvae`: the name in messages and in a run's record."""

    # Devices and processes

    def prepare(
        self, name: DeviceName = ..., dtype: Dtype = ..., devices: int | None = ..., shard: Shard | None = ..., /
    ) -> Device: ...

    def device_label(self, device: Device, /) -> str: ...

    def join(
        self, coordinator: str | None = ..., processes: int | None = ..., process: int | None = ..., /
    ) -> None: ...

    def processes(self) -> int: ...

    def first(self) -> bool: ...

    def agreed(self, number: int, /) -> int: ...

    def shares(self) -> int: ...

    # Keys

    def root_key(self, seed: int, /) -> Key: ...

    def stream_key(self, key: Key, stream: str, t: int, /) -> Key: ...

    # Training

    def fit(
        self,
        spec: Spec,
        data: Dataset,
        on_epoch: Callable[[Progress[State]], None],
        device: Device,
        start: tuple[State, np.ndarray] | None,
        on_part: Callable[[Part[State]], None] | None,
        every: Sequence[int],
        stream: int | None,
        history: Sequence[float],
        /,
    ) -> State: ...

    def gathered(self, spec: Spec, state: State, /) -> State: ...

    def gradient_norm(
        self, spec: Spec, state: State, images: np.ndarray, labels: np.ndarray | None = ..., /
    ) -> float: ...

    # Files

    def save(self, path: Path, spec: Spec, weights: Weights, /) -> None: ...

    def load(self, path: Path, device: Device, /) -> tuple[Spec, Weights]: ...

    def save_checkpoint(self, path: Path, spec: Spec, state: State, train: np.ndarray, /) -> None: ...

    def load_checkpoint(self, path: Path, device: Device, /) -> tuple[Spec, State, np.ndarray]: ...

    def to_arrays(self, spec: Spec, weights: Weights, /) -> dict[str, np.ndarray]: ...

    def read_foreign(self, path: Path, prefix: str | None = ..., /) -> File: ...

    def pack_foreign(self, file: File, /) -> bytes: ...

    def export_model(self, path: Path, spec: Spec, weights: Weights, format: Format, /) -> None: ...

    # Evaluation

    def average_terms(
        self, spec: Spec, weights: Weights, images: np.ndarray, key: Key, labels: np.ndarray | None = ..., /
    ) -> np.ndarray: ...

    def log_likelihood(
        self,
        spec: Spec,
        weights: Weights,
        images: np.ndarray,
        key: Key,
        labels: np.ndarray | None = ...,
        samples: int = ...,
        on_images: Callable[[int], None] = ...,
        /,
    ) -> Likelihood: ...

    def see_images(self, spec: Spec, images: np.ndarray, key: Key, /) -> np.ndarray: ...

    def encode_images(
        self, spec: Spec, weights: Weights, images: np.ndarray, key: Key, labels: np.ndarray | None = ..., /
    ) -> Latents: ...

    def decode_latents(
        self, spec: Spec, weights: Weights, z: np.ndarray, labels: np.ndarray | None = ..., /
    ) -> Pixels: ...

    # Images from the model, `[..., height, width, channels]` in [0, 1]

    def sample(
        self,
        spec: Spec,
        weights: Weights,
        key: Key,
        n: int,
        labels: np.ndarray | None = ...,
        temperature: float = ...,
        /,
    ) -> np.ndarray: ...

    def reconstruct(
        self, spec: Spec, weights: Weights, images: np.ndarray, labels: np.ndarray | None = ..., /
    ) -> np.ndarray: ...

    def draw_latents(self, spec: Spec, key: Key, n: int, /) -> np.ndarray: ...

    def decode_images(
        self, spec: Spec, weights: Weights, z: np.ndarray, labels: np.ndarray | None = ..., /
    ) -> np.ndarray: ...

    def interpolate(
        self,
        spec: Spec,
        weights: Weights,
        start: np.ndarray,
        end: np.ndarray,
        steps: int,
        labels: np.ndarray | None = ...,
        spherical: bool = ...,
        /,
    ) -> np.ndarray: ...

    def traverse(
        self,
        spec: Spec,
        weights: Weights,
        z: np.ndarray,
        dimensions: np.ndarray,
        values: np.ndarray,
        label: int | None = ...,
        /,
    ) -> np.ndarray: ...

    def manifold(self, spec: Spec, weights: Weights, steps: int, label: int | None = ..., /) -> np.ndarray: ...


class CompilingBackend(Backend, Protocol):
    """A backend that compiles a step on request."""

    def fit(
        self,
        spec: Spec,
        data: Dataset,
        on_epoch: Callable[[Progress[State]], None],
        device: Device,
        start: tuple[State, np.ndarray] | None,
        on_part: Callable[[Part[State]], None] | None,
        every: Sequence[int],
        stream: int | None,
        history: Sequence[float],
        /,
        *,
        compile: bool = ...,
    ) -> State: ...


def compiles(backend: Backend) -> TypeGuard[CompilingBackend]:
    """Whether the backend compiles a step on request."""
    return "compile" in inspect.signature(backend.fit).parameters


class SweepBackend(Backend, Protocol):
    """A backend that can also train a sweep's runs as one program."""

    def fit_together(
        self,
        specs: Sequence[Spec],
        data: Dataset,
        on_epoch: Callable[[int, Progress[State]], None],
        device: Device,
        starts: Sequence[tuple[State, np.ndarray] | None] | None,
        on_part: Callable[[Mapping[int, Part[State]]], None] | None,
        every: Sequence[int],
        histories: Sequence[Sequence[float]] | None,
        /,
    ) -> dict[int, State]: ...


def fits_together(backend: Backend) -> TypeGuard[SweepBackend]:
    """Whether the backend can train a sweep's runs as one program."""
    return hasattr(backend, "fit_together")


class LaunchedBackend(Backend, Protocol):
    """A backend whose processes a launcher may start, which tells them through the environment who they are."""

    def share_port(self, port: int | None, /) -> int: ...


def launched(backend: Backend) -> TypeGuard[LaunchedBackend]:
    """Whether a launcher, as torchrun, has started this process."""
    return hasattr(backend, "share_port") and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ)
