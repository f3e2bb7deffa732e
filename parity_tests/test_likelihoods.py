"""The tables of likelihoods and networks have the same keys wherever they stand, and an unknown kind is an error."""

import ast
import importlib.resources
import inspect
import typing

import pytest

import jaxvae.distributions
import jaxvae.layers
import jaxvae.nets
import torchvae.distributions
import torchvae.layers
import torchvae.nets
from benchmarks import limit
from jaxvae.shared.config import likelihoods, networks
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.model import description, layout
from parity_tests.harness import oracle


def test_every_table_of_likelihoods_has_the_same_keys() -> None:
    names = set(typing.get_args(likelihoods.LikelihoodName))
    for table in (likelihoods.LIKELIHOODS, jaxvae.distributions.NLL, torchvae.distributions.NLL, oracle.NLL):
        assert set(table) == names
    means = set(typing.get_args(likelihoods.Mean))
    assert set(jaxvae.distributions.MEANS) == set(torchvae.distributions.MEANS) == means


def test_every_table_of_networks_has_the_same_keys() -> None:
    names = set(typing.get_args(networks.NetworkName))
    for table in (networks.NETWORKS, jaxvae.nets.NETWORKS, torchvae.nets.NETWORKS):
        assert set(table) == names
    for name in names:
        assert layout.layers(ModelSpec((8, 8, 1), (3,), 2, network=name))


def test_the_page_can_compute_every_mean() -> None:
    script = (importlib.resources.files("jaxvae.shared.report") / "static" / "explorer.js").read_text()
    outputs = script.partition("const OUTPUTS = {")[2].partition("};")[0]
    for mean in typing.get_args(likelihoods.Mean):
        assert f"{mean}: " in outputs or f'"{mean}": ' in outputs


@pytest.mark.parametrize("reader", [layout._parameters, description._size, jaxvae.layers.make, torchvae.layers.make])
def test_an_unknown_kind_of_layer_is_an_error(reader) -> None:
    layer = layout.Layer(("decoder", "hidden", 0), "attention", 1, 1)  # type: ignore[arg-type]
    arguments = {"layer": layer, "spec": ModelSpec(), "rngs": None}
    with pytest.raises(AssertionError, match="attention"):
        reader(**{name: arguments[name] for name in inspect.signature(reader).parameters})


@pytest.mark.parametrize("module", [layout, description, oracle, limit, jaxvae.layers, torchvae.layers])
def test_who_walks_the_layers_names_every_kind(module) -> None:
    """A `match` of a kind of layer ends with assert_never."""
    matches = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Match) and ast.unparse(node.subject) == "layer.kind"
    ]
    assert matches
    for node in matches:
        assert "assert_never" in ast.unparse(node.cases[-1])
