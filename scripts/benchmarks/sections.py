"""The sections of the benchmark: each prepares its programs and times them in turn."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks import in_jax, in_torch, matmul_bound, processes
from benchmarks.timing import Timed, Work, interleaved
from benchmarks.workload import Setting, changed
from jaxvae.shared.config.networks import NETWORKS

TUTORIAL, MEMORY, COMPILED = "tutorial loop, PyTorch", "in memory, PyTorch", "torch.compile"
GRAPHS, TUNED = "torch.compile, CUDA graphs", "torch.compile, max-autotune"
TORCHVAE, TORCHVAE_COMPILED = "torchvae", "torchvae --compile"
STEPS, JAXVAE = "jaxvae, per step", "jaxvae"
LIMIT, LIMIT_TORCH = "the products alone, XLA", "the products alone, PyTorch"

Make = Callable[[Setting], Callable[[], object] | None]

_WIDTHS = (100, 200, 400, 800, 1600, 3200)
_BATCHES = (32, 128, 512, 2048, 4096)
_IMAGES = (6_000, 15_000, 30_000, 60_000)
_SAMPLES = (1, 5, 10, 20, 50)
_EPOCH = 100e9  # floating-point operations on a CPU: a second
_SCALED = 10e9  # floating-point operations on a CPU, for each point of a curve: a tenth of a second
_LONGEST = 200e9  # the same for its costliest
_EVALUATED = 150e9  # the same for an evaluation
_TESTED = 1_000  # images, and no more
_PART = 20  # jaxvae.evaluate computes in parts of this number of images
_LOTS = 2_000  # times as many on an accelerator
_LEAST = 2  # steps
_FULL = 2048  # images, which are whole batches of most sizes


class How(NamedTuple):
    """How much to measure."""

    preset: str
    rounds: int
    batches: tuple[int, ...]
    quick: bool
    data_root: Path | None


def contestants(device: str) -> dict[str, Make]:
    """List the training loops for a device."""
    jax: dict[str, Make] = {STEPS: in_jax.per_step, JAXVAE: in_jax.per_epoch, LIMIT: in_jax.products}
    if device == "tpu":
        return jax
    graphs: dict[str, Make] = {GRAPHS: in_torch.cuda_graphs, TUNED: in_torch.tuned} if device == "gpu" else {}
    return {
        TUTORIAL: in_torch.tutorial,
        MEMORY: in_torch.in_memory,
        COMPILED: in_torch.compiled,
        **graphs,
        TORCHVAE: in_torch.package,
        TORCHVAE_COMPILED: in_torch.compiled_package,
        **jax,
        LIMIT_TORCH: in_torch.products,
    }


def training(setting: Setting, how: How) -> Iterator[Timed]:
    """Time epochs of every training loop, for each batch."""
    for batch in how.batches:
        this = changed(setting, batch=batch)
        work = {name: run for name, make in contestants(setting.device).items() if (run := make(this)) is not None}
        where = {"batch": batch, "images": len(this.train)}
        for name, seconds in interleaved(work, how.rounds, f"training, batch {batch}").items():
            full = batch * this.steps if name in (LIMIT, LIMIT_TORCH) else len(this.train)
            yield Timed("training", name, where, seconds, full, matmul_bound.flops(this.spec, full))


def scaling(setting: Setting, how: How) -> Iterator[Timed]:
    """Time epochs of three training loops as one size grows."""
    spatial = NETWORKS[setting.spec.model.network].spatial
    most = _within(_LONGEST, matmul_bound.flops(setting.spec), setting.device)
    axes = {
        "hidden": () if spatial else _WIDTHS,
        "batch": tuple(batch for batch in _BATCHES if _LEAST * batch <= most),
        "images": tuple(int(n * min(1.0, most / max(_IMAGES))) for n in _IMAGES),
        "samples": () if spatial else _SAMPLES,
    }
    chosen = {name: make for name, make in contestants(setting.device).items() if name in (MEMORY, TORCHVAE, JAXVAE)}
    for axis, places in axes.items():
        for place in places[:2] if how.quick else places:
            this = _at(setting, axis, place, how.quick)
            work = {name: run for name, make in chosen.items() if (run := make(this)) is not None}
            where = {"axis": axis, axis: place, "batch": this.spec.training.batch_size, "images": len(this.train)}
            for name, seconds in interleaved(work, how.rounds, f"scaling, {axis} {place}").items():
                n = len(this.train)
                yield Timed("scaling", name, where, seconds, n, matmul_bound.flops(this.spec, n))


def evaluation(setting: Setting, how: How) -> Iterator[Timed]:
    """Time the importance-weighted log-likelihood of test images."""
    samples = 500 if how.quick else 5_000
    decoding = sum(p.forward for p in matmul_bound.products(setting.spec) if p.network == "decoder") * samples
    n = _within(_EVALUATED * (0.1 if how.quick else 1), decoding, setting.device)
    n = max(1, min(n, _TESTED, len(setting.test)))
    images = setting.test[: n - n % min(n, _PART)]
    work: Work = {JAXVAE: in_jax.log_likelihood(setting, images, samples)}
    if setting.device != "tpu":
        work = {"chunks, PyTorch": in_torch.plain_log_likelihood(setting, images, samples)} | work
        work[TORCHVAE] = in_torch.log_likelihood(setting, images, samples)
    where = {"images": len(images), "samples": samples}
    for name, seconds in interleaved(work, how.rounds, "evaluation").items():
        yield Timed("evaluation", name, where, seconds, len(images), decoding * len(images))


def sampling(setting: Setting, how: How) -> Iterator[Timed]:
    """Time sampling from the prior."""
    n = 1_000 if how.quick or NETWORKS[setting.spec.model.network].spatial else 10_000
    work: Work = {JAXVAE: in_jax.sample(setting, n)}
    if setting.device != "tpu":
        work = {"eager, PyTorch": in_torch.plain_sample(setting, n)} | work
        work[TORCHVAE] = in_torch.sample(setting, n)
    decoding = sum(p.forward for p in matmul_bound.products(setting.spec) if p.network == "decoder")
    for name, seconds in interleaved(work, how.rounds, "sampling").items():
        yield Timed("sampling", name, {"images": n}, seconds, n, decoding * n)


def start(setting: Setting, how: How) -> Iterator[Timed]:
    """Time a process from its start to the end of its first epoch."""
    this = changed(setting, batch=how.batches[0])
    with processes.starts(this, how.preset, how.data_root) as work:
        if setting.device == "tpu":
            del work[TORCHVAE]
        for name, seconds in interleaved(work, 1 if how.quick else how.rounds, "start-up", not how.quick).items():
            yield Timed("start", name, {"batch": how.batches[0], "images": len(this.train)}, seconds, len(this.train))


def memory(setting: Setting, how: How) -> Iterator[Timed]:
    """Measure the maximum memory of a process that trains for two epochs, one process for each training loop."""
    this = changed(setting, batch=how.batches[0])
    for name, make in tqdm(contestants(setting.device).items(), "memory", unit=" runs", leave=False, disable=None):
        if name in (LIMIT, LIMIT_TORCH) or (how.quick and name not in (TORCHVAE, JAXVAE)):
            continue
        used = processes.memory(this, how.preset, how.data_root, make)
        where = {"batch": how.batches[0], "images": len(this.train)}
        yield Timed("memory", name, {**where, **used}, [used["peak"]], len(this.train))


def default_images(setting: Setting, quick: bool) -> int:
    """Choose the number of images in an epoch: all, or on a CPU as many as take seconds."""
    most = _within(_EPOCH * (0.1 if quick else 1), matmul_bound.flops(setting.spec), setting.device)
    return min(len(setting.train), max(1, most // _FULL) * _FULL)


def _at(setting: Setting, axis: str, place: int, quick: bool) -> Setting:
    if axis == "images":
        return changed(setting, images=max(setting.spec.training.batch_size, place // (10 if quick else 1)))
    batch = place if axis == "batch" else setting.spec.training.batch_size
    this = changed(setting, **{axis: place}, images=batch)  # type: ignore[arg-type]
    n = _within(_SCALED * (0.1 if quick else 1), matmul_bound.flops(this.spec), setting.device)
    steps = max(_LEAST, min(n, max(_IMAGES)) // batch)
    return changed(this._replace(train=setting.train), images=batch * steps)


def _within(most: float, each: int, device: str) -> int:
    """The number of images, of `each` operations, that fit in `most`."""
    return int(most * (1 if device == "cpu" else _LOTS)) // each
