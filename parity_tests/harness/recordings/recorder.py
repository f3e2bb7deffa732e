"""Record a model of either framework, alone in its process and environment."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import as_path, require_writable
from parity_tests.harness.modules.common.names import kind
from parity_tests.harness.recordings import file
from parity_tests.harness.recordings.arguments import Call, read
from parity_tests.harness.recordings.measure import measured
from parity_tests.harness.recordings.model import Model, Options
from parity_tests.harness.recordings.recording import Recording


def record(
    module: Any,
    path: str | Path,
    inputs: Any,
    *,
    params: Any = None,
    loss: Callable[[Any], Any] | None = None,
    optimizer: Any = None,
    scheduler: Callable[[Any], Any] | None = None,
    steps: int = 5,
    train: bool = False,
    dtype: Literal["float32", "float64"] = "float64",
    method: str | None = None,
    layers: Sequence[str] | None = None,
    sample: int | None = None,
    key: int = 0,
    draw: bool = False,
    share_dropout: bool = False,
) -> Recording:
    """Record what a model computes, so that it can be compared where its framework is not installed.

    The file holds the inputs, the weights, each layer's inputs and outputs, the outputs, the state after the call, the
    loss, the gradients, weights and optimizer moments after each step, how far rounding moves each of these numbers,
    and what made them: versions, devices, precision and digests. It works on copies; no argument is changed. Only the
    model's own framework is imported.

    Args:
        module: A torch module, a Flax NNX module, a Linen module, or a function `f(params, *inputs)` of JAX. Arrays
            that lie on several devices are computed there and stored whole.
        path: The safetensors file to write. It is written whole or not at all.
        inputs: One array or several, in the model's own layout, or `Inputs(...)` of what else it is called with.
        params: The variables of a Linen module, the parameters of a function, or the state of an NNX module; None for
            a torch module.
        loss: Maps the outputs to one number. With it every gradient is recorded.
        optimizer: An optax transformation, or a function from a list of parameters to a torch optimizer. The model is
            trained for `steps` steps from its own gradients. Requires `loss`.
        scheduler: Maps the torch optimizer to a learning-rate scheduler; optax's schedule is part of its optimizer.
        steps: Number of optimizer steps.
        train: Whether the model runs in training mode.
        dtype: The precision of weights, inputs and the computation. Half precision is never stored: what a model
            computes in it is stored in float32.
        method: The method that is called in place of the module itself.
        layers: Regexes of the dotted names of layers whose inputs and outputs are kept; None keeps all. Only what is
            kept can be named as the first layer that differs.
        sample: The largest number of entries that are kept of a tensor, weights and inputs excepted; of a larger one
            the sum, the root of the sum of squares and the digest of the whole are kept too. None keeps all. Two
            recordings of the same `sample` and `key` keep the same entries.
        key: Of the choice of entries, and of dropout's masks.
        draw: Whether tensors of few distinct values, such as biases of zero, which hide what stands behind them, are
            replaced by numbers that are drawn by their names. The file then holds these, and a live model that is
            compared with it is given them.
        share_dropout: Whether dropout takes masks that are drawn by `key`, in the order of its calls: the same ones in
            the other framework. The file holds their shapes; a live model that is compared with it takes them too.

    Returns:
        The recording, as `Recording(path)` reads it.

    Raises:
        InputError: If an argument is invalid, the model returns something other than arrays, or the file can't be
            written.
        ModelError: If the model, its loss or its optimizer raises an exception, which is its cause.
    """
    file_path = as_path(path, "path: a recording's file")
    require_writable(file_path, "give another path")
    options = Options(dtype, train, method, loss, optimizer, scheduler, steps, layers, sample, key, draw, share_dropout)
    check(module, params, options)
    call = read(inputs, dtype)
    recording = measured(model_of(module, params, call, options, inputs), call, options)
    file.write(file_path, recording.about, recording.arrays)
    return Recording(file_path)


def is_torch(module: Any) -> bool:
    """Return whether it is a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(module, torch.nn.Module)


def check(module: Any, params: Any, options: Options) -> None:
    """Raise InputError for the first invalid argument of `record`."""
    in_torch = is_torch(module)
    if isinstance(module, type) or not callable(module):
        raise InputError(
            f"module: expected a torch module, a Flax module or a function f(params, *inputs), found {kind(module)}."
        )
    if in_torch and params is not None:
        raise InputError("params: a torch module holds its own: leave params out.")
    for where, given in (("loss", options.loss), ("scheduler", options.scheduler)):
        if not (given is None or callable(given)):
            raise InputError(f"{where}: expected a function or None, found {kind(given)}.")
    if options.optimizer is not None:
        _check_optimizer(options.optimizer, options.loss, in_torch)
    if options.scheduler is not None and not (in_torch and options.optimizer is not None):
        raise InputError("scheduler: expected None without a torch optimizer; optax's schedule is in its optimizer.")
    _check_whole("steps", options.steps, 1)
    _check_whole("key", options.key, 0)
    if options.sample is not None:
        _check_whole("sample", options.sample, 1)
    if options.dtype not in ("float32", "float64"):
        raise InputError(
            f"dtype: expected float32 or float64, found {options.dtype!r}: fewer bits are compared between two live "
            "models alone."
        )
    if options.method is not None and not callable(getattr(module, str(options.method), None)):
        raise InputError(f"method: {kind(module)} has no method {options.method!r}: pass the name of one.")
    if isinstance(options.layers, str):
        raise InputError(f"layers: expected a list of regexes, found {options.layers!r}: put it in a list.")
    for pattern in options.layers or ():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise InputError(f"layers: {pattern!r} is not a valid regex: {error}: correct it.") from None


def model_of(module: Any, params: Any, call: Call, options: Options, inputs: Any = ()) -> Model:
    """Make of a model what can be recorded; `inputs`: the arrays of the call as they were given."""
    if is_torch(module):
        from parity_tests.harness.recordings.in_torch import TorchModel

        return TorchModel(module, call, options)
    try:
        from parity_tests.harness.recordings.in_jax import JaxModel
    except ModuleNotFoundError as error:
        raise InputError(
            f"module: {kind(module)} is no torch module, and to record one of JAX {error.name} is needed: install jax, "
            "flax and optax."
        ) from None
    return JaxModel(module, params, call, options, inputs)


def _check_optimizer(optimizer: Any, loss: Any, in_torch: bool) -> None:
    if loss is None:
        raise InputError("optimizer: a step needs a gradient, but loss is None: pass a loss.")
    if in_torch and (hasattr(optimizer, "param_groups") or not callable(optimizer)):
        raise InputError(
            "optimizer: expected a function of the parameters that returns torch's optimizer, as "
            f"partial(torch.optim.Adam, lr=1e-3) does, found {kind(optimizer)}."
        )
    if not in_torch and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise InputError(f"optimizer: expected an optax transformation, found {kind(optimizer)}.")


def _check_whole(where: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{where}: expected a whole number of at least {least}, found {value!r}.")
