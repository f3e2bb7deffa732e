"""What training may add to plain Adam on the images as they are: learning rates by step, clipped gradients and decaying
weights, beside optax's and PyTorch's own, and augmented images; each in every level of the comparison."""

import dataclasses
import importlib
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, TrainingSpec
from jaxvae.shared.config.presets import preset
from jaxvae.shared.config.spec import Spec, resolved, same_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description, layout
from jaxvae.shared.runs import run_folder
from jaxvae.shared.training.advice import advice
from parity_tests.harness import report
from parity_tests.harness.vae import batches, prove
from parity_tests.support.numpy_backend import NUMPY_BACKEND, SIZES
from parity_tests.support.quick import quick
from parity_tests.support.tiny import STEPS, small, some

RISING = {"rate_warmup": 4, "learning_rate": 2e-3, "dtype": "float64"}
COSINE = TrainingSpec(schedule="cosine", decay_steps=9, **RISING)
STAIRS = TrainingSpec(schedule="steps", decay_steps=3, decay=0.5, **RISING)
WHOLE = TrainingSpec(schedule="cosine", epochs=5, batch_size=32)
both = pytest.mark.parametrize("package", ["jaxvae", "torchvae"])


def rates(package: str, training: TrainingSpec, steps: int) -> list[float]:
    rate = importlib.import_module(f"{package}.updates").learning_rate
    return [float(rate(Spec(training=training), 0, step)) for step in range(steps)]


@both
@pytest.mark.parametrize("training", [COSINE, STAIRS], ids=["cosine", "steps"])
def test_rates_by_step_are_those_of_optax_and_pytorch(package: str, training: TrainingSpec, x64: None) -> None:
    rising, rate, n = training.rate_warmup, training.learning_rate, 20
    span = training.stretch
    up = optax.linear_schedule(rate / rising, rate, rising - 1)
    down = {
        "cosine": optax.cosine_decay_schedule(rate, span),
        "steps": optax.exponential_decay(rate, span, training.decay, staircase=True),
    }[training.schedule]
    schedule = optax.join_schedules([up, down], [rising])
    actual = rates(package, training, n)
    np.testing.assert_allclose(actual, [np.asarray(schedule(step)) for step in range(n)], rtol=1e-13, atol=1e-18)
    optimizer = torch.optim.SGD([torch.zeros(1)], rate)
    parts = torch.optim.lr_scheduler
    fall = {"cosine": lambda: parts.CosineAnnealingLR(optimizer, span), "steps": lambda: parts.StepLR(optimizer, span)}
    if training.schedule == "steps":
        fall["steps"] = lambda: parts.StepLR(optimizer, span, training.decay)
    rise = parts.LinearLR(optimizer, 1 / rising, total_iters=rising - 1)
    both_parts = parts.SequentialLR(optimizer, [rise, fall[training.schedule]()], [rising])
    last = n if training.schedule == "steps" else rising + span  # PyTorch's cosine rises again
    for step in range(last):
        # A recursion over the steps, at most 13 roundings of 1e-16, in the cosine's of what 0 is computed from.
        assert actual[step] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-17), step
        optimizer.step()
        both_parts.step()


@both
def test_a_cosine_over_the_run_ends_at_its_last_step(package: str) -> None:
    spec = resolved(Spec(training=dataclasses.replace(WHOLE, rate_warmup=10)), 100)
    assert spec.training.decay_steps == 5 * 4 - 10
    assert resolved(spec, 1000) == spec
    actual = rates(package, spec.training, 21)
    assert actual[9] == pytest.approx(1e-3, rel=1e-6)
    assert actual[15] == pytest.approx(5e-4, rel=1e-6)
    assert actual[20] == pytest.approx(0, abs=1e-10)
    longer = dataclasses.replace(spec, training=dataclasses.replace(spec.training, epochs=9))
    assert same_run(spec, longer)  # the rate stays 0


@both
def test_a_step_alone_asks_for_the_length_of_the_run(package: str) -> None:
    module = importlib.import_module(package)
    spec = dataclasses.replace(small("pytorch-examples"), training=WHOLE)
    x = np.zeros((2, spec.model.pixels), np.float32)
    given = jnp.asarray(x) if package == "jaxvae" else torch.tensor(x)
    with pytest.raises(InputError, match=re.escape("training.resolved(images)")):
        module.train_step(spec, module.init_state(spec), given)


GRADIENTS = [np.array([3.0, -4.0, 1e-3]), np.array([0.3, 0.4, 0.0]), np.array([-30.0, 2.0, 5.0])]


@both
@pytest.mark.parametrize("rule", ["torch", "optax"])
def test_clipped_steps_of_adamw_are_those_of_optax_and_pytorch(package: str, rule: str, x64: None) -> None:
    """The second gradient's norm is below the bound."""
    spec = Spec(training=TrainingSpec(dtype="float64", clip=1.5, clip_rule=rule, weight_decay=0.1))  # type: ignore[arg-type]
    start = np.array([1.0, -2.0, 0.5])
    if package == "jaxvae":
        ours, params = jaxvae.make_optimizer(spec), jnp.asarray(start)
        state = ours.init(params)
        for gradient in GRADIENTS:
            updates, state = ours.update(jnp.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
        actual = np.asarray(params)
    else:
        tensor = torch.tensor(start, requires_grad=True)
        own = torchvae.make_optimizer(spec, [tensor])
        for gradient in GRADIENTS:
            tensor.grad = torch.tensor(gradient)
            own.step()
        actual = tensor.detach().numpy()
    if rule == "optax":
        # optax computes 1 - 0.999^t in float32, to 3e-5 of it, and a step of 1e-3 is compared beside weights of 1.
        adam = optax.chain(optax.clip_by_global_norm(1.5), optax.adamw(1e-3, weight_decay=0.1))
        params = jnp.asarray(start)
        state = adam.init(params)
        with jax.numpy_dtype_promotion("standard"):
            for gradient in GRADIENTS:
                updates, state = adam.update(jnp.asarray(gradient), state, params)
                params = optax.apply_updates(params, updates)
        expected, most = np.asarray(params), 1e-7
    else:
        tensor = torch.tensor(start, requires_grad=True)
        adamw = torch.optim.AdamW([tensor], 1e-3, weight_decay=0.1)
        for gradient in GRADIENTS:
            tensor.grad = torch.tensor(gradient)
            torch.nn.utils.clip_grad_norm_([tensor], 1.5)
            adamw.step()
        expected, most = tensor.detach().numpy(), 1e-14
    np.testing.assert_allclose(actual, expected, rtol=most)
    assert np.abs(actual - start).max() > 1e-3


AVERAGED = TrainingSpec(dtype="float64", ema=0.5)


@both
def test_averaged_weights_are_those_of_pytorch_and_of_tensorflow(package: str, x64: None) -> None:
    """torch's average copies the buffers too, and is given TensorFlow's decay with num_updates."""
    spec = dataclasses.replace(small("conv"), training=AVERAGED)
    module: Any = importlib.import_module(package)
    averaged = importlib.import_module(f"{package}.updates").averaged
    state, key = torchvae.init_state(spec), torchvae.root_key(0)

    def rule(old: Any, new: Any, num_updates: Any) -> Any:
        t = int(num_updates)
        d = min(0.5, (1 + t) / (10 + t))
        return d * old + (1 - d) * new

    theirs: Any = torch.optim.swa_utils.AveragedModel(state.model, avg_fn=rule)
    ours = module.init_state(spec).average
    for step in range(1, 13):
        tensors = state.model.state_dict()
        for i, parameter in enumerate(layout.table(spec.model)):
            if parameter.trained or "running" in parameter.name:
                word = torchvae.random.fold_in(key, 1000 * step + i)
                tensors[parameter.name] += torchvae.random.normal(word, parameter.shape, torch.float64)
        theirs.n_averaged.fill_(step)
        theirs.update_parameters(state.model)
        weights = torchvae.to_arrays(spec, state.model)
        ours = averaged(spec, ours, module.from_arrays(spec, weights), step)
        expected, actual = torchvae.to_arrays(spec, theirs.module), module.to_arrays(spec, ours)
        for name, array in actual.items():
            if "running" in name:
                np.testing.assert_array_equal(array, weights[name])
            else:
                np.testing.assert_allclose(array, expected[name], rtol=1e-13, atol=1e-15)
    assert max(abs(actual[name] - weights[name]).max() for name in actual) > 0.1


@both
def test_averages_are_evaluated_saved_and_resumed_by_either_package(package: str, tmp_path: Path, x64: None) -> None:
    other = {"jaxvae": torchvae, "torchvae": jaxvae}[package]
    training = dataclasses.replace(AVERAGED, batch_size=17, epochs=2)
    spec = dataclasses.replace(small("pytorch-examples"), training=training)
    data, module, file, seen = some(spec), importlib.import_module(package), tmp_path / "checkpoint.safetensors", []

    def save(part) -> None:
        if part.step == 3:
            module.save_checkpoint(file, spec, part.state, part.train)

    state = module.fit(spec, data, seen.append, on_part=save, every=[3])
    tests = [
        module.average_terms(spec, weights, data.test, module.stream_key(module.root_key(0), "evaluation", 2))
        for weights in (state.average, state[0])
    ]
    assert (tests[0] == seen[-1].test).all()
    assert (tests[1] != tests[0]).all()
    expected = [module.to_arrays(spec, weights) for weights in (state[0], state.average)]
    assert all((expected[0][name] != expected[1][name]).any() for name in expected[0])
    for one, tolerance in ((module, 0), (other, 1e-13)):
        loaded, *start = one.load_checkpoint(file)
        evaluated = one.to_arrays(spec, one.load(file)[1])
        assert all((evaluated[name] == array).all() for name, array in one.to_arrays(spec, start[0].average).items())
        again = one.fit(loaded, data, start=start)
        for weights, before in zip((again[0], again.average), expected, strict=True):
            for name, array in one.to_arrays(spec, weights).items():
                np.testing.assert_allclose(array, before[name], rtol=0, atol=tolerance * abs(before[name]).max())
    with pytest.raises(
        InputError, match=re.escape("has ema 0.5, the state has no average of the weights; give a state")
    ):
        module.fit(spec, data, start=(state._replace(average=None), np.zeros((0, 3))))


def test_a_cosine_that_has_ended_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = ["--schedule", "cosine", "--rate-warmup", "2", "--max-steps", "5", "--out", str(out)]
    assert cli.main(NUMPY_BACKEND, ["train", *SIZES, *flags]) == 0
    assert run_folder.read(out).spec.training.decay_steps == 3
    assert cli.main(NUMPY_BACKEND, ["train", "--resume", str(out), "--max-steps", "6"]) == 2
    assert "falls to 0 at step 5, and more steps would change no weight; start a longer run." in capsys.readouterr().err


@pytest.mark.either
@both
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 3])
def test_augmented_images_are_those_of_the_plain_formulas(package: str, flip: bool, shift: int) -> None:
    spec = Spec(model=ModelSpec((5, 7, 2)), images=ImagesSpec(flip=flip, shift=shift))
    images = np.random.default_rng(0).integers(0, 256, (200, 5, 7, 2), dtype=np.uint8)
    module, step = importlib.import_module(package), 4
    key = module.stream_key(module.root_key(spec.training.seed), "noise", step)
    if package == "jaxvae":
        actual = np.asarray(jaxvae.augment(spec, jnp.asarray(images), key))
    else:
        actual = torchvae.augment(spec, torch.tensor(images), key).numpy()
    np.testing.assert_array_equal(actual, batches.augmented(spec, images, step))
    same = (actual == images).all((1, 2, 3)).mean()
    share = (0.5 if flip else 1) * (1 / 49 if shift else 1)
    assert same == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 200))  # five standard errors


CASES = {
    "cosine": {
        "schedule": "cosine",
        "rate_warmup": 5,
        "clip": 1e-3,
        "weight_decay": 0.05,
        "ema": 0.9,
    },  # and augmented, and validated
    "phases": {"schedule": "cosine", "clip": 1e-3, "ema": 0.99},
    "steps": {"schedule": "steps", "decay": 0.7, "decay_steps": 4, "clip": 1e-3, "clip_rule": "optax"},
}


@pytest.mark.parametrize("name", quick(CASES, []))
def test_every_level_agrees(name: str) -> None:
    spec = small("adversarial" if name == "phases" else "pytorch-examples")
    augmented = {"flip": True, "shift": 2, "validation": 10}
    images = dataclasses.replace(spec.images, **augmented) if name == "cosine" else spec.images
    spec = dataclasses.replace(spec, training=dataclasses.replace(spec.training, **CASES[name]), images=images)
    result = prove.prove(spec, some(spec), dtypes=["float64"], steps=STEPS)
    assert result.passed, report.verdict(result)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"schedule": "steps"}, "give --decay-steps"),
        ({"schedule": "steps", "decay_steps": 9}, "give a --decay below 1"),
        ({"decay_steps": 5}, "leave out --decay-steps, found 5"),
        ({"schedule": "cosine", "decay": 0.5}, "The cosine schedule has its own decay; give --decay 1, found 0.5"),
        ({"clip_rule": "optax"}, "give --clip, or leave out --clip-rule"),
        ({"clip": -1.0}, "clip must be finite and at least 0"),
        ({"clip": math.nan}, "clip must be finite and at least 0"),
        ({"weight_decay": 1e4}, "weight_decay must be below 1 / learning_rate"),
        ({"schedule": "cosine", "decay_steps": 0}, "decay_steps must be positive"),
        ({"rate_warmup": -1}, "rate_warmup must be"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, found 1.0"),
    ],
)
def test_what_can_not_be_is_refused(given: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        TrainingSpec(**given)


@pytest.mark.parametrize(
    ("changes", "images", "says"),
    [
        (
            {"image": (64, 64, 3), "epochs": 50},
            (450, 50),
            ["it ends at 0.081 of itself, after 400 steps", "counts 3.07"],
        ),
        ({"epochs": 50, "decay": 1.0}, (450, 50), []),
        ({"epochs": 50}, (60_000, 10_000), []),
        ({"schedule": "steps", "decay_steps": 100}, (450, 50), []),
        (
            {"schedule": "cosine", "decay": 1.0, "decay_steps": 9},
            (640, 64),
            ["later steps change no weight. Give --decay-steps 100 for"],
        ),
        ({"schedule": "cosine", "decay": 1.0, "rate_warmup": 9}, (640, 64), []),
        (
            {"decay": 1.0, "rate_warmup": 100},
            (640, 64),
            ["over 100 steps, and the run has 100: give a smaller --rate-warmup"],
        ),
        ({"epochs": 3}, (450, 31), ["the mean of 31 images, too few"]),
        ({"epochs": 3, "validation": 20}, (430, 50), ["The validation loss is the mean of 20 images, too few"]),
        ({"beta": 0.01}, (60_000, 10_000), ["the divergence counts 7.84 times"]),
    ],
)
def test_what_a_small_data_set_makes_of_a_preset_is_said(
    changes: dict, images: tuple[int, int], says: list[str]
) -> None:
    given = [*advice(preset("conv", **changes), *images)]
    assert len(given) == len(says)
    for sentence, part in zip(given, says, strict=True):
        assert part in sentence


def test_a_shift_out_of_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="give a --shift of at most 4"):
        Spec(model=ModelSpec((5, 7, 1)), images=ImagesSpec(shift=5))


def test_a_configuration_says_so() -> None:
    training = TrainingSpec(schedule="cosine", rate_warmup=100, clip=5.0, weight_decay=0.01, ema=0.999)
    training, images = dataclasses.replace(training, patience=1), ImagesSpec(flip=True, shift=2, validation=1000)
    text = description.text(Spec(training=training, images=images), "a title")
    assert "each image is mirrored with probability 1/2 and moved by up to 2 pixels" in " ".join(text.split())
    assert "AdamW (0.9, 0.999, eps 1e-08, weight decay 0.01) of gradients clipped to norm 5" in " ".join(text.split())
    assert "a moving average of decay 0.999, less at first, is evaluated and saved" in text
    assert "1,000 of the training images held out" in text
    assert "early stop  after 1 epoch without a lower validation loss" in text
    assert "rising over the first 100 steps, falling to 0 along a cosine over the run" in " ".join(text.split())
