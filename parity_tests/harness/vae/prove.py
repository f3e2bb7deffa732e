"""The whole comparison: every level, the trajectories, and the diagnosis of a failure."""

import contextlib
import functools
import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType

import flax
import jax
import numpy as np
import optax
import torch
from flax import nnx

import jaxvae
from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.serialization import to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset, held_out
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from parity_tests.harness.findings import PRESETS, Diagnosis, Finding, Report, Trajectory
from parity_tests.harness.tree import Entry, Path
from parity_tests.harness.vae import jax_backend, layer_figures, levels, precision, trajectory
from parity_tests.harness.vae.batches import prepared, stream
from parity_tests.harness.vae.diagnose import diagnose
from parity_tests.harness.vae.levels import BACKENDS, LEVELS
from parity_tests.harness.vae.steps import bounded

BOTH: tuple[Stored, ...] = ("float64", "float32")
PLACES = len(LEVELS) + 1
"""Number of calls of `on_level` by `prove` for each dtype."""


def prove(
    spec: Spec,
    data: Dataset,
    *,
    dtypes: Sequence[Stored] = BOTH,
    steps: int = 100,
    bisect: bool = True,
    backends: tuple[ModuleType, ModuleType] = BACKENDS,
    on_level: Callable[[str], None] = lambda name: None,
) -> Report:
    """Compare both packages on a configuration at every level and over a run, in each dtype.

    Args:
        spec: The configuration; its own dtype, precision, epochs and last step are replaced.
        data: The images.
        dtypes: The dtypes to compare in.
        steps: Length of the run.
        bisect: Whether to localize and explain the first difference, for at most as long as the comparison took.
        backends: The two backends.
        on_level: Progress callback, called with the dtype and the name of each level before it is compared.

    Returns:
        The report. A level in which a backend raises an error fails.
    """
    data = held_out(data, spec.images.validation)
    findings: list[Finding] = []
    trajectories: list[Trajectory] = []
    # Only the first difference is explained, since the others may follow from it; that of a level at the end, when the
    # time that the comparison took is known.
    failed: tuple[Stored, functools.partial[Diagnosis]] | None = None
    diagnosis: Diagnosis | None = None
    digests: dict[str, object] = {}
    layers: dict[Path, Entry] = {}
    began = time.monotonic()

    for dtype in dtypes:
        with jax.enable_x64(dtype == "float64"):
            whole = bounded(_in(spec, dtype), steps, len(data.train))
            case = levels.case(whole, data)
            digests[dtype] = weight_file.digest(np.concatenate([array.ravel() for array in case.start.values()]))
            for level in LEVELS:
                on_level(f"{dtype}: {level.name}")
                try:
                    finding, answers = levels.compare(level, case, backends)
                    with contextlib.suppress(Exception):  # whatever goes wrong there, the findings are right
                        layer_figures.add(layers, level, finding, answers)
                    if not finding.passed and failed is None:
                        explain = functools.partial(diagnose, level, case, answers, finding.tolerance, backends)
                        failed = dtype, explain
                except Exception as error:
                    finding = _raised(level.name, dtype, error)
                findings.append(finding)
            on_level(f"{dtype}: a run of {steps} steps")
            try:
                right = all(finding.passed for finding in findings)
                wanted = bisect and failed is None and diagnosis is None
                of_run, curve, parting = trajectory.follow(
                    whole, data, case.start, backends, settle=right, bisect=wanted
                )
            except Exception as error:
                findings.append(_raised(trajectory.LOSSES, dtype, error))
                continue
            findings += of_run
            trajectories.append(curve)
            diagnosis = diagnosis or parting
    if bisect and failed is not None and diagnosis is None:
        dtype, explain = failed
        on_level(f"{dtype}: the cause of the first difference")
        try:
            with jax.enable_x64(dtype == "float64"):
                diagnosis = explain(deadline=2 * time.monotonic() - began)
        except Exception as error:
            where = f"{explain.args[0].name} ({dtype})"
            diagnosis = Diagnosis(where, f"the search for its cause ended with {type(error).__name__}: {error}", None)
    described = about(spec, data, dtypes, steps, digests)
    tree = layer_figures.grown("the model", layers, all(finding.passed for finding in findings))
    return Report(described, tuple(findings), tuple(trajectories), diagnosis, tree=tree, subject=PRESETS)


def _raised(level: str, dtype: str, error: Exception) -> Finding:
    """The finding of a level in which a backend raised an error: an infinite difference."""
    reason = " ".join(str(error).split())
    return Finding(
        level, dtype, float("inf"), f"{type(error).__name__}: {reason}", 0.0, "", "both backends must compute the level"
    )


def use(device: str) -> str:
    """Select the device of both backends.

    Args:
        device: `cpu` or `gpu`.

    Returns:
        The devices and the frameworks' versions in words.

    Raises:
        InputError: If a framework has no such device.
    """
    try:
        labels = dict.fromkeys(backend.use(device) for backend in BACKENDS)
    except InputError:
        raise InputError(f"There is no {device} here that both frameworks can use; compare on --device cpu.") from None
    return f"{' and '.join(labels)}; jax {jax.__version__}, torch {torch.__version__}"


def precisions(spec: Spec, data: Dataset) -> list[precision.Effect]:
    """Measure the effect of lower precision on a thousand test images, with the weights after ten steps."""
    few = bounded(_in(spec, "float32"), 10, len(data.train))
    weights = jax_backend.train(few, jax_backend.initial(few, data.train), data)[0]
    shown = data.test[:1000]
    x = prepared(few, shown, np.arange(len(shown)), "test", stream(few, "evaluation", 1))
    labels = data.test_labels[: len(x)] if few.model.classes else None
    return precision.effects(few, weights, levels.noise(few, 0, len(x))._replace(x=x, labels=labels))


def merged(reports: Mapping[str, Report]) -> Report:
    """Merge the reports of several configurations; levels are prefixed with the configuration's name."""
    if len(reports) == 1:
        return next(iter(reports.values()))
    return Report(
        {name: report.about for name, report in reports.items()},
        tuple(f._replace(level=f"{name}: {f.level}") for name, report in reports.items() for f in report.findings),
        tuple(t._replace(name=name) for name, report in reports.items() for t in report.trajectories),
        _joined({name: report.diagnosis for name, report in reports.items() if report.diagnosis}),
        tree=layer_figures.joined((name, report.tree) for name, report in reports.items()),
        subject=PRESETS,
    )


def _joined(diagnoses: Mapping[str, Diagnosis]) -> Diagnosis | None:
    """The diagnosis of the first configuration that differs, with those of the others."""
    every = [one._replace(where=f"{name}: {one.where}", configuration=name) for name, one in diagnoses.items()]
    return every[0]._replace(more=tuple(every[1:])) if every else None


def about(
    spec: Spec, data: Dataset, dtypes: Sequence[Stored], steps: int, digests: dict[str, object]
) -> dict[str, object]:
    """Describe the comparison, its data, devices, precision and versions in plain JSON values."""
    images = hashlib.sha256(data.train.tobytes() + data.test.tobytes()).hexdigest()
    return {
        "spec": to_json(bounded(spec, steps, len(data.train))),
        "dtypes": list(dtypes),
        "seed": spec.training.seed,
        "steps": steps,
        "data": {"name": data.name, "train": len(data.train), "test": len(data.test), "sha256": images},
        "initial weights (sha256)": digests,
        "devices": {backend.NAME: backend.device() for backend in BACKENDS},
        "precision": {
            "jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
            "jaxvae's layers": str(vars(jaxvae.VAE(spec.model, rngs=nnx.Rngs(0)).decoder)["logits"].precision),
            "torch.get_float32_matmul_precision": torch.get_float32_matmul_precision(),
            "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


def _in(spec: Spec, dtype: Stored) -> Spec:
    return replace(spec, training=replace(spec.training, dtype=dtype, precision="float32"))
