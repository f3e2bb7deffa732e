"""The gradient of a training step as a compiled program, for `train --compile`. What jax.jit does in jaxvae."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.optimizer_state import trained
from jaxvae.shared.text import printable
from torchvae.draws import Draws
from torchvae.networks import VAE
from torchvae.objectives import Inputs, Phase, minimized
from torchvae.operations import Training
from torchvae.parallel import processes

Gradient = Callable[[Inputs, Phase], dict[str, Tensor]]

_MOST = 16  # programs that are kept
_LEAVE_OUT = "leave out --compile (in Python compile=True)"


class _Program(NamedTuple):
    terms: tuple[str, ...]
    """The names of the terms."""
    weights: list[str]
    """The names of the parameters whose gradient it computes."""
    run: Callable[..., tuple[Tensor, list[Tensor | None]]]
    """The mean terms `[terms]` and the gradient, of the model's tensors and of a batch's; batch norm's running
    statistics are updated in place."""


_programs: dict[tuple[object, ...], _Program] = {}


def require_one_process(function: str) -> None:
    """Check that the step of this process is the whole step.

    Args:
        function: The function's name, for the message.

    Raises:
        InputError: If several processes train together.
    """
    if processes() > 1:
        raise InputError(
            f"{function} compiles the step of one process, found {processes()} that train together; {_LEAVE_OUT}, or "
            "train in one process."
        )


def gradient(spec: Spec, model: VAE) -> Gradient:
    """Prepare the compiled gradient of a model.

    A program is compiled at its first batch, and kept for others of the same configuration and size.

    Args:
        spec: The configuration.
        model: The model, in training mode.

    Returns:
        A function of a batch and a phase. It leaves the gradient in the `grad` of the parameters that the phase trains,
        None in the others', and returns the mean terms, nats per image. It raises InputError if the step can't be
        compiled.
    """
    tensors, parameters = [*model.parameters(), *model.buffers()], dict(model.named_parameters())
    if tensors[0].is_cuda:
        for tensor in tensors:
            torch._dynamo.mark_static_address(tensor)  # or a CUDA graph copies it in each step

    ready: dict[tuple[str, int], _Program] = {}  # those of _programs that were found, as a Spec takes long to look up

    def compute(batch: Inputs, phase: Phase) -> dict[str, Tensor]:
        given, size = [*tensors, *_leaves(batch)], (phase.name, len(batch.x))
        key = spec, batch.x.dtype, batch.x.device, None if batch.labels is None else batch.labels.dtype
        for parameter in parameters.values():
            parameter.grad = None
        with torch.no_grad():
            if (program := ready.get(size) or _programs.get((*key, *size))) is None:
                program, terms, grads = _compiled(spec, model, batch, phase, given)
                if len(_programs) == _MOST:
                    del _programs[next(iter(_programs))]
                _programs[*key, *size] = program
            else:
                terms, grads = program.run(*given)
        ready[size] = program
        for name, grad in zip(program.weights, grads, strict=True):
            parameters[name].grad = grad
        return dict(zip(program.terms, terms.clone(), strict=True))  # which a CUDA graph computes in the same place

    return compute


def trace(
    spec: Spec, model: VAE, batch: Inputs, phase: Phase, given: list[Tensor]
) -> tuple[tuple[str, ...], torch.fx.GraphModule]:
    """Write the gradient of a phase down as one graph of operations on tensors, forward and backward.

    Args:
        spec: The configuration.
        model: The model, in training mode.
        batch: A batch.
        phase: The phase.
        given: The model's tensors, and the batch's.

    Returns:
        The names of the terms, and the graph.

    Raises:
        InputError: If the graph would draw random numbers.
        ValueError: If a number is asked of a tensor, or a shape.
        Exception: Whatever else the model's parts raise, who are given tensors without numbers.
    """
    names = [name for named in (model.named_parameters(), model.named_buffers()) for name, _ in named]
    weights = [tensor.name for tensor in trained(spec, phase.networks)]
    terms: list[str] = []

    def compute(*given: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        tensors = {name: tensor.detach() for name, tensor in zip(names, given, strict=False)}
        own = _filled(batch, list(given[len(names) :]))
        with torch.enable_grad():
            of = [tensors[name].requires_grad_() for name in weights]
            in_loss = {f"model.{name}": tensor for name, tensor in tensors.items()}
            loss, reported = functional_call(_Loss(spec, model, phase), in_loss, (own,))
            grads = torch.autograd.grad(loss, of, allow_unused=True)
        terms[:] = reported
        return torch.stack([term.detach() for term in reported.values()]), list(grads)

    graph = make_fx(compute, tracing_mode="fake")(*given)
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
            raise ValueError(node.target)
        if torch.Tag.nondeterministic_seeded in tags:
            raise InputError(
                f"A compiled step would draw other random numbers than the step itself, and an own part draws some "
                f"({node.target}); take them from the batch's draws, or {_LEAVE_OUT}."
            )
    return tuple(terms), graph


def _compiled(
    spec: Spec, model: VAE, batch: Inputs, phase: Phase, given: list[Tensor]
) -> tuple[_Program, Tensor, list[Tensor | None]]:
    """The program of a phase, and its results of a batch, which compiles it."""
    try:
        names, graph = trace(spec, model, batch, phase, given)
    except InputError:
        raise
    except Exception as error:  # whatever an own part raises
        raise InputError(
            "The step can't be compiled: its parts have to be operations on tensors that ask for no number of one, "
            f"found {_reason(error)}; change the own part, or {_LEAVE_OUT}."
        ) from error
    on_gpu = batch.x.is_cuda
    try:
        run = torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead" if on_gpu else None)
        weights = [parameter.name for parameter in trained(spec, phase.networks)]
        return _Program(names, weights, run), *run(*given)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds
        needed = "a C compiler for Triton" if on_gpu else "a C++ compiler, as g++"
        raise InputError(
            f"torch.compile can't compile the step: it needs {needed}, found {_reason(error)}; install one, or "
            f"{_LEAVE_OUT}."
        ) from error


def _reason(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__} ({printable(first.rstrip('.'), 200)})"


class _Loss(nn.Module):
    """What a phase minimizes, as a module, since torch.func calls nothing else with given tensors."""

    def __init__(self, spec: Spec, model: VAE, phase: Phase):
        super().__init__()
        self.spec, self.model, self.phase = spec, model, phase

    def forward(self, batch: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        loss, (terms, _) = minimized(self.spec, self.model, batch, self.phase)
        return loss, terms


def _leaves(batch: Inputs) -> list[Tensor]:
    """The tensors of a batch."""
    draws = batch.draws
    assert batch.training is not None
    assert isinstance(batch.step, int)
    step = torch.full((), batch.step, dtype=torch.float64, device=batch.x.device)
    seen = None if batch.seen is batch.x else batch.seen
    given = batch.x, seen, batch.labels, *draws[:3], batch.training.weights, step, *draws.masks
    return [tensor for tensor in given if tensor is not None]


def _filled(batch: Inputs, leaves: list[Tensor]) -> Inputs:
    """A batch with the tensors that `_leaves` gave."""
    coming = iter(leaves)

    def instead(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else next(coming)

    x, seen = next(coming), None if batch.seen is batch.x else next(coming)
    labels, eps, prior, corruption = map(instead, (batch.labels, *batch.draws[:3]))
    weights, step, *masks = coming
    assert eps is not None
    draws, training = Draws(eps, prior, corruption, tuple(masks)), Training(weights, tuple(masks))
    return Inputs(x, x if seen is None else seen, labels, draws, training, step)
