"""torchvae's compiled step: one graph, the same numbers, and nothing that a GPU's host waits for."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.commands.open_session import require_valid_flags
from jaxvae.shared.commands.train import Train
from jaxvae.shared.config.parts import TrainingSpec
from jaxvae.shared.config.presets import PRESETS, preset
from jaxvae.shared.config.spec import Spec, resolved
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from parity_tests.support.cli import run
from parity_tests.support.numpy_backend import SIZES
from parity_tests.support.quick import quick
from parity_tests.support.tiny import small, some
from torchvae import compiled, train

RISING = {"schedule": "cosine", "decay_steps": 9, "rate_warmup": 4, "clip": 0.5, "weight_decay": 0.01, "ema": 0.9}
EXTRAS = replace(small("conditional"), training=TrainingSpec(batch_size=17, **RISING))
CONTINUOUS = preset(
    "pytorch-examples",
    **{"image": (6, 5, 1), "hidden": (12,), "latent": 4, "batch_size": 17, "data": "digits"},
    **{"likelihood": "continuous-bernoulli", "warmup": 7},
)


@pytest.fixture(autouse=True)
def _no_programs() -> Iterator[None]:
    compiled._programs.clear()
    yield
    compiled._programs.clear()


@pytest.fixture
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are compiled: they are computed as they are, in slow tests by torch.compile."""
    seen, compile = [], torch.compile
    slow = request.node.get_closest_marker("slow")

    def eager(graph: Any, *, mode: str | None = None, **how: Any) -> Any:
        seen.append(graph)
        return compile(graph, backend="eager", **how) if slow else graph

    monkeypatch.setattr(torch, "compile", eager)
    return seen


def trained(spec: Spec, compile: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays and the terms of a run of two epochs, each with a last batch of two images."""
    data, log = some(spec), []
    spec = replace(spec, training=replace(spec.training, dtype="float64", epochs=2))
    images, labels = torch.tensor(data.train), torch.tensor(data.train_labels) if spec.model.classes else None
    state = torchvae.init_state(spec, data.train)
    for last in (3, None, None):
        state, terms = torchvae.train_epoch(spec, state, images, labels, last, compile=compile)
        log.append(terms.numpy())
    arrays = torchvae.to_arrays(spec, state.model)
    evaluated = {f"evaluated.{name}": array for name, array in torchvae.to_arrays(spec, state.evaluated).items()}
    return {**arrays, **evaluated}, np.concatenate(log)


def compare(spec: Spec) -> None:
    (expected, terms), (actual, others) = (trained(spec, compile) for compile in (False, True))
    np.testing.assert_allclose(others, terms, rtol=1e-12)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("name", quick(PRESETS, []))
def test_the_step_of_every_preset_is_one_graph_without_breaks(name: str, graphs: list[Any]) -> None:
    spec = small(name)
    compare(spec)
    assert len(graphs) == len(spec.phases)  # of one size of a batch, for all epochs


@pytest.mark.parametrize("spec", quick([EXTRAS, CONTINUOUS], [EXTRAS]))
def test_what_changes_with_the_steps_is_not_compiled_into_them(spec: Spec, graphs: list[Any]) -> None:
    compare(spec)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["beta-b", "adversarial", "gaussian-pixel"])
def test_inductor_gives_the_same_numbers(name: str) -> None:
    compare(small(name))


class _Crossings(TorchDispatchMode):
    """Notes each operation that has tensors of two devices: a copy between them, for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.noted.append(str(function))
        return result


@pytest.mark.parametrize("name", quick([*PRESETS, "extras"], ["extras"]))
def test_no_step_waits_for_a_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device `meta`, whose tensors have no numbers: whatever asks for one is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_: contextlib.nullcontext())
    for adam in ("_Adam", "_AdamW"):  # the fused ones are not for it
        plain = type(adam, (getattr(train, adam),), {"__init__": _foreach})
        monkeypatch.setattr(train, adam, plain)
    spec = EXTRAS if name == "extras" else small(name)
    spec = replace(spec, images=replace(spec.images, flip=True, shift=1, binarization="dynamic"))
    data = some(spec)
    state = torchvae.init_state(resolved(spec, len(data.train)), data.train, "meta")
    images, labels = (torch.tensor(array, device="meta") for array in (data.train, data.train_labels))
    with _Crossings() as crossings:
        torchvae.train_epoch(spec, state, images, labels if spec.model.classes else None, 2)
    assert crossings.noted == []


def _foreach(self: Any, *arguments: Any, fused: bool) -> None:
    super(type(self), self).__init__(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no CUDA device here")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_no_step_waits_for_a_gpu(name: str, compile: bool) -> None:
    spec = small(name)
    data = some(spec)
    state = torchvae.init_state(spec, data.train, "cuda")
    images, labels = (torch.tensor(array, device="cuda") for array in (data.train, data.train_labels))
    classes = labels if spec.model.classes else None
    state, _ = torchvae.train_epoch(spec, state, images, classes, 3, compile=compile)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torchvae.train_epoch(spec, state, images, classes, compile=compile)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_run_is_the_same_run(tmp_path, capsys, graphs: list[Any]) -> None:
    flags = ["train", *SIZES, "--max-steps", "2", "--dtype", "float64", "--out"]
    for out, more in (("eager", []), ("compiled", ["--compile"])):
        assert cli.main(torchvae, [*flags, str(tmp_path / out), *more]) == 0
    assert len(graphs) == 1
    eager, same = (run_folder.read(tmp_path / out) for out in ("eager", "compiled"))
    assert eager.spec == same.spec
    assert eager.weights.read_bytes() == same.weights.read_bytes()


def test_jaxvae_has_no_such_flag() -> None:
    says = r"--compile is for torchvae, found with jaxvae; leave it out: jaxvae compiles every step\."
    with pytest.raises(InputError, match=f"^{says}$"):
        require_valid_flags(jaxvae, Train(Spec(), compile=True))


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "processes", lambda: 2)
    with pytest.raises(InputError, match=r"^fit compiles the step of one process, found 2 that train together; leave"):
        torchvae.fit(small("dropout"), some(small("dropout")), compile=True)


def test_without_a_compiler_it_is_one_sentence_before_the_first_step(tmp_path, capsys, monkeypatch) -> None:
    def compile(*_: Any, **how: Any) -> Callable[..., Any]:
        def fail(*_: Any) -> None:
            raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\n\nMore")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    says = (
        r"torch\.compile can't compile the step: it needs a C\+\+ compiler, as g\+\+, found RuntimeError \(No working "
        r"C\+\+ compiler found in .*\); install one, or leave out --compile \(in Python compile=True\)\."
    )
    status, _, said = run(torchvae, capsys, "train", *SIZES, "--compile", "--out", tmp_path / "run")
    assert status == 2
    assert re.fullmatch(f"torchvae: {says}", said.strip())
    assert not (tmp_path / "run").exists()


def by_a_number(spec: Any, model: Any, batch: Any) -> dict[str, Any]:
    posterior, errors = torchvae.encode_decode(spec, model, batch)
    kl = torchvae.kl(posterior)
    return {"loss": errors.mean(0) + kl * float(batch.step), "reconstruction": errors.mean(0), "kl": kl}


def by_own_numbers(spec: Any, model: Any, batch: Any) -> dict[str, Any]:
    posterior, errors = torchvae.encode_decode(spec, model, batch)
    kl = torchvae.kl(posterior) * torch.rand(())
    return {"loss": errors.mean(0) + kl, "reconstruction": errors.mean(0), "kl": kl}


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (by_a_number, r"The step can't be compiled: its parts have to be operations .*; change the own part, or leave"),
        (by_own_numbers, r"A compiled step would draw other random numbers .* \(aten\.rand\.default\); take them"),
    ],
)
def test_an_own_part_that_cant_be_compiled_is_one_sentence(objective: Any, says: str) -> None:
    fields = {"image": (4, 3, 1), "hidden": (5,), "latent": 2, "batch_size": 10}
    spec = preset("pytorch-examples", parts=torchvae.Parts(objective=objective), **fields)
    with pytest.raises(InputError, match=f"^{says}"):
        torchvae.fit(spec, np.full((20, 4, 3, 1), 255, np.uint8), compile=True)
