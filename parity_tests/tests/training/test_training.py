"""How training uses the compiler and the keys."""

import logging
from collections import Counter

import jax
import numpy as np
import pytest
import torch

import jaxvae
import torchvae
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError, NonFiniteError
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.batches import step_batch
from parity_tests.support.backends import lean

PACKAGES = pytest.mark.parametrize("package", [jaxvae, torchvae], ids=["jaxvae", "torchvae"])

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def small(**training) -> Spec:
    return Spec("digits", ModelSpec(hidden=(16,), latent=3), training=TrainingSpec(batch_size=100, **training))


def progress_of(package, spec: Spec, data: Dataset) -> list:
    seen = []
    package.fit(spec, data, seen.append)
    return seen


@pytest.mark.parametrize("max_steps", [None, 37], ids=["whole epochs", "a part at the end"])
def test_one_compilation_of_each_function_per_run(digits, caplog, max_steps: int | None) -> None:
    spec = small(epochs=3, max_steps=max_steps, seed=1000 + (max_steps or 0))  # a spec no other test has compiled
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        progress_of(jaxvae, spec, digits)
    compiled = Counter(
        record.getMessage().split()[1] for record in caplog.records if record.getMessage().startswith("Compiling ")
    )
    programs = ("jit(train_epoch)", "jit(epoch_order)", "jit(_terms)", "jit(_first_state)")
    assert {name: n for name, n in compiled.items() if name in programs} == dict.fromkeys(programs, 1), compiled


def test_nothing_is_compiled_after_the_first_epoch(digits, caplog) -> None:
    after_first = []

    def on_epoch(progress: jaxvae.Progress) -> None:
        after_first.append(len(caplog.records))

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        jaxvae.fit(small(epochs=3, seed=2000), digits, on_epoch)
    assert after_first[0] > 0
    late = [record.getMessage() for record in caplog.records[after_first[0] :]]
    assert not [message for message in late if message.startswith("Compiling")]


def test_the_state_is_donated(digits) -> None:
    spec = small()
    state = jaxvae.init_state(spec)
    before = jax.tree.leaves(state.params)
    jaxvae.train_step(spec, state, jaxvae.scale(jax.numpy.asarray(digits.train[:100]), "float32"))
    assert all(leaf.is_deleted() for leaf in before)


def test_metrics_come_to_the_host_once_an_epoch(digits, monkeypatch) -> None:
    """Counted at both ways to the host, numpy's and Python's: the step to start at, then the steps' terms, whether all
    is finite, and the evaluation's terms, and no more."""
    fetched = []
    kind, asarray = type(jax.numpy.zeros(())), np.asarray
    value = vars(kind)["_value"]

    def numpys(array, *arguments, **options):
        if isinstance(array, jax.Array):
            fetched.append(array.shape)
        return asarray(array, *arguments, **options)

    def pythons(array):
        fetched.append(array.shape)
        return value.fget(array)

    monkeypatch.setattr(np, "asarray", numpys)
    monkeypatch.setattr(kind, "_value", property(pythons))
    float(np.asarray(jax.numpy.ones(1))[0] + float(jax.numpy.ones(())))
    assert fetched == [(1,), ()], "the count counts"
    fetched.clear()
    jaxvae.fit(small(epochs=3), digits)
    assert fetched == [(), *3 * [(15, 3), (), (297, 3)]]


@PACKAGES
def test_no_key_is_used_twice(package, digits, monkeypatch) -> None:
    """JAX's own checker is on in all tests (it says KeyReuseError); torch's draws are watched here. Deriving from a key
    by fold_in is no use of it, drawing or splitting is."""
    if package is jaxvae:
        assert jax.config.jax_debug_key_reuse  # type: ignore[attr-defined]
        progress_of(jaxvae, small(epochs=2), digits)
        key = jaxvae.root_key(0)
        jax.random.normal(key)
        with pytest.raises(jax.errors.KeyReuseError):
            jax.random.normal(key)
        return
    used: Counter = Counter()
    for name in ("split", "bits", "uniform"):  # normal, bernoulli and permutation draw by these
        original = getattr(torchvae.random, name)

        def watched(key, *arguments, original=original, name=name, **options):
            used.update(tuple(k) for k in key.reshape(-1, 2).tolist())
            return original(key, *arguments, **options)

        monkeypatch.setattr(torchvae.random, name, watched)
    progress_of(torchvae, small(epochs=2), digits)
    assert len(used) > 30  # a key for each tensor, step, shuffle and evaluation
    assert max(used.values()) == 1


@PACKAGES
def test_the_streams_are_apart(package) -> None:
    """Every key that a run of a thousand steps derives is another."""
    root = torchvae.root_key(0)
    keys = [root.tolist(), *(key.tolist() for key in torchvae.streams(root))]
    for stream in torchvae.Streams._fields:
        keys += torchvae.random.fold_in(getattr(torchvae.streams(root), stream), torch.arange(1000)).tolist()
    assert len({tuple(key) for key in keys}) == 8 + 7 * 1000
    result = package.stream_key(package.root_key(0), "noise", 7)
    assert np.asarray(jax.random.key_data(result) if package is jaxvae else result).tolist() in keys


@PACKAGES
def test_the_same_seed_is_the_same_run_and_another_is_not(package, digits) -> None:
    first, again, other = (progress_of(package, small(epochs=2, seed=seed), digits) for seed in (5, 5, 2**32 + 5))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.train, b.train)
        np.testing.assert_array_equal(a.test, b.test)
    assert not np.array_equal(first[0].train, other[0].train)


@PACKAGES
def test_an_epoch_visits_every_image_once(package, x64: None) -> None:
    """The KL has no noise in it: where nothing is learnt, an epoch's mean over three batches, the last one ragged, is
    the test split's, the same images. One image twice for another would move it by 1e-5."""
    images = np.arange(250, dtype=np.uint8)[:, None, None, None]
    training = TrainingSpec(epochs=1, batch_size=100, learning_rate=1e-30, dtype="float64")
    data = Dataset("digits", "", images, images[:, 0, 0, 0], images, images[:, 0, 0, 0])
    [progress] = progress_of(package, Spec("digits", ModelSpec((1, 1, 1), (), 1), training=training), data)
    epoch = np.average(progress.train, axis=0, weights=[100, 100, 50])
    np.testing.assert_allclose(epoch[2], progress.test[2], rtol=1e-12)


@pytest.mark.either
@PACKAGES
@pytest.mark.parametrize("binarization", ["static", "dynamic"])
def test_an_epochs_steps_are_given_each_images_own_label_and_pixels(package, x64: None, digits, binarization) -> None:
    """Step by step against the plain formulas, on rows, pixels, labels and noise that jax.random draws in a loop. A
    learning rate of next to nothing makes each loss tell what its step was given."""
    model = ModelSpec(hidden=(6,), latent=2, classes=10)
    training = TrainingSpec(batch_size=64, learning_rate=1e-30, epochs=2, dtype="float64")
    spec = Spec("digits", model, training=training, images=ImagesSpec(binarization=binarization))
    few = digits._replace(train=digits.train[:150], train_labels=digits.train_labels[:150])
    actual = np.concatenate([progress.train for progress in progress_of(package, spec, few)])
    weights = package.to_arrays(spec, package.init_state(spec)[0])
    for t in range(6):
        batch = step_batch(spec, few, t)
        expected = reference.averaged(spec, reference.losses(spec, weights, batch, training=True), batch)
        for name, value in zip(spec.terms, actual[t], strict=True):
            np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=f"{name} of step {t}")


@PACKAGES
def test_only_max_steps_ends_training_in_an_epoch_of_ones_own(package, digits) -> None:
    images = jax.numpy.asarray(digits.train) if package is jaxvae else torch.tensor(digits.train)
    for max_steps, expected in ((None, [15, 30]), (20, [15, 20, 20]), (15, [15, 15])):
        spec = small(epochs=1, max_steps=max_steps)
        state = package.init_state(spec)
        for step in expected:
            state, _ = package.train_epoch(spec, state, images)
            assert int(state.step) == step


@PACKAGES
def test_a_fresh_optimizer_has_arrays_too(package) -> None:
    spec = small()
    state = package.init_state(spec)
    arrays = package.optimizer_to_arrays(spec, state[1])
    assert arrays["step"] == 0
    assert len(arrays) == 21
    assert not any(array.any() for array in arrays.values())


def test_an_optimizers_arrays_are_all_placed() -> None:
    spec = small()
    arrays = jaxvae.optimizer_to_arrays(spec, jaxvae.init_state(spec).opt_state)
    model = torchvae.init_state(spec).model
    for change, says in (
        (lambda a: a.pop("step"), "lacks its step"),
        (lambda a: a.pop("exp_avg.encoder.mean.bias"), "exp_avg lacks the tensor encoder.mean.bias"),
        (lambda a: a.update({"max_exp_avg_sq.encoder.mean.bias": np.zeros(3)}), "unexpected entries"),
    ):
        changed = dict(arrays)
        change(changed)
        with pytest.raises(InputError, match=says):
            jaxvae.optimizer_from_arrays(spec, changed)
        with pytest.raises(InputError, match=says):
            torchvae.optimizer_from_arrays(spec, changed, model)


def test_products_are_whole_float32_ones_wherever_they_run() -> None:
    """Every matrix product of the loss and of its gradient asks for the highest precision, not for a GPU's TF32."""
    spec = small()
    params = jaxvae.init_state(spec).params
    x, eps = jax.numpy.zeros((4, 784)), jax.numpy.zeros((4, 3))
    draws = jaxvae.Draws(eps, None, None, ())
    program = str(jax.make_jaxpr(jax.grad(lambda p: jaxvae.image_terms(spec, p, x, draws).loss.mean()))(params))
    assert program.count("dot_general[") >= 10
    assert program.count("dot_general[") == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")


@pytest.mark.parametrize(
    "spec",
    [
        Spec("digits", ModelSpec((8, 8, 1), (3, 4), 2, network="conv"), ObjectiveSpec(form="iwae", samples=2)),
        Spec(
            "digits",
            ModelSpec((8, 8, 1), (5,), 2, posterior="point", discriminator=(4,)),
            ObjectiveSpec(form="adversarial"),
        ),
    ],
    ids=["conv", "adversarial"],
)
def test_products_of_a_whole_step_are_whole_float32_ones(spec: Spec) -> None:
    """Convolutions, batch norm's means and the discriminator's layers with them."""
    state, x = jaxvae.init_state(spec), jax.numpy.zeros((4, 64))
    program = str(jax.make_jaxpr(lambda state: jaxvae.train_step(spec, state, x))(state))
    products = program.count("dot_general[") + program.count("conv_general_dilated[")
    assert products >= 20
    assert products == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")


@PACKAGES
def test_a_batch_far_larger_than_the_data_costs_nothing(package, digits) -> None:
    spec = Spec("digits", ModelSpec(hidden=(8,), latent=2), training=TrainingSpec(batch_size=10**9, epochs=2))
    assert [progress.step for progress in progress_of(package, spec, digits)] == [1, 2]


@PACKAGES
def test_an_evaluation_that_is_not_finite_stops_the_run(package, digits) -> None:
    """The last step's terms are finite; what it made of the weights is not."""
    with pytest.raises(NonFiniteError, match=r"in the evaluation the \w+ became (nan|inf) at step 1,"):
        progress_of(package, small(learning_rate=1e30, max_steps=1), digits)


@PACKAGES
@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_of_more_than_64_bits_is_refused(package, seed: int) -> None:
    with pytest.raises(InputError, match="seed must be an integer from 0 to 2"):
        package.root_key(seed)


@PACKAGES
@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((0, 28, 28, 1), r"^Training needs one image or more, found an array of the shape \[0, 28, 28, 1\]"),
        ((), r"^train_epoch needs images of the model's size, \[n, 28, 28, 1\], found \[\]"),
        ((9, 7, 7, 1), r"^train_epoch needs images of the model's size, \[n, 28, 28, 1\], found \[9, 7, 7, 1\]; give"),
    ],
)
def test_images_of_another_size_or_none_are_refused(package, shape: tuple[int, ...], says: str) -> None:
    images = (jax.numpy.asarray if package is jaxvae else torch.tensor)(np.zeros(shape, np.uint8))
    spec = small()
    with pytest.raises(InputError, match=says):
        package.train_epoch(spec, package.init_state(spec), images)


@PACKAGES
@pytest.mark.parametrize("spec", [None, "conv"])
def test_a_state_needs_a_configuration(package, spec: object) -> None:
    with pytest.raises(InputError, match=rf"must be a Spec, found {spec!r}; give Spec\(...\) or preset\('conv'\)"):
        package.init_state(spec)


@PACKAGES
def test_a_loss_that_is_not_finite_stops_the_run(package, digits) -> None:
    spec = small(learning_rate=1e30, epochs=2)
    with pytest.raises(NonFiniteError, match=r"became (nan|inf) at step 2, of steps 1 to 15;.* smaller learning rate"):
        progress_of(package, spec, digits)


def test_float64_without_jaxs_64_bit_mode_is_refused() -> None:
    spec = Spec(training=TrainingSpec(dtype="float64"))
    with pytest.raises(InputError, match="jax_enable_x64"):
        jaxvae.init_state(spec)


def test_keys_need_partitionable_threefry(monkeypatch) -> None:
    jax.config.update("jax_threefry_partitionable", False)
    try:
        with pytest.raises(InputError, match="JAX_THREEFRY_PARTITIONABLE"):
            jaxvae.root_key(0)
    finally:
        jax.config.update("jax_threefry_partitionable", True)


def test_the_numbers_come_back_from_either_optimizer(dtype: str, digits) -> None:
    """Adam's state through named arrays and back, the other package in between."""
    spec = small(dtype=dtype)
    state, _ = jaxvae.train_epoch(spec, jaxvae.init_state(spec), jax.numpy.asarray(digits.train))
    arrays = jaxvae.to_arrays(spec, state.params)
    moments = jaxvae.optimizer_to_arrays(spec, state.opt_state)
    model = torchvae.from_arrays(spec, arrays)
    there = torchvae.optimizer_to_arrays(spec, torchvae.optimizer_from_arrays(spec, moments, model))
    back = jaxvae.optimizer_to_arrays(spec, jaxvae.optimizer_from_arrays(spec, there))
    assert list(back) == list(there) == list(moments)
    assert moments["step"] == 15
    for name in moments:
        np.testing.assert_array_equal(back[name], moments[name], strict=True)
        np.testing.assert_array_equal(there[name], moments[name], strict=True)
