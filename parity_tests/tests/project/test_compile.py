"""Compiling for accelerators: what is read of a program's text, and what the programs must be on GPUs and TPUs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import compile as command
from compiling import devices
from compiling.estimate import estimate
from compiling.hlo import Product, Program

ROOT = Path(__file__).parents[3]
TEXT = """HloModule small, entry_computation_layout={()->f32[]}

%fused (param_0.1: f32[100,8], param_1.1: s32[]) -> f32[4,8] {
  %param_0.1 = f32[100,8]{1,0} parameter(0)
  %param_1.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %taken = f32[4,8]{1,0} dynamic-slice(%param_0.1, %param_1.1, %zero), dynamic_slice_sizes={4,8}
  ROOT %twice = f32[4,8]{1,0} add(%taken, %taken)
}

%step (arg: (s32[], f32[100,8], f32[8,2], f32[4,2])) -> (s32[], f32[100,8], f32[8,2], f32[4,2]) {
  %arg = (s32[], f32[100,8]{1,0}, f32[8,2]{1,0}, f32[4,2]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %rows = f32[100,8]{1,0} get-tuple-element(%arg), index=1
  %weights = f32[8,2]{1,0} get-tuple-element(%arg), index=2
  %x = f32[4,8]{1,0} fusion(%rows, %i), kind=kLoop, calls=%fused
  %y = f32[4,2]{1,0} dot(%x, %weights), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}
  %sum = f32[4,2]{1,0} all-reduce(%y), replica_groups={}, to_apply=%add
  %same = f32[4,2]{1,0} copy(%sum)
  ROOT %next = (s32[], f32[100,8]{1,0}, f32[8,2]{1,0}, f32[4,2]{1,0}) tuple(%i, %rows, %weights, %same)
}

%more (arg.1: (s32[], f32[100,8], f32[8,2], f32[4,2])) -> pred[] {
  %arg.1 = (s32[], f32[100,8]{1,0}, f32[8,2]{1,0}, /*index=3*/f32[4,2]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: (s32[], f32[100,8], f32[8,2], f32[4,2])) -> (s32[], f32[100,8], f32[8,2], f32[4,2]) {
  %a = (s32[], f32[100,8]{1,0}, f32[8,2]{1,0}, f32[4,2]{1,0}) parameter(0)
  %known = (s32[], f32[100,8]{1,0}, f32[8,2]{1,0}, f32[4,2]{1,0}) while(%a), condition=%more, body=%step, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %unknown = (s32[], f32[100,8]{1,0}, f32[8,2]{1,0}, f32[4,2]{1,0}) while(%known), condition=%more, body=%step
}
"""  # noqa: E501


def test_a_programs_loops_kernels_and_bytes_are_counted() -> None:
    program = Program(TEXT)
    assert [(loop.depth, loop.trips) for loop in program.loops()] == [(1, 5), (1, None)]
    step = program.work("step")
    part, weights, result = 4 * 8 * 4, 8 * 2 * 4, 4 * 2 * 4
    # Of the 100 rows, the four that are taken.
    assert step.kernels == [("x", part + 4 + part, 32), ("y", part + weights + result, 2 * 4 * 2 * 8)]
    assert step.products == [Product("dot", "[4, 2] over 8", "f32", "highest", 128)]
    assert [one.bytes for one in step.collectives] == step.copies == [result]
    whole = program.work()
    assert (len(whole.kernels), whole.waits) == (2 * (5 + 1), 1)


@pytest.mark.parametrize(
    ("asked", "precision"), [(" operand_precision={highest,highest},", "highest"), ("", "default")]
)
def test_a_librarys_convolution_has_the_precision_that_it_was_asked_for(asked: str, precision: str) -> None:
    program = Program(f"""ENTRY %main (x: f32[2,8,8,3], k: f32[4,3,3,3]) -> (f32[2,4,4,4], u8[0]) {{
  %x = f32[2,8,8,3]{{3,2,1,0}} parameter(0)
  %k = f32[4,3,3,3]{{3,2,1,0}} parameter(1)
  ROOT %y = (f32[2,4,4,4]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %k), window={{size=3x3 stride=2x2 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f,{asked} custom_call_target="__cudnn$convForward"
}}
""")  # noqa: E501
    ((kind, _, _, found, operations),) = program.work().products
    assert (kind, found, operations) == ("cudnn convForward", precision, 2 * 2 * 4 * 4 * 4 * 27)


@pytest.mark.parametrize(
    ("target", "operands", "result"),
    [
        ("convBiasActivationForward", ["2,8,8,3", "4,3,3,3", "4"], "2,4,4,4"),
        ("convBackwardInput", ["2,4,4,4", "4,3,3,3"], "2,8,8,3"),
        ("convBackwardFilter", ["2,8,8,3", "2,4,4,4"], "4,3,3,3"),
    ],
)
def test_the_gradients_of_a_convolution_are_as_many_operations(target: str, operands: list[str], result: str) -> None:
    given = "".join(f"  %p{i} = f32[{dims}] parameter({i})\n" for i, dims in enumerate(operands))
    names, asked = ", ".join(f"%p{i}" for i in range(len(operands))), ["highest", "highest", "default"][: len(operands)]
    program = Program(f"""ENTRY %main (x: f32[]) -> (f32[{result}], u8[0]) {{
{given}  ROOT %y = (f32[{result}], u8[0]{{0}}) custom-call({names}), window={{size=3x3 stride=2x2 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f, operand_precision={{{",".join(asked)}}}, custom_call_target="__cudnn${target}"
}}
""")  # noqa: E501
    ((_, shape, _, precision, operations),) = program.work().products
    assert shape == f"3x3 to 4 features, [{result.replace(',', ', ')}]"
    assert (precision, operations) == ("highest", 2 * 2 * 4 * 4 * 4 * 27)


def test_an_estimate_is_of_the_longest_of_launch_bytes_and_operations() -> None:
    step, target = Program(TEXT).work("step"), devices.target("h100:8")
    h100 = target.device
    found = estimate(step, target, counted_waits=True)
    assert found.kernels == pytest.approx(3 * h100.launch)  # small kernels and a copy
    assert found.communication == pytest.approx(h100.latency + 32 * 2 * 7 / 8 / h100.link)
    assert found.waits == h100.wait
    large = [("large", int(h100.bandwidth), 0)]
    step.kernels[:] = large
    assert estimate(step, target, counted_waits=False).kernels == pytest.approx(1 + h100.launch)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--for", "h10"], "There is no device 'h10' (did you mean h100?); choose one of h100, "),
        (
            ["--for", "h100:2x4"],
            "--for 'h100:2x4' has no arrangement of devices that XLA knows; give one such as h100:8.",
        ),
        (["--for", "v5e:8"], "--for 'v5e:8' has no arrangement of devices that XLA knows; give one such as v5e:2x4."),
        (["--for", "h100:2", "--devices", "3"], "--devices must be from 1 to the 2 of --for h100:2, found 3."),
        (
            ["--for", "h100", "--xla", "fast"],
            "--xla takes NAME=VALUE such as xla_gpu_enable_triton_gemm=false, found 'fast'.",
        ),
        (["--for", "h100", "--preset", "nope"], "nope"),
        (["--for", "h100:3"], "A batch of 128 images can't be shared equally by 3 devices; choose a --batch-size"),
        (
            ["--for", "h100", "--shard", "parameters"],
            "--shard parameters needs several devices to divide them among, found 1; give more, such as --for h100:8.",
        ),
        (["--json", "none/a.json"], "none/a.json can't be written: the folder "),
        (["--text", "none"], "--text none is no folder; make it, or give another."),
        (["--for", "h100", "--images", "0"], "--images and --members must be at least 1."),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys, arguments: list[str], says: str) -> None:
    assert command.command(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("compile: ")) == ("", 1, True)
    assert says in err


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is not None, reason="the extra is installed")
def test_without_the_extra_it_says_what_is_missing(capsys, monkeypatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert command.command(["--for", "a100"]) == 2
    assert "needs jax's CUDA plugin, which is not here; pip install -e '.[compile]'" in capsys.readouterr().err


def compiled(tmp_path: Path, *arguments: str) -> dict:
    """Compile in a process of its own, whose JAX knows the plugins, and return the figures."""
    out = tmp_path / "figures.json"
    program = [sys.executable, str(ROOT / "scripts/compile.py"), "--images", "1000", "--json", str(out), *arguments]
    # As a user compiles: libtpu ends at flags that are the CPU compiler's.
    environment = {**os.environ, "XLA_FLAGS": os.environ["PARITY_TESTS_XLA_FLAGS"]}
    subprocess.run(program, check=True, capture_output=True, text=True, env=environment)
    (figures,) = json.loads(out.read_text())
    return figures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("pytorch-examples", ()),
        ("conv", ()),
        ("iwae-paper", ()),
        ("dropout", ("--batch-size", "900", "--images", "9000")),
    ],
)
def test_no_loop_over_steps_asks_the_host_on_a_gpu(tmp_path, preset: str, more: tuple[str, ...]) -> None:
    assert not compiled(tmp_path, "--for", "h100", "--preset", preset, *more)["waits"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "preset"),
    [
        ("h100:8", "pytorch-examples"),
        ("v5e:2x4", "pytorch-examples"),
        ("h100:8", "iwae"),
        ("h100:8", "gaussian-learned"),
    ],
)
def test_a_step_of_several_devices_has_one_all_reduce(tmp_path, target: str, preset: str) -> None:
    collectives = compiled(tmp_path, "--for", target, "--preset", preset, "--batch-size", "1024")["collectives"]
    assert [one["kind"] for one in collectives] == ["all-reduce"]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "most"), [("iwae", 100), ("pictures", 260)])
def test_no_step_derives_keys_on_a_tpu(tmp_path, preset: str, most: int) -> None:
    """Within the step they were 235 kernels more of each."""
    assert compiled(tmp_path, "--for", "v5e:2x4", "--preset", preset, "--batch-size", "1024")["kernels"] <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision", "asked"),
    [
        ("h100", "float32", "highest"),
        ("h100", "bf16x3", "dot_bf16_bf16_f32_x3"),
        ("v5e:2x2", "float32", "highest"),
        ("v5e:2x2", "bf16x3", "high"),
    ],
)
def test_products_are_of_the_precision_that_is_asked_for(tmp_path, target: str, precision: str, asked: str) -> None:
    products = compiled(tmp_path, "--for", target, "--precision", precision)["products"]
    assert {product["precision"] for product in products} == {asked}


@pytest.mark.slow
@pytest.mark.parametrize("generated", ["true", "false"])
def test_a_step_of_the_default_preset_is_at_most_28_kernels(tmp_path, generated: str) -> None:
    """Of which 11 are products, generated or the library's."""
    found = compiled(tmp_path, "--for", "h100", "--xla", f"xla_gpu_enable_triton_gemm={generated}")
    assert (found["kernels"], len(found["products"]), found["copies"]) <= (28, 11, 0)


@pytest.mark.slow
def test_a_sweep_is_one_program_whose_products_are_batched(tmp_path) -> None:
    """Of 32 members, in at most twice the kernels of one."""
    found = compiled(tmp_path, "--for", "h100", "--program", "sweep")
    assert (found["kernels"], found["copies"], found["waits"]) <= (2 * 28, 0, False)
    assert {product["shape"].partition(" x ")[0] for product in found["products"]} == {"32"}


@pytest.mark.slow
def test_nothing_is_transposed_around_a_convolution(tmp_path) -> None:
    found = compiled(tmp_path, "--for", "h100", "--preset", "conv", "--text", str(tmp_path))
    assert not found["copies"]
    assert len([one for one in found["products"] if one["kind"].startswith("cudnn")]) == 20
    (text,) = tmp_path.glob("*.txt")
    program = Program(text.read_text(encoding="utf-8"))
    steps = max((loop for loop in program.loops() if loop.depth == 2), key=lambda loop: loop.trips or 0)
    assert not [name for name, *_ in program.work(steps.body).kernels if "transpose" in name]


@pytest.mark.slow
def test_sharded_parameters_take_an_eighth_and_are_gathered_and_scattered(tmp_path) -> None:
    flags = ["--for", "h100:8", "--hidden", "1024"]
    whole, sharded = (compiled(tmp_path, *flags, *shard) for shard in ([], ["--shard", "parameters"]))
    assert sharded["state_bytes"] < whole["state_bytes"] / 8 * 1.01
    kinds = {one["kind"] for one in sharded["collectives"]}
    assert kinds >= {"all-gather", "reduce-scatter"}
