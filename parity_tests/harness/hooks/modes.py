"""Call a JAX model in training or evaluation mode, in whatever way its signature takes the mode."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def in_mode(
    call: Callable[..., Any], train: bool, rngs: Callable[[], Any], first: int = 0
) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return a function that adds the mode to the arguments of a call.

    Args:
        call: The model, whose signature may have `train`, `training`, `is_training`, `deterministic`,
            `use_running_average` or `rngs`, anywhere, with a default or without.
        train: Whether the model is to run in training mode.
        rngs: Makes the value of `rngs`.
        first: How many parameters stand before the inputs.

    Returns:
        A function from the inputs to the positional and the keyword arguments of the call. What the inputs have by
        keyword stays as it is.
    """
    flags = {"train": train, "training": train, "is_training": train, "deterministic": not train}
    flags["use_running_average"] = not train
    try:
        parameters = list(inspect.signature(call).parameters.values())[first:]
    except (TypeError, ValueError):  # a builtin shows no signature
        parameters = []

    def value(parameter: inspect.Parameter) -> Any:
        return rngs() if parameter.name == "rngs" else flags[parameter.name]

    asked = {p.name for p in parameters if p.name in flags or p.name == "rngs"}

    def arguments(*inputs: Any, **given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        left, positional, keywords = list(inputs), [], given
        for parameter in parameters:
            if parameter.name in given:
                continue
            if parameter.name in asked:
                if parameter.kind in _POSITIONAL and (left or parameter.kind is inspect.Parameter.POSITIONAL_ONLY):
                    positional.append(value(parameter))
                else:
                    keywords[parameter.name] = value(parameter)
            elif parameter.kind in _POSITIONAL and left:
                positional.append(left.pop(0))
        return (*positional, *left), keywords

    return arguments


def applied(call: Callable[..., Any], arguments: tuple[tuple[Any, ...], Mapping[str, Any]], *before: Any) -> Any:
    positional, keywords = arguments
    return call(*before, *positional, **keywords)
