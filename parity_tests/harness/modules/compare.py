"""Compare a JAX model with a torch module level by level, and find the first layer that differs."""

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax
import jax
import numpy as np
import optax
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import named
from parity_tests.harness.assertion import ParityError, assert_parity
from parity_tests.harness.findings import Diagnosis, Finding, Node, Report
from parity_tests.harness.hooks import dropout, torch_layers
from parity_tests.harness.hooks.settings import settings
from parity_tests.harness.modules import layouts, torch_state, validation
from parity_tests.harness.modules.adapters import flatten, network
from parity_tests.harness.modules.common import placement
from parity_tests.harness.modules.common.draws import alike
from parity_tests.harness.modules.common.structure import order_of, unchosen
from parity_tests.harness.modules.drawn import drawn as draw
from parity_tests.harness.modules.evaluation import Evaluation, Losses
from parity_tests.harness.modules.exercised import accumulated, paddings
from parity_tests.harness.modules.hypotheses.expressions import EXPRESSION
from parity_tests.harness.modules.hypotheses.shared_masks import of_masks
from parity_tests.harness.modules.inputs import read
from parity_tests.harness.modules.joining.rearranged import apart, arranged, check_shared, without_frozen
from parity_tests.harness.modules.layers import layer_tree
from parity_tests.harness.modules.layers.sources import Sources
from parity_tests.harness.modules.layouts import Layouts
from parity_tests.harness.modules.levels import STEPS, Levels, Optimizers
from parity_tests.harness.modules.mapping import Arrangement, MappingLike, arrange, ignored_of
from parity_tests.harness.modules.outputs import detached
from parity_tests.harness.modules.pair import Both
from parity_tests.harness.modules.precision.levels import compared as compared_as_run
from parity_tests.harness.modules.precision.levels import in_float64
from parity_tests.harness.recordings.comparing import live
from parity_tests.harness.recordings.recording import Recording

Dtype = Literal["float64", "float32", "bfloat16", "float16", "mixed", "tf32", "as run"]
"""The precisions in which two models can be compared."""

__all__ = ["ParityError", "assert_parity", "compare_modules", "orders"]


def compare_modules(
    jax_model: Any,
    params: Any,
    torch_module: nn.Module | Recording,
    mapping: MappingLike = None,
    inputs: Any = (),
    *,
    losses: Losses | Any = None,
    optimizers: Optimizers | Any = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    steps: int = 5,
    train: bool = False,
    statistics: bool = True,
    dtype: Dtype = "float64",
    weights: Literal["jax", "torch", "compare"] = "jax",
    channels_last: bool = True,
    input_layouts: Layouts = None,
    output_layouts: Layouts = None,
    outputs: Mapping[str, str] | Sequence[str] | None = None,
    jax_inputs: Any = None,
    torch_inputs: Any = None,
    method: str | None = None,
    torch_method: str | None = None,
    share_dropout: bool = False,
    ignore: Sequence[str] = (),
    strict: bool = False,
    layers: bool = False,
) -> Report:
    """Compare a JAX model with a torch module: outputs, state, loss, gradients, optimizer steps.

    The comparison ends at the first level that differs by more than its tolerance, since later levels depend on it.
    It works on copies; no argument is changed.

    Args:
        jax_model: A Flax NNX module, a Flax Linen module, a function `f(params, *inputs)`, or a `Recording`.
        params: None or the state of an NNX module; the variables of a Linen module; the parameters of a function.
        torch_module: The torch module, or a `Recording`. What a recording holds is left out: the inputs, `train`,
            `steps`, `dtype` and its own loss and optimizer, so that `losses` and `optimizers` are the live model's.
        mapping: Which JAX array is which torch tensor. None pairs by name, then by kind of layer and shape, then by the
            order of calls; `{path: name}` lists pairs, as in `{"conv1/kernel": "conv1.weight"}`; `[(regex,
            replacement)]` lists rules, of which the first that matches the whole path gives the name. A pair or a rule
            may end in a `Transform`. A name may end in rows, as in `"rnn.weight_ih_l0[0:8]"`.
        inputs: One array or several, in torch's layout, or `Inputs(...)` of what else both are called with: trees of
            arrays, arguments by keyword, options.
        losses: `(jax_loss, torch_loss)`; each maps its model's outputs to one number. With losses, every gradient is
            compared.
        optimizers: `(optax_optimizer, make_torch_optimizer)`; the second maps parameters to a torch optimizer. Both
            take `steps` steps from the same gradients. Put torch's gradient clipping in a pre-step hook of its
            optimizer. Requires `losses`.
        scheduler: Maps the torch optimizer to a learning-rate scheduler; optax's schedule is part of its optimizer.
            Requires `optimizers`.
        steps: Number of optimizer steps.
        train: Whether both models run in training mode. The JAX model receives it as an argument `train`, `training`,
            `is_training`, `deterministic` or `use_running_average`, and random streams as `rngs`, if its signature has
            one.
        statistics: Whether running statistics, and any other state that a call changes, are compared after it.
        dtype: The precision of both models. In "float64" and "float32" each entry may differ by a number of its own
            rounding errors, which are measured; the tolerance is this number. The others compare in float64 first, and
            then how far each framework is from its own float64 at the same rounded numbers: neither may be much
            further than the other, and the report names the operations that one of them alone rounds. "bfloat16" and
            "float16" are the dtype of parameters, inputs and layers; "mixed" is float32 with products in bfloat16, by
            the JAX layers' own dtypes (or, where none has one, those that autocast sets) and by `torch.autocast`;
            "as run" leaves both models as they were passed; "tf32" is float32 with the products of GPUs in TF32.
        weights: "jax" copies the JAX model's weights into the torch module, "torch" the reverse. Tensors of few
            distinct values, such as biases of zero, are then replaced in both by the same drawn numbers, since they
            hide what stands behind them; at the end outputs and gradients are also compared at other weights, which go
            through other branches of the activations, gradients of a larger loss too, outputs at larger inputs, and
            both at smaller weights if a tensor was not exercised. "compare" changes nothing and compares the weights
            first.
        channels_last: Whether the JAX model takes arrays of four axes as `[batch, height, width, channels]`.
        input_layouts: How JAX holds each input, in a list, or in a dict by its number or its name in `Inputs`, as in
            `"inputs['mask']"`: "channels_last", "same", or torch's
            axes in JAX's order, as `(0, 2, 1)` for a Conv1d; None for the default of `channels_last`.
        output_layouts: How JAX holds each output, in a list or by its place in torch in a dict. By default it is the
            one of the two usual layouts in which the numbers are nearer.
        outputs: Which output of the JAX model is which of the torch module's, as in
            `{"output[0]": "output['mean']"}`, or a list of places that are the same in both. Outputs that it leaves out
            are not compared, and are listed as not exercised. By default all are compared, paired by name where both
            have names and by position where both have positions.
        jax_inputs: The JAX model's own arguments, where they differ from torch's: one array, several, or `Inputs`.
            Arrays of the same numbers in both, in any of the usual layouts, are one input. Any other array, or one that
            equals several, is not moved, and is listed as not exercised.
        torch_inputs: The torch module's own arguments, with `jax_inputs`.
        method: The method of the Flax module that is called in place of the module itself.
        torch_method: That of the torch module.
        share_dropout: Whether the dropout of both frameworks takes the same masks, in the order of its calls, as
            `train=True` needs to compare more than the layers before the first.
        ignore: Regexes of whole paths in JAX and whole names in torch that have no counterpart. Each model keeps its
            own numbers there; the report lists them as not exercised.
        strict: Whether a parameter, buffer or input that moves no output is a failure. It is listed in any case.
        layers: Whether the report's tree has the difference of every layer's output, and with `losses` of every
            gradient, even if the comparison needs none of them. Otherwise it has those of the search for the first
            difference and of the levels that were compared.

    Returns:
        The report: one finding per level and, if a level fails, the diagnosis of the first difference; the tensors that
        were drawn; the tensors that were not exercised; and the levels at other weights that were left out.

    Raises:
        InputError: If an argument is invalid or the arrays of the two models can't be paired.
        ModelError: If a model, a loss or an optimizer raises an exception, which is its cause.
    """
    options = {name: value for name, value in locals().items() if name in live.DEFAULTS}
    if isinstance(jax_model, Recording) or isinstance(torch_module, Recording):
        return live.compare(jax_model, params, torch_module, mapping, inputs, options)
    validation.check(jax_model, torch_module, mapping, losses, optimizers, scheduler, steps, dtype, weights)
    layouts.check(input_layouts, "input_layouts")
    layouts.check(output_layouts, "output_layouts")
    validation.check_outputs(outputs)
    order = order_of(outputs)
    validation.check_method(jax_model, method, torch_module, torch_method)
    low = dtype if dtype not in ("float64", "float32") else None
    dtype = "float64" if low else dtype  # the formulas are compared first
    own = read(inputs, jax_inputs, torch_inputs, input_layouts, dtype).own
    if isinstance(ignore, str):
        raise InputError(f"ignore: expected a list of regexes, found {ignore!r}: put it in a list.")
    assert isinstance(torch_module, nn.Module)
    shared, torch_module = torch_module, torch_state.plain(torch_module)
    given: Mapping[Any, Any] = (
        output_layouts if isinstance(output_layouts, Mapping) else dict(enumerate(output_layouts or ()))
    )

    arrangement: Arrangement | None = None
    places = placement.shardings(jax_model, params)

    def made(dtype: str) -> Both:
        call = read(inputs, jax_inputs, torch_inputs, input_layouts, dtype)
        net = network(jax_model, params, dtype, train, call.in_jax, method or "__call__")
        module = torch_state.recast(torch_state.copied(torch_module), dtype).train(train)
        if torch_method is not None:
            module.forward = getattr(module, torch_method)
        placed = {place: layout for place, layout in given.items() if layout is not None}
        both = Both(net, module, (), call.arrays, dtype, channels_last, call.layouts, placed, call, order)
        both = both._replace(net=placement.on_mesh(net, places, call.places, both.jax_inputs))
        return both if arrangement is None else arranged(both, arrangement, weights)

    with in_float64() if low else settings(dtype), dropout.shared(share_dropout):
        both = made(dtype)
        if torch_method is None:
            torch_state.check_whole(shared, both.module, both.torch_arguments)
        if share_dropout:
            with torch.no_grad(), contextlib.suppress(Exception):  # the comparison itself says what is wrong
                torch_state.called(torch_state.copied(both.module), both.torch_arguments)
        shapes = {path: array.shape for path, array in both.arrays().items()}
        state = frozenset(flatten(both.net.state)) - frozenset(flatten(both.net.params))
        arrangement = arrange(shapes, both.module, mapping, state, lambda: orders(both), ignore)
        arrangement = without_frozen(arrangement, torch_module)
        if losses is not None:
            check_shared(arrangement, torch_module)
        both = arranged(both, arrangement, weights)
        own += tuple(sorted(frozenset.union(*ignored_of(shapes, both.module, ignore))))
        own += tuple(f"{name} (held at 0)" for name in arrangement.zeros)
        own += tuple(f"{name} (held equal to {first})" for name, first in arrangement.shared.items())
        drawn: tuple[str, ...] = ()
        if weights == "jax":
            both.fill_torch()
        elif weights == "torch":
            both = both.filled_from_torch()
        if weights != "compare":
            both, drawn = draw(both)
        elif losses is None:
            own += alike(both.named(both.arrays()))

        def in_double(both: Both) -> Evaluation:
            exact = made("float64")
            wide = {name: array.astype(_wide(array)) for name, array in both.named(both.arrays()).items()}
            exact = exact.filled(wide)._replace(inputs=[x.astype(_wide(x)) for x in both.inputs])
            exact.fill_torch()
            result = Evaluation(exact, losses)
            result.trees = result.forward_jax(exact)[0], detached(result.forward_torch(exact)[0])
            return result

        about = {
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "torch": torch.__version__,
            "device": jax.default_backend(),
            "dtype": low or dtype,
            "weights": weights,
            "mode": "training" if train else "evaluation",
        }
        numbers = {name: array.copy() for name, array in both.named(both.arrays()).items()} if low else {}
        evaluation = Evaluation(both, losses, in_double if dtype == "float32" else None)
        options = {"losses": losses, "optimizers": optimizers, "scheduler": scheduler, "steps": steps}
        options |= {"apart": apart(arrangement, torch_module), "layers": layers}
        compared = Levels(evaluation, {**options, "compare_weights": weights == "compare", "statistics": statistics})
        findings: list[Finding] = []
        for finding, diagnose in compared:
            findings.append(finding)
            if not finding.passed:
                diagnosis = _diagnosed(finding, diagnose)
                with contextlib.suppress(Exception):
                    sources = Sources(jax_model, torch_module, both)
                    of_steps = finding.level.startswith(STEPS.partition("{}")[0])
                    diagnosis = diagnosis and sources.located(diagnosis, losses, optimizers if of_steps else None)
                diagnosis = diagnosis and _with_doubt(diagnosis, arrangement)
                tree = _tree(compared, findings, diagnosis, layers)
                return Report(about, tuple(findings), diagnosis=diagnosis, drawn=drawn, tree=tree)
            del diagnose  # it holds the arrays of its level
        own += unchosen(*evaluation.trees, both.order)
        if losses is not None:
            own += paddings(both) + accumulated(torch_module)
        own += both.exchanged(*evaluation.trees, given)
        if strict:
            findings.append(_strict((*compared.unexercised, *own), dtype))
        unexercised, left_out = (*compared.unexercised, *own, *compared.otherwise), compared.left_out
        tree = _tree(compared, findings, None, layers)
        report = Report(about, tuple(findings), drawn=drawn, unexercised=unexercised, left_out=left_out, tree=tree)
    if not low or not report.passed:
        return report
    with dropout.shared(share_dropout):
        as_run = compared_as_run(made, both, numbers, losses, low)
    return report._replace(
        findings=(*report.findings, *as_run.findings), distances=as_run.distances, diagnosis=as_run.diagnosis
    )


def orders(both: Both) -> tuple[list[str], list[str]]:
    """Return the layers of both models in the order in which their first calls return."""
    module = torch_state.copied(both.module)
    with torch_layers.record(module) as calls, torch.no_grad(), contextlib.suppress(Exception):
        torch_state.called(module, both.torch_arguments)
    if both.net.watch is None:
        return [], []
    in_jax = both.net.watch(both.net.params, both.net.state, *both.jax_inputs)
    return [name for name in in_jax if "#" not in name], [name for name in calls if "#" not in name]


def _diagnosed(finding: Finding, diagnose: Callable[[], Diagnosis | None]) -> Diagnosis | None:
    """Diagnose a level; whatever goes wrong there, its figures stay."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # infinite values, or a hypothesis that overflows
            warnings.simplefilter("ignore")
            diagnosis = diagnose()
            return diagnosis and of_masks(diagnosis)
    except Exception as error:
        text = f"It differs, and the diagnosis failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}."
        return Diagnosis(finding.where, text, None)


def _with_doubt(diagnosis: Diagnosis, arrangement: Arrangement) -> Diagnosis:
    """Say which pairs may be others, where no cause is known or one that tells layers by their numbers alone."""
    layers = ((p.path.rpartition("/")[0], p.name.rpartition(".")[0]) for p in arrangement.pairs if p.by_calls)
    guessed = [f"{in_jax} and {in_torch}" for in_jax, in_torch in dict.fromkeys(layers)]
    known = diagnosis.cause and getattr(diagnosis.cause, "kind", None) != EXPRESSION.kind
    if not guessed or known:
        return diagnosis
    told = f"The order of calls alone paired these layers: {named(guessed)}; if others belong together, give pairs."
    return diagnosis._replace(difference=f"{diagnosis.difference} {told}")


def _tree(compared: Levels, findings: list[Finding], diagnosis: Diagnosis | None, everything: bool) -> Node | None:
    """Make the tree of layers; whatever goes wrong there, the report has the rest."""
    with contextlib.suppress(Exception):
        return layer_tree.grown(compared, findings, diagnosis, everything)
    return None


def _strict(unexercised: tuple[str, ...], dtype: str) -> Finding:
    level, reason = "every tensor is exercised", "strict=True: a tensor that moves no output is not compared"
    where = unexercised[0] if unexercised else ""
    return Finding(level, dtype, float(len(unexercised)), where, 0.0, "tensors", reason)


def _wide(array: np.ndarray) -> Any:
    return {"f": np.float64, "c": np.complex128}.get(array.dtype.kind, array.dtype)
