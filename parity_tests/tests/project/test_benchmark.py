"""The benchmark measures what it says: its loops train the packages' models, its operations are counted right, and all
of it can be asked for. Nothing is said of how long anything takes."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.extend.core import ClosedJaxpr, Jaxpr

import benchmark
import jaxvae
import torchvae
from benchmark import Benchmark
from benchmarks import baselines, in_jax, in_torch, matmul_bound, processes, sections, tables
from benchmarks.workload import Setting, changed
from jaxvae.shared.config.presets import preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from parity_tests.support import backends
from parity_tests.support.docs import run_script
from parity_tests.support.warm import python

ROOT = Path(__file__).parents[3]
IMAGES = np.random.default_rng(0).integers(0, 64, (48, 7, 7, 1), dtype=np.uint8)
IMAGES[:, 2:5, 1:4] += 190  # all show the same, which can be learned in a moment
HOW = sections.How("pytorch-examples", 1, (16,), True, None)


lean = pytest.fixture(backends.lean)


def small(name: str, samples: int | None = None) -> Setting:
    """A preset the benchmark knows, with few numbers, on images of an odd size."""
    spec = preset(name)
    hidden = (4, 6, 3) if spec.model.network == "conv" else (12,)
    spec = replace(spec, data="digits", model=replace(spec.model, image=(7, 7, 1), hidden=hidden, latent=5))
    return changed(Setting(spec, IMAGES, IMAGES[:8], "cpu"), batch=16, samples=samples)


KINDS = [("pytorch-examples", None), ("pytorch-examples", 3), ("conv", None)]


@pytest.mark.parametrize(("name", "samples"), KINDS)
def test_a_plain_loss_is_the_packages(name: str, samples: int | None) -> None:
    setting = small(name, samples)
    spec, state = setting.spec, torchvae.init_state(setting.spec)
    model, loss = in_torch.plain(setting)
    mine, tensors = model.state_dict(), state.model.state_dict().values()
    model.load_state_dict(dict(zip(mine, tensors, strict=True)))
    key = torchvae.random.fold_in(torchvae.streams(state.key).noise, 0)
    x, eps = in_torch.pixels(setting)[:16], torchvae.draw(spec, key, 16).eps
    values = [loss(model, x, eps)] + ([baselines.tutorial_loss(model, x, eps)] if loss is baselines.elbo_loss else [])
    _, terms = torchvae.train_step(spec, state, x.flatten(1))
    share = spec.minimized if name == "conv" else 16  # a mean over images and pixels, or a sum over images
    # float32 sums of some hundred numbers in other orders, and of logarithms of probabilities.
    assert [value.item() / share for value in values] == pytest.approx([terms.loss.item()] * len(values), rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("lean")
@pytest.mark.parametrize(("name", "samples"), KINDS)
def test_the_plain_loops_learn(name: str, samples: int | None) -> None:
    setting = small(name, samples)
    faster = replace(setting.spec, training=replace(setting.spec.training, learning_rate=0.02))
    setting = setting._replace(spec=faster)
    losses = {}
    for kind in ("tutorial", "in memory", "compiled"):
        model, loss = in_torch.plain(setting)
        adam, x = torch.optim.Adam(model.parameters(), 0.02), in_torch.pixels(setting)
        if kind == "tutorial":
            batches = baselines.loader(setting.train[..., 0], 16, name == "conv", cuda=False)
            run = functools.partial(baselines.tutorial_epoch, loss, model, adam, batches)
        else:
            # Traced as for torch's own compiler, which would take minutes of the suite.
            loss = torch.compile(loss, dynamic=False, backend="eager") if kind == "compiled" else loss
            run = functools.partial(baselines.memory_epoch, loss, model, adam, x, 16)
        losses[kind] = [run() for _ in range(12)]
    for result in losses.values():
        assert result[-1] < 0.95 * result[0]
    # The same weights at the start, other orders and noise.
    assert losses["tutorial"][0] == pytest.approx(losses["in memory"][0], rel=0.1)


@pytest.mark.usefixtures("lean")
@pytest.mark.parametrize("name", ["pytorch-examples", "conv"])
def test_the_plain_evaluation_estimates_what_the_packages_do(name: str) -> None:
    setting = small(name)
    spec, state = setting.spec, torchvae.init_state(setting.spec)
    model, _ = in_torch.plain(setting)
    model.load_state_dict(dict(zip(model.state_dict(), state.model.state_dict().values(), strict=True)))
    nll = baselines.bernoulli_nll if name == "pytorch-examples" else baselines.squared_nll
    x = in_torch.pixels(setting._replace(train=setting.test[:3]))
    actual = baselines.log_likelihood(nll, model, x, 20_050, batch=2)
    expected = torchvae.log_likelihood(spec, state.model, setting.test[:3], state.key, samples=20_050)
    # A tenth of the samples is effective, so that a mean of their weights is known to 2 %.
    assert actual.numpy() == pytest.approx(expected.nats, abs=0.15)
    assert baselines.sample(model, 3, 5).reshape(3, -1).shape == (3, 49)


def products_in(jaxpr: Jaxpr) -> int:
    """Operations of all products of two matrices that the program has, of those for CPUs where there is a choice."""
    count = 0
    for equation in jaxpr.eqns:
        shapes = [value.aval.shape for value in (*equation.invars, *equation.outvars)]  # type: ignore[attr-defined]
        if equation.primitive.name == "dot_general":
            (axes, _), batch = equation.params["dimension_numbers"]
            assert batch == ((), ())
            if len(shapes[0]) == len(shapes[1]) == 2:  # batch norm's means are of vectors
                count += 2 * int(np.prod(shapes[2])) * shapes[0][axes[0]]
        inner = equation.params.values() if equation.primitive.name != "cond" else equation.params["branches"][:1]
        for value in inner:
            if isinstance(value, ClosedJaxpr | Jaxpr):
                count += products_in(value.jaxpr if isinstance(value, ClosedJaxpr) else value)
    return count


@pytest.mark.parametrize(("name", "samples"), KINDS)
def test_the_operations_counted_are_those_of_a_training_step(name: str, samples: int | None) -> None:
    spec = small(name, samples).spec
    step, state = functools.partial(jaxvae.train_step, spec), jax.eval_shape(lambda: jaxvae.init_state(spec))
    assert products_in(jax.make_jaxpr(step)(state, jnp.zeros((16, 49))).jaxpr) == matmul_bound.flops(spec, 16)


def test_the_operations_of_the_default_model() -> None:
    """784-400-20: 2 * (2 * 784 * 400 + 3 * (3 * 400 * 20 + 400 * 784)), as nobody asks for the images' gradient."""
    assert matmul_bound.flops(Spec()) == 3_280_000
    assert matmul_bound.flops(Spec(), 60_000) == 60_000 * 3_280_000


@pytest.mark.parametrize(("name", "samples"), KINDS)
def test_nothing_is_left_out_of_the_limit(name: str, samples: int | None) -> None:
    """What XLA compiles has all the operations, and next to no others."""
    spec = replace(small(name, samples).spec, model=replace(small(name, samples).spec.model, image=(28, 28, 1)))
    own, weights = jax.tree.map(jnp.asarray, matmul_bound._operands(spec))
    program = jax.jit(matmul_bound.jax_steps(matmul_bound.products(spec, 16))).lower(3, own, weights).compile()
    costs = program.cost_analysis()
    assert costs is not None
    assert costs["flops"] == pytest.approx(
        matmul_bound.flops(spec, 16), rel=0.02
    )  # of one turn of the loop, and its counter
    assert np.isfinite(program(3, own, weights))
    matmul_bound.by_torch(spec, 2, "cpu")()


@pytest.mark.usefixtures("lean")
def test_the_packages_contestants_take_an_epoch_at_a_time(monkeypatch) -> None:
    """Each continues: the second epoch is another."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # its compiler is not what is tested
    setting = small("pytorch-examples")
    for make in (in_jax.per_epoch, in_jax.per_step, in_torch.package, in_torch.compiled_package):
        epoch = make(setting)
        assert epoch is not None
        for _ in range(2):
            assert epoch() is None


def test_a_curve_has_a_point_for_each_place(monkeypatch) -> None:
    for axis, places in {"_WIDTHS": (3, 5), "_BATCHES": (8, 16), "_IMAGES": (400,), "_SAMPLES": (2,)}.items():
        monkeypatch.setattr(sections, axis, places)
    monkeypatch.setattr(sections, "_SCALED", 1e6)
    monkeypatch.setattr(in_jax, "per_epoch", in_torch.in_memory)  # compiled for each place it would take long
    times = list(sections.scaling(small("pytorch-examples"), HOW))
    assert [(timed.where["axis"], timed.name) for timed in times] == [
        (axis, name)
        for axis in ("hidden", "hidden", "batch", "batch", "images", "samples")
        for name in (sections.MEMORY, sections.TORCHVAE, sections.JAXVAE)
    ]
    assert all(timed.images >= 2 * timed.where["batch"] for timed in times)
    assert tables.to_markdown(times).count("## Cost by ") == 4


@pytest.mark.usefixtures("lean")
def test_an_evaluation_is_of_as_many_images_as_take_their_time(monkeypatch) -> None:
    monkeypatch.setattr(sections, "_EVALUATED", 2e8)
    setting = small("pytorch-examples")
    operations = 2 * (5 * 12 + 12 * 49) * 500  # of the decoder, for each image
    times = list(sections.evaluation(setting, HOW))
    assert [timed.name for timed in times] == ["chunks, PyTorch", "jaxvae", "torchvae"]
    for timed in times:
        assert timed.where == {"images": 8, "samples": 500}
        assert timed.flops == 8 * operations
    assert "log-likelihood of 8 images by 500 samples" in tables.to_markdown(times)


@pytest.mark.slow
@pytest.mark.usefixtures("lean")
def test_a_process_tells_its_memory() -> None:
    setting = changed(Setting(Spec("digits"), np.zeros((1500, 28, 28, 1), np.uint8), IMAGES, "cpu"), images=256)
    result = processes.memory(setting, "pytorch-examples", None, in_torch.package)
    assert 2**26 < result["before"] <= result["peak"] < 2**34
    with pytest.raises(InputError, match=r"-c .* failed with status 1: why"):
        processes._ended([sys.executable, "-c", "import sys; sys.exit('why')"], {})


@pytest.mark.slow
@pytest.mark.usefixtures("lean")
def test_start_up_is_that_of_the_commands() -> None:
    setting = changed(Setting(Spec("digits"), np.zeros((1500, 28, 28, 1), np.uint8), IMAGES, "cpu"), images=128)
    with processes.starts(setting, "pytorch-examples", None) as commands:
        assert list(commands) == ["jaxvae, nothing compiled", "jaxvae, all compiled before", "torchvae"]
        commands["torchvae"]()


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    # torch.compile leaves the loss as it is: its compiler is not what is tested, nor everywhere.
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1"}
    return python(ROOT / "scripts" / "benchmark.py", "--device", "cpu", *arguments, env=environment)


@pytest.mark.usefixtures("lean")
def test_it_prints_tables_and_writes_its_times_and_a_figure(tmp_path: Path) -> None:
    out, times_file = tmp_path / "figure.png", tmp_path / "times.json"
    flags = ["--quick", "--data", "digits", "--images", "64", "--batch", "32"]
    flags += ["--only", "training", "sampling"]
    result = script(*flags, "--json", str(times_file), "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("| --- | ---: |") == 2
    for words in ("batch 32", "Sampling", "| jaxvae |", "Repeat with: python scripts/benchmark.py --dev"):
        assert words in result.stdout
    assert out.read_bytes().startswith(b"\x89PNG")
    actual = json.loads(times_file.read_text())
    assert actual["machine"]["cores"] >= 1
    assert actual["options"]["batch"] == [32]
    names = [timed["name"] for timed in actual["times"] if timed["section"] == "training"]
    assert names == list(sections.contestants("cpu"))
    for timed in actual["times"]:
        assert len(timed["seconds"]) == 2
        assert min(timed["seconds"]) > 0


def test_a_mistake_is_one_sentence(capsys) -> None:
    assert run_script("benchmark.py", "--device", "cpu", "--data-root", "/no/such/folder") == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].endswith("give the published data sets' folder, or leave it out.")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Benchmark(rounds=0), "--rounds must be at least 1, found 0"),
        (Benchmark(images=-1), "--images must be at least 1, found -1"),
        (Benchmark(only=()), "nothing to measure"),
        (Benchmark(out=Path("figure.gif")), "one of .png, .pdf, .svg, found --out figure.gif"),
        (Benchmark(out=Path("f.png"), only=("memory",)), "draws training and scaling"),
        (Benchmark(json=Path("/no/such/folder/times.json")), "a file in an existing folder"),
        (Benchmark(data="digits", batch=(0,)), "batch_size must be positive"),
        (Benchmark(data="digits", batch=(2000,)), "A batch of 2,000 is more than the 1,500 training images"),
    ],
)
def test_what_can_not_be_measured_is_refused(options: Benchmark, words: str) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        benchmark.main(options)
