"""Every preset is its source: the same layers, the same loss in the source's own units, the same optimizer."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxvae
import torchvae
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec, resolved
from jaxvae.shared.model import layout
from parity_tests.support.backends import (
    IMPLEMENTATIONS,
    Arrays,
    Batch,
    assert_gradients_equal,
    lean,
    some_arrays,
    some_batch,
    tiny,
)
from parity_tests.support.reference_models import SOURCES, Given, Sizes, load

pytestmark = pytest.mark.usefixtures("x64")
every = pytest.mark.parametrize("name", PRESETS)
both = pytest.mark.parametrize("side", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


def small(name: str) -> tuple[Spec, Sizes]:
    """The preset, and sizes that keep its number of layers; a conv network's are those that AntixK's program can do."""
    conv = PRESETS[name].model.network == "conv"
    hidden = (4, 3) if conv else (6, 5)[: len(PRESETS[name].model.hidden)]
    sizes = Sizes((8, 8, 2) if conv else (2, 4, 1), hidden, 3, (5, 4) if SOURCES[name].sizes.discriminator else ())
    spec = tiny(PRESETS[name], ModelSpec(sizes.image, sizes.hidden, sizes.latent, discriminator=sizes.discriminator))
    fewer = min(5, spec.objective.samples)  # of the paper's 50
    return dataclasses.replace(spec, objective=dataclasses.replace(spec.objective, samples=fewer)), sizes


def given(batch: Batch, step: int) -> Given:
    x, eps, prior, corruption, labels = (None if a is None else torch.tensor(a) for a in (*batch[:4], batch.labels))
    assert x is not None
    assert eps is not None
    return Given(x, eps, prior, corruption, labels, num_iter=step + 1)


def source(name: str, arrays: Arrays, batch: Batch, step: int) -> tuple[list[float], list[Arrays]]:
    """What the source's optimizers are given by its own program, and the gradients of it, brought to the preset's
    units by nothing but `Source.per` and `Source.dropped`."""
    program = SOURCES[name]
    model = program.build(small(name)[1])
    renamed = load(model, arrays)
    share = 1 / len(batch.x) if program.per == "batch" else 1.0
    losses, gradients = [], []
    for loss in program.losses(model, given(batch, step)):
        model.zero_grad()
        (loss * share).backward(retain_graph=True)
        losses.append(loss.item() * share + program.dropped * batch.x.shape[1])
        named = model.named_parameters()
        gradients.append({renamed[n]: (torch.zeros_like(p) if p.grad is None else p.grad).numpy() for n, p in named})
    return losses, gradients


@pytest.mark.either
@both
@every
def test_the_loss_and_its_gradient_are_the_sources(side, name: str) -> None:
    """What the optimizer is given in training, by the weight file's own arrays."""
    spec, _ = small(name)
    # Before, at and after the capacity's 10,000th step, for the preset that counts them.
    for seed, step in enumerate((0, 4321, 9999, 20_000) if spec.objective.form == "capacity" else (0, 3)):
        arrays, batch = some_arrays(spec, seed), some_batch(spec, 5, seed)
        losses, gradients = source(name, arrays, batch, step)
        actual = side.minimized(spec, arrays, batch, step)
        # The sources take probabilities, and sums in other orders: some ulps of 1e-16.
        np.testing.assert_allclose(list(actual.losses.values()), losses, rtol=1e-12, err_msg=f"step {step}")
        for phase, expected in zip(actual.gradients, gradients, strict=True):
            # A gradient is a sum of terms that cancel, and batch norm's layers lose digits of it.
            assert_gradients_equal(spec, actual.gradients[phase], expected, 1e-11, f"{name} {phase}")


# Those whose optimizer is given another share of the nats, several phases, or a step that counts.
COMPILED = ("relu-sigma", "adversarial", "beta-b")


@pytest.mark.either
@pytest.mark.parametrize(
    ("package", "name"), [("torchvae", n) for n in PRESETS] + [("jaxvae", n) for n in COMPILED], ids=str
)
def test_a_training_step_gives_its_optimizers_these_losses_in_turn(package: str, name: str) -> None:
    """Adam's first moment after one step from zero is a tenth of the gradient; each phase starts from the weights that
    the one before it left."""
    step, (spec, sizes) = 7, small(name)
    spec = resolved(spec, 6)
    arrays, batch = some_arrays(spec), some_batch(spec, 6)
    moments, draws = one_step(package, spec, arrays, batch, step)
    batch = batch._replace(eps=draws.eps, prior=draws.prior, corruption=draws.corruption)
    program, model = SOURCES[name], SOURCES[name].build(sizes)
    renamed = load(model, arrays)
    for i, (phase, networks) in enumerate(spec.phases.items()):
        trained = {r: p for n, p in model.named_parameters() if (r := renamed[n]).startswith(networks)}
        adam = torch.optim.Adam(trained.values(), program.settings[0], eps=program.eps)
        loss = program.losses(model, given(batch, step))[i]
        model.zero_grad()
        (loss / len(batch.x) if program.per == "batch" else loss).backward()
        if program.clip:
            torch.nn.utils.clip_grad_norm_(trained.values(), program.clip)
        prefix = f"{phase}.exp_avg." if phase else "exp_avg."
        for parameter in layout.table(spec.model):
            if parameter.name not in trained or not parameter.trained:
                continue
            gradient = trained[parameter.name].grad
            assert gradient is not None
            actual, expected = moments[prefix + parameter.name], 0.1 * gradient.numpy()
            # As above; and Adam's first step is the gradient's sign, where 1e-8 in the quotient leaves 1e-8 of it.
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * np.abs(expected).max(), err_msg=phase)
        adam.step()


def one_step(package: str, spec: Spec, arrays: Arrays, batch: Batch, step: int) -> tuple[Arrays, torchvae.Draws]:
    """Adam's state after one step, the run's number `step`, and what was drawn for it."""
    key = torchvae.root_key(spec.training.seed)
    drawn = torchvae.draw(spec, torchvae.random.fold_in(torchvae.streams(key).noise, step), len(batch.x))
    draws = torchvae.Draws(*(None if t is None else t.numpy() for t in drawn[:3]), ())  # type: ignore[arg-type]
    if package == "torchvae":
        model = torchvae.from_arrays(spec, arrays)
        average = torchvae.from_arrays(spec, arrays) if spec.training.ema else None
        state = torchvae.TrainState(model, torchvae.init_optimizers(spec, model), step, key, average)
        labels = None if batch.labels is None else torch.tensor(batch.labels)
        return torchvae.optimizer_to_arrays(
            spec, torchvae.train_step(spec, state, torch.tensor(batch.x), labels)[0].optimizer
        ), draws
    params = jaxvae.from_arrays(spec, arrays)
    root = jaxvae.root_key(spec.training.seed)
    before = jaxvae.TrainState(params, jaxvae.init_optimizers(spec, params), jnp.int32(step), root)
    after, _ = jaxvae.train_step(spec, before, jnp.asarray(batch.x))
    return jaxvae.optimizer_to_arrays(spec, after.opt_state), draws


@every
def test_the_layers_are_the_sources(name: str) -> None:
    """Shape by shape in the order of the computation, at the source's own sizes."""
    program = SOURCES[name]
    with torch.device("meta"):
        model = program.build(program.sizes)
    spec = dataclasses.replace(PRESETS[name].model, image=program.sizes.image)
    table = layout.table(spec)
    state = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert [parameter.shape for parameter in table] == [tuple(tensor.shape) for tensor in state.values()]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(math.prod(parameter.shape) for parameter in table if "running" not in parameter.name) == count


def test_conv_is_antixks_at_64x64x3() -> None:
    """What its configuration prints, written down."""
    spec = dataclasses.replace(PRESETS["conv"].model, image=(64, 64, 3))
    shapes = {p.name: p.shape for p in layout.table(spec) if p.name.endswith("weight") and "norm" not in p.name}
    assert shapes == {
        **{f"encoder.hidden.{i}.conv.weight": (o, c, 3, 3) for i, (c, o) in enumerate(DOWN)},
        "encoder.mean.weight": (128, 2048),
        "encoder.logvar.weight": (128, 2048),
        "decoder.input.weight": (2048, 128),
        **{f"decoder.hidden.{i}.conv.weight": (c, o, 3, 3) for i, (c, o) in enumerate(UP)},
        "decoder.logits.weight": (3, 32, 3, 3),
    }
    up = [layer for layer in layout.layers(spec) if layer.kind == "conv-transpose"]
    assert [layer.output_padding for layer in up] == [(1, 1)] * 5
    assert [layer.size[0] for layer in up] == [4, 8, 16, 32, 64]


DOWN = [(3, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
UP = [(512, 256), (256, 128), (128, 64), (64, 32), (32, 32)]


@every
def test_the_optimizer_is_the_sources(name: str) -> None:
    program, training = SOURCES[name], PRESETS[name].training
    assert (training.learning_rate, training.batch_size) == program.settings
    assert program.epochs in (None, training.epochs)
    assert (training.beta1, training.beta2, training.eps) == (0.9, 0.999, program.eps)
    assert (training.clip, training.clip_rule) == (program.clip, "torch")
    rates = training.learning_rates()
    if program.decay != 1:
        assert len(rates) == training.epochs
        np.testing.assert_allclose(np.divide(rates[1:], rates[:-1]), program.decay, rtol=1e-14)
    elif name != "iwae-paper":
        assert rates == (training.learning_rate,)


def test_the_papers_schedule() -> None:
    """Section 5: 3^i passes at 0.001 * 10^(-i/7), i = 0 ... 7, 3,280 in all."""
    rates = PRESETS["iwae-paper"].training.learning_rates()
    assert len(rates) == 3280
    start = 0
    for i in range(8):
        stage, start = rates[start : start + 3**i], start + 3**i
        np.testing.assert_allclose(stage, 0.001 * 10 ** (-i / 7), rtol=1e-15)
    assert start == 3280


def test_every_preset_has_a_source() -> None:
    assert list(SOURCES) == list(PRESETS)
