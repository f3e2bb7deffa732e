"""What compare_runs accepts, what it says of bad input, and its verdicts on runs made of NumPy numbers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests import ParityError, RunsReport, Start, Step, assert_run_parity, compare_runs
from parity_tests.harness.modules.errors import ModelError
from parity_tests.harness.modules.mapping import as_is
from parity_tests.support.reports.schema import validated

UNNAMED = nn.Parameter(torch.ones(4))
ROWS = np.random.default_rng(0).normal(size=(12, 4))


def descent(
    rate: float = 0.1, slope: float = 1.0, order: int = 0, dtype: Any = np.float64, steps: int = 4, **fields: Any
) -> Iterator[Step]:
    """Gradient descent on a least-squares problem."""
    w = np.ones(4, dtype)
    for step in range(steps):
        rows = np.random.default_rng([order, step]).permutation(12)[:3]
        x = ROWS[rows].astype(dtype)
        gradient = (slope * x.T @ (x @ w) / 3).astype(dtype)
        loss = (x @ w) @ (x @ w) / 6
        w = (w - dtype(rate) * gradient).astype(dtype)
        yield Step(**{"batch": rows, "loss": loss, "gradients": {"w": gradient}, "parameters": {"w": w}, **fields})


def compared(left: Any, right: Any, **options: Any) -> RunsReport:
    return compare_runs(left, right, **{"steps": 4, **options})


def test_equal_runs_agree() -> None:
    report = compared(descent(), descent())
    assert report.passed
    assert str(report).startswith("The two runs agree in all 4 steps.")
    assert {finding.level for finding in report.findings} == {"batch", "loss", "gradients", "parameters"}


def test_what_one_run_alone_yields_is_named() -> None:
    report = compared(descent(), descent(learning_rate=0.1, terms={"kl": 0.0}))
    assert report.passed
    assert report.not_compared == (
        "learning rate, which only the PyTorch run yields",
        "terms, which only the PyTorch run yields",
    )
    assert "(not compared: learning rate, which only the PyTorch run yields)" in str(report)


def test_parameters_that_one_run_alone_has_are_named() -> None:
    report = compared([step._replace(parameters=None, gradients=None) for step in descent()], descent())
    assert report.passed
    assert report.not_compared == (
        "gradients, which only the PyTorch run yields",
        "parameters, which only the PyTorch run yields",
    )
    linear = nn.Linear(1, 1, bias=False)
    net = nn.Sequential(linear, nn.BatchNorm1d(1, affine=False)).double()
    kernel = linear.weight.detach().numpy()
    report = compare_runs([Step(parameters={"0": {"kernel": kernel}})], [Step(parameters=net)], steps=1)
    assert report.passed
    assert report.not_compared == tuple(
        f"1.running_{name} of the parameters of the PyTorch run, which is in no pair" for name in ("mean", "var")
    )


def test_the_first_step_and_quantity_are_found_and_the_error_holds_the_report() -> None:
    with pytest.raises(ParityError, match="part at step 0, in the parameters") as error:
        assert_run_parity(descent(), descent(rate=0.2), steps=4)
    report = error.value.report
    assert isinstance(report, RunsReport)
    assert (report.step, report.quantity) == (0, "parameters")
    assert report.diagnosis is not None
    assert "the learning rate that step 1 uses is 0.1 in JAX and 0.2 in PyTorch" in (report.diagnosis.cause or "")
    assert compared(descent(), descent(order=1)).quantity == "batch"
    assert compared(descent(), descent(slope=2.0)).quantity == "gradients"


def test_what_no_formula_reproduces_has_no_name() -> None:
    def noisy(of: str) -> Iterator[Step]:
        for step in descent():
            noise = 1 + 1e-3 * np.random.default_rng(0).normal(size=4)
            yield step._replace(**{of: {"w": getattr(step, of)["w"] * noise}})

    for quantity in ("gradients", "parameters"):
        report = compared(descent(), noisy(quantity))
        assert (report.step, report.quantity) == (0, quantity)
        assert report.diagnosis is not None
        assert report.diagnosis.cause is None
        assert "No known fault reproduces these numbers." in str(report)


def test_weight_decay_is_named_without_the_optimizers_state() -> None:
    def adam(decayed: tuple[str, ...], coupled: float = 0.0) -> Iterator[Step | Start]:
        w = {"kernel": np.linspace(0.5, 1.5, 4), "bias": np.linspace(-1, 1, 4)}
        m, v = ({n: np.zeros(4) for n in w} for _ in "mv")
        yield Start(parameters=w)
        for t in range(1, 5):
            g = {n: np.sin(7 * t * a) + coupled * a for n, a in w.items()}
            m = {n: 0.9 * m[n] + 0.1 * g[n] for n in w}
            v = {n: 0.99 * v[n] + 0.01 * g[n] ** 2 for n in w}
            step = {n: m[n] / (1 - 0.9**t) / (np.sqrt(v[n] / (1 - 0.99**t)) + 1e-8) for n in w}
            w = {n: w[n] - 0.1 * step[n] - 0.02 * w[n] * (n in decayed) for n in w}
            yield Step(gradients=g, parameters=w)

    report = compared(adam(("kernel", "bias")), adam(("kernel",)))
    assert "0.02 times the weights of bias, not of kernel off in JAX only: decoupled weight decay" in str(report)
    report = compared(adam(("kernel",)), adam(("kernel",), 0.3))
    assert (report.step, report.quantity) == (0, "gradients")
    assert "0.3 times the weights of all of them is added to the gradient in PyTorch only: weight decay" in str(report)


def test_optimizers_without_a_common_slot_are_not_compared() -> None:
    slots = {name: {"w": np.ones(4)} for name in ("mu", "trace")}
    report = compared(descent(optimizer_state={"mu": slots["mu"]}), descent(optimizer_state={"trace": slots["trace"]}))
    assert report.passed
    assert report.not_compared == (
        "first moment of w of the optimizer state, which only the JAX run yields",
        "momentum of w of the optimizer state, which only the PyTorch run yields",
    )


def test_the_report_is_json() -> None:
    for report in (compared(descent(), descent()), compared(descent(), descent(loss=float("nan")))):
        plain = validated(report.to_json())
        assert plain["passed"] == report.passed
        assert plain["verdict"] == str(report).splitlines()[0]


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones((), dtype=torch.float64))


def scaled(start: Start | None) -> Iterator[Step | Start]:
    """Adam of one number, whose count of steps in float32 is one too, with a figure in float32."""
    net = Scale()
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    if start is None:
        yield Start(parameters=net)
    else:
        net.load_state_dict(start.parameters)
        if start.step:
            optimizer.load_state_dict(start.optimizer_state)
    for step in range(start.step if start else 0, 4):
        optimizer.zero_grad()
        (net.w**2 * (step + 1)).backward()
        optimizer.step()
        figure = {"accuracy": torch.tensor((step + 1) / 7)}
        yield Step(gradients=net, optimizer_state=optimizer, parameters=net, terms=figure)


@pytest.mark.parametrize("apart", [0.0, 1e-7])
def test_one_number_in_float32_does_not_make_the_runs_float32s(apart: float) -> None:
    def numbers() -> Iterator[Step | Start]:
        for step, one in enumerate(scaled(None), -1):
            w = {"w": one.parameters.w.detach().numpy().copy()}
            if isinstance(one, Start):
                yield Start(parameters=w)
            else:
                slopes = {"w": one.parameters.w.grad.numpy() * (1 + apart * (step > 1))}
                yield Step(gradients=slopes, parameters=w, terms={"accuracy": (step + 1) / 7})

    report = compared(numbers(), scaled)
    assert report.passed == (not apart), str(report)
    assert report.about["dtype"] == "float64"
    assert not any("raised" in note for note in report.not_compared), str(report)


def test_an_array_in_float32_beside_float64_is_named() -> None:
    single = {"w": np.ones(4, np.float32), "v": np.ones(4)}
    report = compared(constant(gradients=single), constant(gradients={"w": np.zeros(4), "v": np.ones(4)}))
    why = "what float32 doesn't show, since w of the gradients of the JAX run is float32 beside float64"
    assert why in report.not_compared


def test_a_list_a_generator_and_a_function_are_runs() -> None:
    assert compared(list(descent()), descent).passed
    assert compared([step._asdict() for step in descent()], lambda: descent()).passed


def calls_back(start: Start | None, on_step: Callable[[Any], None], ended: list[int], **options: Any) -> None:
    """A trainer's loop, which survives whatever a hook of it raises."""
    for i, yielded in enumerate(started(start, **options)):
        try:
            on_step(yielded)
        except Exception:
            ended.append(-1)
            raise
        ended.append(i)


def test_a_run_may_call_back_and_is_ended_after_the_last_step() -> None:
    ended: list[int] = []

    def run(start: Start | None, on_step: Callable[[Any], None]) -> None:
        calls_back(start, on_step, ended, wrong_at=17)

    report = compare_runs(started, run, steps=40)
    assert (report.step, report.passed) == (17, False)  # started again from a state, as one that yields
    assert ended.count(38) == 1
    assert -1 not in ended
    with pytest.raises(InputError, match="yields 'lr' at step 0"):
        compared(descent(), lambda on_step: on_step({"lr": 0.1}))
    with pytest.raises(ModelError, match="The PyTorch run, step 1, raised ZeroDivisionError"):
        compared(descent(), lambda on_step: (on_step({"loss": 0.1}), 1 / 0))
    with pytest.raises(InputError, match="The PyTorch run yields 1 steps, expected 4"):
        compared(descent(), lambda on_step: on_step({"loss": 0.1}))


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (lambda: [], descent, "The JAX run yields no step"),
        (descent, lambda: descent(steps=2), "The PyTorch run yields 2 steps, expected 4: pass steps=2"),
        (lambda: [{"lr": 0.1}] * 4, descent, "yields 'lr' at step 0; the fields of a Step are batch, inputs"),
        (lambda: [3], descent, "The JAX run yields an int at step 0, expected a Step or a dict"),
        (lambda: None, descent, "The JAX run is a NoneType, expected a generator"),
        (lambda: [Step(loss=1.0), Start()], descent, "yields a Start after step 0"),
        (lambda: [Step(loss="low")] * 4, descent, "loss is a str, expected arrays of numbers"),
        (lambda: [Step(loss=1.0)] * 4, lambda: [Step(terms={"a": 1.0})] * 4, "be compared: loss, which only"),
        (lambda: [Step()] * 4, lambda: [Step()] * 4, "nothing that can be compared: their steps are empty"),
        (lambda: descent(loss=np.nan), lambda: descent(loss=np.nan), "loss of both runs is NaN or infinite at step 0"),
        (lambda: descent(parameters={"v": np.ones(4)}), descent, "parameter 'v', \\[4\\], has no namesake"),
        (lambda: descent(dtype=np.float32), lambda: descent(dtype=np.float32), "neither can be started again"),
        (lambda: descent(dtype=np.float16), lambda: descent(dtype=np.float16), "are in float16, in which two"),
        (descent, lambda: descent(optimizer_state=torch.optim.SGD([UNNAMED])), "no parameter of the module"),
        (descent, lambda: descent(optimizer_state=torch.optim.SGD([UNNAMED]).state_dict() | {"x": UNNAMED}), "itself"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(left: Any, right: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        compared(left, right)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": "4"}, {"module": 3}])
def test_bad_options_are_one_sentence(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        compared(descent(), descent(), **options)
    with pytest.raises(InputError, match="jax_run: expected a generator"):
        compared(3, descent())


def test_an_exception_of_a_run_keeps_its_traceback_and_says_whose_it_is() -> None:
    def fails() -> Iterator[Step]:
        yield from descent(steps=2)
        raise ZeroDivisionError("of my own")

    with pytest.raises(ModelError, match="The PyTorch run, step 2, raised ZeroDivisionError: of my own") as error:
        compared(descent(), fails)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_nan_in_one_run_is_a_difference_and_in_both_the_end_of_the_comparison() -> None:
    report = compared(descent(), descent(loss=float("nan")))
    assert (report.step, report.quantity) == (0, "loss")
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "the loss is NaN or infinite in PyTorch alone"

    def ends() -> list[Step]:
        return [step._replace(loss=np.nan) if i == 2 else step for i, step in enumerate(descent())]

    report = compared(ends, ends)
    assert report.passed
    assert report.about["steps"] == 2
    assert report.not_compared == ("step 2 and all after it, since the loss of both is NaN or infinite there",)


def started(
    start: Start | None, rate: float = 0.1, wrong_at: int = -1, dtype: Any = np.float64
) -> Iterator[Step | Start]:
    """A logistic map per parameter, in which differences double with each step, and which can be started again."""
    w = np.linspace(0.2, 0.8, 4).astype(dtype)
    if start is None:
        yield Start(parameters={"w": w})
    else:
        w = np.asarray(start.parameters["w"], dtype)
    for step in range(0 if start is None else start.step, 40):
        w = (dtype(3.9) * w * (1 - w)).astype(dtype)
        if step == wrong_at:
            w = (w * dtype(1 + 1e-10 if dtype is np.float64 else 1 + 1e-4)).astype(dtype)
        yield Step(parameters={"w": w}, loss=w.sum())


def mirrored(start: Start | None, **options: Any) -> Iterator[Step | Start]:
    """The same, rounded otherwise."""
    yield from started(start, **options)


def other_rounding(start: Start | None, dtype: Any = np.float64) -> Iterator[Step | Start]:
    w = np.linspace(0.2, 0.8, 4).astype(dtype) if start is None else np.asarray(start.parameters["w"], dtype)
    if start is None:
        yield Start(parameters={"w": w})
    for _ in range(0 if start is None else start.step, 40):
        w = (dtype(3.9) * w - dtype(3.9) * w * w).astype(dtype)
        yield Step(parameters={"w": w}, loss=w.sum())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_chaos_alone_is_no_difference(dtype: Any) -> None:
    """Two roundings of one formula, of which the difference grows to 1e-6 in float64 and to 1 in float32."""
    report = compare_runs(
        lambda start: started(start, dtype=dtype), lambda start: other_rounding(start, dtype), steps=40
    )
    assert report.passed, str(report)
    assert max(finding.size for finding in report.findings) > 1e-8


@pytest.mark.parametrize(("dtype", "step"), [(np.float64, 17), (np.float32, 20)])
def test_a_small_difference_that_grew_is_found_where_it_began(dtype: Any, step: int) -> None:
    """States are carried across: the step is the one whose own work differs."""
    report = compare_runs(
        lambda start: started(start, dtype=dtype),
        lambda start: started(start, wrong_at=step, dtype=dtype),
        steps=40,
    )
    assert (report.step, report.passed) == (step, False), str(report)


def test_a_run_that_does_not_repeat_itself_has_no_noise_floor() -> None:
    random = np.random.default_rng(0)

    def drawn(start: Start | None) -> Iterator[Step | Start]:
        for yielded in started(start, dtype=np.float32):
            yield yielded if isinstance(yielded, Start) else yielded._replace(loss=np.float32(random.random()))

    report = compare_runs(lambda start: started(start, dtype=np.float32), drawn, steps=40)
    assert (report.step, report.quantity) == (0, "loss")
    assert "started again from its own state before step 0, differs there in the loss" in report.not_compared[0]
    with pytest.raises(InputError, match="The noise floor of the float32 runs can't be measured: the PyTorch run"):
        compare_runs(drawn, drawn, steps=40)


def test_runs_that_start_elsewhere_part_before_the_first_step() -> None:
    def moved(start: Start | None) -> Iterator[Step | Start]:
        for yielded in started(start):
            yield Start(parameters={"w": np.ones(4)}) if isinstance(yielded, Start) else yielded

    report = compare_runs(started, moved, steps=4)
    assert (report.step, report.quantity) == (-1, "parameters")
    assert "start from other weights" in str(report)


def test_names_and_layouts_are_those_of_the_module() -> None:
    """Kernels are transposed, an optimizer's slots are named after its parameters, a mapping gives other names."""
    net = nn.Linear(3, 2).double()
    kernel, bias = net.weight.detach().numpy().T, net.bias.detach().numpy()
    moments = [{"mu": {"layer": {"kernel": 2 * kernel, "bias": bias}}}]
    in_jax = Step(parameters={"params": {"layer": {"kernel": kernel, "bias": bias}}}, optimizer_state=moments)
    held = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    slots = {"exp_avg": {"weight": 2 * held["weight"], "bias": held["bias"]}}
    in_torch = Step(parameters=held, optimizer_state=slots)
    report = compare_runs(
        [in_jax], [in_torch], steps=1, module=net, mapping=[("layer/(bias)", r"\1"), ("layer/kernel", "weight")]
    )
    assert report.passed, str(report)
    assert not report.not_compared
    slots["exp_avg"]["bias"] += 1
    report = compare_runs(
        [in_jax], [in_torch], steps=1, module=net, mapping={"layer/bias": "bias", "layer/kernel": "weight"}
    )
    assert report.diagnosis is not None
    assert report.diagnosis.where == "Step 0, optimizer state, first moment of bias"
    with pytest.raises(InputError, match="'layer/bias', \\[2\\], has no namesake"):
        compare_runs([in_jax], [in_torch], steps=1)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_state_is_given_back_in_the_structure_in_which_it_was_yielded(averaged: bool) -> None:
    """Of modules, averaged modules and optimizers it is a state dict that they load."""
    seen = []

    def run(start: Start | None) -> Iterator[Step | Start]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        average = torch.optim.swa_utils.AveragedModel(net) if averaged else nn.Sequential(nn.Linear(2, 2))
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        if start is None:
            yield Start(parameters=net, ema=average if averaged else None)
        else:
            net.load_state_dict(start.parameters)
            if averaged:
                average.load_state_dict(start.ema)
            if start.step:
                optimizer.load_state_dict(start.optimizer_state)
            seen.append(start.step)
        for step in range(start.step if start else 0, 4):
            x = torch.from_numpy(np.random.default_rng(step).normal(size=(5, 2))).float()
            loss = (net(x) ** 2).mean() + (net[0](x) ** 4).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if isinstance(average, torch.optim.swa_utils.AveragedModel):
                average.update_parameters(net)
            yield Step(loss=loss, parameters=net, optimizer_state=optimizer, ema=average if averaged else None)

    def tree(start: Start | None) -> Iterator[dict[str, Any]]:
        for yielded in run(None):
            assert start is None
            fields = yielded._asdict()
            if isinstance(yielded, Step):
                names = {id(p): name for name, p in yielded.parameters.named_parameters()}
                state = yielded.optimizer_state.state
                slots = {
                    slot: {names[id(p)]: held[slot].numpy().copy() for p, held in state.items()}
                    for slot in ("exp_avg", "exp_avg_sq")
                }
                every = {n: t.numpy(force=True).copy() for n, t in yielded.parameters.state_dict().items() if t.ndim}
                average = (
                    {n: t.numpy(force=True) for n, t in yielded.ema.module.state_dict().items()} if averaged else None
                )
                yield fields | {
                    "optimizer_state": slots,
                    "parameters": every,
                    "ema": average,
                    "loss": yielded.loss.item(),
                }

    report = compare_runs(lambda: tree(None), run, steps=4, mapping=[("(.*)/(.*)", r"\1.\2", as_is)])
    assert report.passed, str(report)
    assert seen


def constant(**fields: Any) -> list[Step]:
    """Four steps with these fields, of which a function gives that of each step."""
    return [Step(**{name: f(i) if callable(f) else f for name, f in fields.items()}) for i in range(4)]


IMAGES = np.random.default_rng(0).random((4, 3, 5, 6))
SLICES = IMAGES.reshape(12, 5, 6)
KERNEL = np.array([[2.0, 1.0], [5.0, 1.0]])
TWO = {"w": np.array([3.0, 4.1]), "v": np.ones(2)}


@pytest.mark.parametrize(
    ("left", "right", "cause"),
    [
        ({"batch": lambda i: ROWS[:6]}, {"batch": lambda i: ROWS[5::-1]}, "the same rows in another order"),
        ({"batch": lambda i: ROWS[:6]}, {"batch": lambda i: ROWS[:4]}, "another size: 6 rows in JAX and 4 in PyTorch"),
        ({"batch": lambda i: ROWS[i : i + 3]}, {"batch": lambda i: ROWS[i + 1 : i + 4]}, "PyTorch are 1 step ahead"),
        ({"inputs": SLICES}, {"inputs": SLICES.swapaxes(1, 2)}, "have JAX's axes in the order (0, 2, 1)"),
        ({"inputs": IMAGES}, {"inputs": IMAGES[..., ::-1]}, "inputs is mirrored, left and right"),
        ({"inputs": IMAGES}, {"inputs": (IMAGES - 0.5) / 0.25}, "PyTorch's inputs are 4 times JAX's - 2"),
        (
            {"inputs": IMAGES, "loss": 3.0, "terms": {"nll": 1.0, "kl": 2.0}},
            {"inputs": IMAGES, "loss": 9.0, "terms": {"nll": 1.0, "kl": 8.0}},
            "the term kl of the loss differs, and no other: it is 4 times as large (rows of the batch",
        ),
        (
            {"inputs": IMAGES, "loss": 1.0, "terms": {"kl": 1.0}},
            {"inputs": IMAGES, "loss": 1.0, "terms": {"kl": 4.0}},
            "the term kl is 4 times as large (rows of the batch: a sum for a mean) in PyTorch, and the loss is",
        ),
        ({"batch": IMAGES, "loss": 1.0}, {"batch": IMAGES, "loss": 4.0}, "the loss is 4 times as large (rows of the"),
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}, "2 times as large in PyTorch, at every step"),
        (
            {"learning_rate": {"body": 0.1, "head": 0.2}},
            {"learning_rate": {"body": 0.2, "head": 0.1}},
            "the learning rates of body and head are exchanged: 0.1 of body in JAX",
        ),
        ({"gradients": {"w": KERNEL}}, {"gradients": {"w": KERNEL.T}}, "w is transposed in PyTorch"),
        (
            {"gradients": TWO},
            {"gradients": {name: 4 * array for name, array in TWO.items()}},
            "every gradient is 4 times as large in PyTorch",
        ),
        ({"loss": 3.1}, {"loss": float(np.float32(3.1))}, "the loss is computed in float32 in PyTorch only"),
    ],
)  # fmt: skip
def test_a_cause_is_named(left: dict[str, Any], right: dict[str, Any], cause: str) -> None:
    report = compared(constant(**left), constant(**right))
    assert not report.passed
    assert report.diagnosis is not None
    assert cause in (report.diagnosis.cause or ""), str(report)


def test_a_transposed_start_is_named() -> None:
    w = np.arange(9.0).reshape(3, 3)
    in_jax, in_torch = ([Start(parameters={"w": a}), *constant(loss=1.0, parameters={"w": a})] for a in (w, w.T))
    report = compared(in_jax, in_torch)
    assert (report.step, report.quantity) == (-1, "parameters")
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "w is transposed in PyTorch"


def test_an_average_under_other_names_than_the_parameters_is_refused() -> None:
    def run(as_array: Any) -> Iterator[Step]:
        yield Step(parameters={"g": {"w": as_array([1.0, 2.0])}}, ema={"w": as_array([1.0, 2.0])})

    with pytest.raises(InputError, match=r"none of the names in its ema is a parameter's, as 'g.w' is: found 'w'"):
        compare_runs(run(np.array), run(torch.tensor), steps=1)
