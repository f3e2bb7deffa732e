"""Find the file and line of the code that has a layer."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as linen
import jax
from flax import nnx
from torch import nn

from parity_tests.harness.findings import Diagnosis, Layer, Source
from parity_tests.harness.modules.evaluation import Losses
from parity_tests.harness.modules.layers.owners import own, owner, source
from parity_tests.harness.modules.pair import Both


class Sources:
    """The classes of two models' modules, by path and by name."""

    def __init__(self, jax_model: Any, torch_module: nn.Module, both: Both):
        self._torch = {name: type(module) for name, module in torch_module.named_modules()}
        self._jax_model, self._both = jax_model, both
        self._jax: Mapping[str, Any] | None = None

    def located(
        self, diagnosis: Diagnosis, losses: Losses | None = None, optimizers: tuple[Any, Any] | None = None
    ) -> Diagnosis:
        """Return a diagnosis with the sources of its layers, of the losses where these differ, or of the optimizers if
        they are given: from the same gradients no layer is the cause."""
        layer = diagnosis.layer
        if optimizers is not None:
            layer = Layer("", "", *(own(getattr(one, "update", one)) for one in optimizers))
            return diagnosis._replace(layer=layer)
        if layer is None and diagnosis.where == "the loss" and losses is not None:
            layer = Layer(None, None, *map(source, losses))
        elif layer is None:
            layer = self._of_tensor(diagnosis.where)
        more = tuple(self.located(one) for one in diagnosis.more)
        return diagnosis._replace(layer=layer and self.of(layer), more=more)

    def of(self, layer: Layer) -> Layer:
        """Return a layer with the sources of the user's classes that it is an attribute of."""
        ours = layer.jax_source or self._of_jax(layer.jax)
        theirs = layer.torch_source or (None if layer.torch is None else owner(layer.torch, ".", self._torch))
        return layer._replace(jax_source=ours, torch_source=theirs)

    def _of_tensor(self, name: str) -> Layer | None:
        pair = next((pair for pair in self._both.pairs if pair.name == name), None)
        return pair and Layer(pair.path.rpartition("/")[0], name.rpartition(".")[0])

    def _of_jax(self, path: str | None) -> Source | None:
        if not isinstance(self._jax_model, nnx.Module | linen.Module):
            return None if path is None else source(self._jax_model)
        if path is None:
            return None
        if self._jax is None:
            self._jax = self._classes()
        return owner(path, "/", self._jax)

    def _classes(self) -> dict[str, Any]:
        model, both = self._jax_model, self._both
        if isinstance(model, nnx.Module):
            return {"/".join(map(str, path)): type(module) for path, module in nnx.iter_modules(model)}
        classes: dict[str, Any] = {"": type(model)}

        def noting(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            classes["/".join(context.module.path)] = type(context.module)
            return call(*args, **kwargs)

        with contextlib.suppress(Exception), linen.intercept_methods(noting):
            traced = lambda *given: both.net.apply(*given)  # noqa: E731, what was traced before isn't called again
            jax.eval_shape(traced, both.net.params, both.net.state, *both.jax_inputs)
        return classes
