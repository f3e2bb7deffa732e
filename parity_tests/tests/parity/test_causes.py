"""What the causes of the packages' differences say for programs."""

import ast
from pathlib import Path

import pytest

from parity_tests.harness import vae
from parity_tests.harness.findings import PRESETS, Diagnosis, Figure, Finding, Layer, Report
from parity_tests.harness.tree import Entry
from parity_tests.harness.vae import prove
from parity_tests.harness.vae.hypotheses import networks
from parity_tests.harness.vae.hypotheses.kinds import KINDS, named
from parity_tests.harness.vae.layer_figures import grown
from parity_tests.harness.vae.levels import LEVELS
from parity_tests.harness.vae.places import LEVELS as CODE
from parity_tests.harness.vae.places import PACKAGES, RUN, located
from parity_tests.support.reports.schema import validated

KL = next(cause for cause in networks.DIVERGENCES if cause == "KL averaged over latents, not summed")
FINDING = Finding("every loss term", "float64", 1.0, "kl at the start", 1e-13, "of the tensor's largest", "a sum")


def test_hypotheses_give_causes_of_every_kind_and_of_no_other() -> None:
    """That each gives a `Cause`, and no other string, is held by its type."""
    given = set()
    for file in Path(vae.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "named":
                assert isinstance(node.args[0], ast.Constant)
                given.add(node.args[0].value)
    assert given == set(KINDS)


@pytest.mark.parametrize("code", sorted({RUN, *CODE.values(), *filter(None, (kind.code for kind in KINDS.values()))}))
def test_the_function_of_a_level_and_of_a_kind_is_in_both_packages(code: str) -> None:
    cause = named("kl", "a", 1, 2, code)
    layer = located("every loss term", "kl at the start", cause)
    for package, source in zip(PACKAGES, (layer.jax_source, layer.torch_source), strict=True):
        if (package, code.partition(".")[0]) == ("jaxvae", "random"):  # JAX's own
            assert source is None
        else:
            assert source is not None
            assert source.file == f"{package}/{code.partition('.')[0]}.py"
            assert code.endswith(source.name)


def test_every_level_has_a_function() -> None:
    assert list(CODE) == [level.name for level in LEVELS]


@pytest.mark.parametrize(
    ("level", "name", "layer"),
    [
        ("every layer's output", "encoder.hidden.0, output", "encoder.hidden.0"),
        ("every layer's output", "z", "z"),
        ("every gradient", "decoder.logits.bias at the start", "decoder.logits"),
        (
            "every gradient",
            "discriminator.discriminator.hidden.0.weight at the start",
            "discriminator.discriminator.hidden.0",
        ),
        ("initial weights", "encoder.mean.weight", "encoder.mean"),
        ("outputs and losses at both ends of every head", "kl with encoder.logvar at 12", None),
    ],
)
def test_an_array_is_a_layers(level: str, name: str, layer: str | None) -> None:
    assert located(level, name).torch == layer


@pytest.mark.parametrize(
    ("backend", "framework", "other"), [("jaxvae", "JAX", "PyTorch"), ("torchvae", "PyTorch", "JAX")]
)
def test_a_cause_names_the_package_its_file_both_settings_and_a_remedy(
    backend: str, framework: str, other: str
) -> None:
    where = "every loss term (float64): kl at the start"
    layer = located("every loss term", "kl at the start", KL)
    diagnosis = Diagnosis(where, "jaxvae gives 1, torchvae 2", KL, backend, layer=layer)
    document = validated(Report({}, (FINDING,), diagnosis=diagnosis, subject=PRESETS).to_json())
    assert document["reference"] == "formulas"
    (cause,) = document["causes"]
    assert (cause["kind"], cause["backend"], cause["found"]) == ("kl", backend, "the mean over latents")
    assert cause["expected"] == "the sum over latents of (exp(logvar) - 1 - logvar + mean^2) / 2"
    assert cause["remedy"] == f"compute the KL as {cause['expected']}"
    side = cause["layer"]["jax" if backend == "jaxvae" else "torch"]
    assert (side["class"], side["file"]) == ("gaussian_kl", f"{backend}/distributions.py")
    assert (
        f"({backend}/distributions.py:{side['line']} gaussian_kl in {framework}): {backend} departs"
        in cause["sentence"]
    )
    assert f"in {other}" not in cause["sentence"]


def test_each_configuration_has_its_own_causes_in_the_tree() -> None:
    wrong = Figure("output", "forward", "float64", 1.0, 1e-13, "", "a sum")
    entries = {("encoder", name): Entry((wrong,), Layer(f"encoder.{name}", f"encoder.{name}")) for name in ("a", "b")}
    reports = {
        name: Report(
            {},
            (FINDING,),
            diagnosis=Diagnosis("x", "It differs.", KL, "jaxvae", layer=Layer(f"encoder.{layer}", f"encoder.{layer}")),
            tree=grown("the model", entries, passed=False),
            subject=PRESETS,
        )
        for name, layer in (("one", "b"), ("two", "a"))
    }
    document = validated(prove.merged(reports).to_json())
    assert [cause["where"] for cause in document["causes"]] == ["one: x", "two: x"]
    one, two = (tree["children"][0]["children"] for tree in document["tree"]["children"])
    assert [layer["causes"] for layer in (*one, *two)] == [[], [0], [1], []]
    assert [tree["first"] for tree in document["tree"]["children"]] == [True, False]


def test_what_follows_from_the_first_layer_that_differs_is_no_difference_of_its_own() -> None:
    """A wrong activation changes the next layer's input, every later layer and every gradient, also of layers before;
    another head that is wrong on a right input is a difference of its own."""

    def entry(*wrong: str) -> Entry:
        ways = {"input": "forward", "output": "forward", "weight at the start": "backward"}
        return Entry(
            tuple(Figure(of, way, "float64", float(of in wrong), 1e-13, "", "a sum") for of, way in ways.items())
        )

    entries = {
        ("encoder", "hidden"): entry("weight at the start"),
        ("encoder", "mean"): entry("input", "output", "weight at the start"),
        ("encoder", "logvar"): entry("output"),
        ("decoder",): entry("input", "output"),
    }
    encoder, decoder = grown("the model", entries, passed=False).children
    hidden, mean, logvar = encoder.children
    assert [node.status for node in (hidden, mean, logvar, decoder)] == ["follows", "differs", "differs", "follows"]
    assert [node.first for node in (hidden, mean, logvar, decoder)] == [False, True, False, False]
    assert [figure.follows for figure in mean.figures] == [False, True, True]
