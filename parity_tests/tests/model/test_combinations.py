"""Every preset with its posterior, its likelihood, its objective or its corruption replaced by each other one: it is
refused with a reason, or both packages compute it."""

import dataclasses
import itertools
import typing

import numpy as np
import pytest

from jaxvae.shared.config import choices, compatibility, likelihoods, own
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from parity_tests.support.backends import (
    FLOAT64,
    JAX,
    TORCH,
    Batch,
    assert_gradients_equal,
    lean,
    some_arrays,
    some_batch,
    tiny,
)
from parity_tests.support.quick import quick

REFUSED = "Invalid configuration: "
PARTS = {
    ("model", "posterior"): choices.PosteriorName,
    ("model", "likelihood"): likelihoods.LikelihoodName,
    ("objective", "form"): choices.Form,
    ("images", "corruption"): choices.Corruption,
}


def shrunk(spec: Spec) -> Spec:
    conv = spec.model.network == "conv"
    shift = min(spec.images.shift, 2)
    spec = dataclasses.replace(spec, images=dataclasses.replace(spec.images, shift=shift))
    spec = tiny(spec, ModelSpec((5, 4, 1), (3, 4) if conv else (6,), 3, discriminator=(5,)))
    objective = dataclasses.replace(spec.objective, samples=min(2, spec.objective.samples))
    return dataclasses.replace(spec, objective=objective, training=FLOAT64)


def changed(spec: Spec, part: str, field: str, value: str) -> Spec:
    change: dict[str, object] = {field: value}
    if field == "corruption":
        change["corruption_level"] = 0.0 if value == "none" else 0.3
    return dataclasses.replace(spec, **{part: dataclasses.replace(getattr(spec, part), **change)})


def walk() -> tuple[list[Spec], list[tuple[str, str, str]]]:
    """The configurations that make sense, each once, and for the others what was put where and the reason."""
    fine: dict[Spec, None] = {}
    refused = []
    for preset in PRESETS.values():
        for (part, field), kind in PARTS.items():
            for value in typing.get_args(kind):
                try:
                    fine[changed(shrunk(preset), part, field, value)] = None
                except InputError as error:
                    refused.append((field, value, str(error)))
    return list(fine), refused


FINE, REASONS = walk()
SHARES = 12  # each a twelfth of what is fine, sorted by the kind of network


@pytest.fixture(scope="module", autouse=True)
def _lean():
    yield from lean()


def test_the_walk_meets_both_kinds() -> None:
    assert len(FINE) > 100
    assert len(REASONS) > 50
    for form in typing.get_args(choices.Form):
        assert any(spec.objective.form == form for spec in FINE), form


def test_what_is_refused_is_refused_in_one_sentence_that_names_the_part() -> None:
    # Where the sentence has another word for what was put in.
    other = {name: likelihood.title for name, likelihood in likelihoods.LIKELIHOODS.items()}
    other |= {"relu-point": "code that is never negative", "capacity": "capacity_steps"}
    # Where it is what was there before that asks for another part.
    asked = ("glorot-data", "only the gaussian likelihood", "discriminator", "uses beta", "all samples", "mixed")
    for field, value, message in REASONS:
        assert message.startswith(REFUSED), message
        assert message.endswith(".")
        assert "\n" not in message
        named = value in message or other.get(value, value) in message
        assert named or any(part in message for part in asked), (field, value, message)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("share", quick(range(SHARES), [1]))
def test_what_is_not_refused_is_computed_alike(share: int) -> None:
    """The terms of evaluation for all of them; what training gives its optimizer, and its gradients, in torch for all,
    in JAX, which compiles each, for every fifth."""
    every = sorted(FINE, key=lambda spec: spec.model.network)
    for i, spec in enumerate(itertools.islice(every, share, None, SHARES)):
        arrays, batch = some_arrays(spec, i), some_batch(spec, 3, i)
        in_jax, in_torch = JAX.image_terms(spec, arrays, batch), TORCH.image_terms(spec, arrays, batch)
        assert tuple(in_jax) == tuple(in_torch) == spec.terms
        for name, term in in_jax.items():
            assert np.isfinite(term).all(), (spec, name)
            # Sums of twenty pixels, and of a KL that cancels: 1e-14 nats at most beside terms of one nat.
            np.testing.assert_allclose(term, in_torch[name], rtol=1e-12, atol=1e-14, err_msg=f"{name} of {spec}")
        trained = TORCH.minimized(spec, arrays, batch, 3)
        for phase, gradients in trained.gradients.items():
            assert all(np.isfinite(gradient).all() for gradient in gradients.values()), (spec, phase)
        if i % 5 == 0:
            compare_training(spec, JAX.minimized(spec, arrays, batch, 3), trained)


def compare_training(spec: Spec, in_jax, in_torch) -> None:
    for phase, loss in in_jax.losses.items():
        np.testing.assert_allclose(loss, in_torch.losses[phase], rtol=1e-12, err_msg=f"{phase} of {spec}")
        # Sums over batch, pixels and places that cancel, through batch norm twice.
        assert_gradients_equal(spec, in_jax.gradients[phase], in_torch.gradients[phase], 1e-11, f"{phase} of {spec}")
    for name, running in in_jax.statistics.items():
        np.testing.assert_allclose(running, in_torch.statistics[name], rtol=1e-12, err_msg=f"{name} of {spec}")


M, O, I = ModelSpec, ObjectiveSpec, ImagesSpec  # noqa: E741
POINT, JUDGED = M(posterior="point"), M(posterior="point", discriminator=(5,))
LAYERS = M((2, 2, 1), network="layers", encoder=("linear3",), decoder=("linear4",))
GAUSSIAN, ADVERSARIAL = M(likelihood="gaussian"), O(form="adversarial")
OWN_DECODER, DROPS = own.Parts(decoder=shrunk), I(corruption="hidden-dropout", corruption_level=0.5)
# One configuration for each sentence of `conflicts`, and the words it has to hold.
SENTENCES: list[tuple[ModelSpec, ObjectiveSpec, ImagesSpec, str]] = [
    (M(), O(), I(range="signed"), "a Bernoulli likelihood needs pixels in [0, 1]"),
    (M(output="linear"), O(), I(), "give --output bounded"),
    (dataclasses.replace(GAUSSIAN, output="tanh"), O(), I(range="signed"), "tanh is the bounded output of pixels in"),
    (M(variance=0.5), O(), I(), "give --variance 1"),
    (M(likelihood="gaussian-learned", variance=1e-6), O(), I(), "a learned variance stays above 6.14e-06; give a"),
    (dataclasses.replace(GAUSSIAN, init="glorot-data"), O(), I(), "glorot-data sets the last bias to log-odds"),
    (M(network="conv", init="glorot-data"), O(), I(), "glorot-data sets one bias per pixel"),
    (M(network="conv", hidden=()), O(), I(), "at least one convolution in hidden"),
    (POINT, O(), I(), "elbo needs a distribution of latents, which a point code is not"),
    (POINT, O(form="capacity"), I(), "capacity needs a distribution of latents"),
    (M(posterior="relu-point"), O(form="iwae"), I(), "iwae needs a distribution of latents, which a relu-point code"),
    (M(), O(form="reconstruction"), I(), "reconstruction alone would shrink a gaussian posterior"),
    (M(posterior="relu-sigma"), O(form="iwae"), I(), "iwae needs the posterior's density"),
    (M(posterior="relu-point", discriminator=(5,)), ADVERSARIAL, I(), "adversarial matches codes to N(0, I)"),
    (POINT, ADVERSARIAL, I(), "adversarial needs a discriminator"),
    (M(discriminator=(5,)), O(), I(), "only the adversarial objective uses a discriminator, and elbo"),
    (POINT, O(form="reconstruction", samples=2), I(), "all samples of a point code are the same"),
    (JUDGED, O(form="adversarial", samples=2), I(), "adversarial uses one latent per image"),
    (M(), O(form="iwae", beta=2.0), I(), "only the elbo uses beta, and iwae does not"),
    (M(), O(form="capacity", warmup=5), I(), "warmup raises beta, which capacity does not use"),
    (M(), O(gamma=2.0), I(), "only the capacity objective uses --gamma, --capacity, --capacity-steps, and elbo"),
    (M(), O(capacity=2.0), I(), "only the capacity objective uses --gamma, --capacity, --capacity-steps, and elbo"),
    (M(), O(capacity_steps=2), I(), "only the capacity objective uses --gamma, --capacity, --capacity-steps, and elbo"),
    (M(), O(form="iwae", units="mixed"), I(), "mixed units need a KL divergence"),
    (M(), O(beta=0.0), I(), "a beta of 0 would shrink a gaussian posterior to a point; give a --beta"),
    (
        M(likelihood="squared-error"),
        O(),
        I("signed", corruption="dropout", corruption_level=0.5),
        "dropout sets pixels to 0",
    ),
    (dataclasses.replace(LAYERS, hidden=(5,)), O(), I(), "not in hidden; give --hidden with no widths"),
    (dataclasses.replace(LAYERS, norm="none"), O(), I(), "the network layers has its norms in its words, as +norm"),
    (dataclasses.replace(LAYERS, network="mlp"), O(), I(), "only the network layers has layers in encoder and decoder"),
    (M(slope=0.3), O(), I(), "only leaky-relu has a slope, and the activation is relu; give --slope 0.01"),
    (M(hidden=(), activation="tanh"), O(), I(), "the activation tanh needs hidden layers, and hidden is empty"),
    (
        M(),
        O(),
        I(shift=28),
        "a shift of 28 pixels moves an image of height 28 and width 28 out of itself; give a --shift of at most 27",
    ),
    (M(parts=own.Parts(objective=shrunk)), O(form="iwae"), I(), "an objective of your own takes the place of the form"),
    (M(parts=OWN_DECODER, init="glorot-data"), O(), I(), "glorot-data sets the last bias of the package's decoders"),
    (M(parts=OWN_DECODER), O(), DROPS, "hidden-dropout drops units of the package's networks, and one is your own"),
    (M(hidden=()), O(), DROPS, "hidden-dropout needs hidden layers"),
]


@pytest.mark.parametrize(("model", "objective", "images", "said"), SENTENCES, ids=[s for *_, s in SENTENCES])
def test_every_sentence_can_be_met(model: ModelSpec, objective: ObjectiveSpec, images: ImagesSpec, said: str) -> None:
    reasons = list(compatibility.conflicts(model, objective, images))
    assert sum(said in reason for reason in reasons) == 1, reasons
    with pytest.raises(InputError) as error:
        Spec(model=model, objective=objective, images=images)
    assert str(error.value) == f"{REFUSED}{reasons[0]}."


def test_every_sentence_is_listed_here() -> None:
    """As many as `conflicts` has; no two configurations above share one unless their words differ by a part's name."""
    import inspect

    sentences = inspect.getsource(compatibility.conflicts).count("yield ")
    first_words = {said.split(",")[0].removeprefix("iwae ").removeprefix("capacity ") for *_, said in SENTENCES}
    first_words -= {"needs a distribution of latents"}  # which elbo's has too
    assert len(first_words) == sentences


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("side", [JAX, TORCH], ids=["jaxvae", "torchvae"])
def test_evaluation_corrupts_and_drops_nothing(side) -> None:
    for corruption in ("gaussian", "dropout", "hidden-dropout"):
        images = ImagesSpec(corruption=corruption, corruption_level=0.3)
        spec = shrunk(Spec(images=images))
        plain, arrays = shrunk(Spec()), some_arrays(spec)
        batch = some_batch(spec, 3)
        clean = Batch(batch.x, batch.eps)
        actual, expected = side.image_terms(spec, arrays, batch), side.image_terms(plain, arrays, clean)
        for name, term in actual.items():
            np.testing.assert_array_equal(term, expected[name], err_msg=f"{corruption}, {name}")
