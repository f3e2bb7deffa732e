"""Flax's example, whose model is a Linen module and its parameters."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch
from flax import serialization
from torch import Tensor

from import_programs.definitions import Code
from import_programs.program import Batch, Program


class _Model(NamedTuple):
    """A module and its parameters, called with PyTorch's tensors."""

    module: Any
    params: Any

    def __call__(self, method: Any, *arguments: Tensor) -> Any:
        inputs = [argument.numpy() for argument in arguments]
        outputs = self.module.apply({"params": self.params}, *inputs, method=method)
        return jax.tree.map(lambda array: torch.tensor(np.asarray(array)), outputs)


def _build(code: Code) -> _Model:
    module, key = code["model"](20), jax.random.key(0)
    params = module.init(key, np.ones((2, 784)), key)["params"]
    return _Model(module, jax.tree.map(lambda array: array.astype(np.float64), params))


def _save(code: Code, model: _Model, folder: Path) -> Path:
    """Save the example's state of training."""
    state = code["train_state"].TrainState.create(apply_fn=model.module.apply, params=model.params, tx=optax.adam(1e-3))
    (folder / "state.msgpack").write_bytes(serialization.to_bytes(state))
    return folder / "state.msgpack"


def _loss(code: Code, model: _Model, batch: Batch) -> Tensor:
    logits = model(lambda module, z: module.decoder(z), batch.z)
    arrays = [tensor.numpy() for tensor in (logits, batch.x, batch.mean, batch.second)]
    return torch.tensor(np.asarray(code["compute_metrics"](*arrays)["loss"]))


PROGRAMS = (
    Program(
        "Flax, examples/vae",
        "flax",
        ("examples/vae/models.py", "examples/vae/train.py"),
        _build,
        lambda model, x, labels: model(lambda module, x: module.encoder(x), x),
        lambda model, z, labels: model("generate", z),
        _loss,
        _save,
    ),
)
