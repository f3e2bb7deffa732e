"""A command's programs are found by the next command, without a trace, and are the same programs."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae
from jaxvae import compilation, devices, train
from jaxvae.compilation import program
from parity_tests.support.warm import python

SPEC = jaxvae.preset("pytorch-examples", hidden=(8,), latent=2)


class Counted:
    """A function as each new process sees it, and how often it was traced in all of them."""

    def __init__(self) -> None:
        self.traces = 0

    def in_a_process(self) -> Any:
        def scaled(spec: Any, state: dict, times: Any, key: Any = None, optimizer: Any = None) -> Any:
            self.traces += 1
            drawn = 0 if key is None else jax.random.normal(key, state["w"].shape, state["w"].dtype)
            return {"w": state["w"] * times + drawn}, times

        return program(["spec", "optimizer"], ["state"])(scaled)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXVAE_PROGRAMS", "1")
    monkeypatch.setattr(compilation, "_folder", None)
    devices._replace_unreadable(tmp_path)  # or JAX takes programs of the session's folder
    compilation.keep_in(tmp_path / "programs")
    return tmp_path / "programs"


def test_a_program_is_traced_once_for_all_processes(folder: Path) -> None:
    counted, key = Counted(), jax.random.key(3)
    for process in range(3):
        function, given = counted.in_a_process(), {"w": jnp.arange(3.0)}
        (result, times), was = function(SPEC, given, 2, key=key), given["w"]
        expected = np.arange(3.0) * 2 + jax.random.normal(jax.random.key(3), (3,), was.dtype)
        np.testing.assert_array_equal(result["w"], expected)
        assert (int(times), was.is_deleted(), counted.traces) == (2, True, 1), process
        assert function(SPEC, {"w": jnp.ones(3)}, 5, key)[0]["w"].shape == (3,)
    assert len(list(folder.iterdir())) == 2


def test_what_a_program_depends_on_is_told_apart(folder: Path) -> None:
    counted = Counted()
    other = jaxvae.preset("pytorch-examples", hidden=(8,), latent=2, beta=2.0)
    calls = [(SPEC, jnp.ones(3), 2), (SPEC, jnp.ones(4), 2), (SPEC, jnp.ones(3), 2.0), (SPEC, jnp.ones(3, "int32"), 2)]
    calls += [(other, jnp.ones(3), 2), (SPEC, jnp.ones(3), jnp.float32(2))]
    for count, (spec, w, times) in enumerate([*calls, *calls], start=1):
        result = counted.in_a_process()(spec, {"w": jnp.copy(w)}, times)[0]["w"]
        expected = jax.jit(lambda w, times: w * times)(w, times)
        assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
        assert counted.traces == min(count, len(calls))


def test_a_program_of_other_code_or_settings_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    call = lambda: counted.in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)  # noqa: E731
    call()
    with jax.default_matmul_precision("float32"):
        call()
    assert counted.traces == 2
    with monkeypatch.context() as other:
        other.setattr(compilation, "_begun", lambda: b"another version")
        call()
    assert counted.traces == 3
    with jax.disable_jit():
        call()
    with jax.debug_nans(True):
        call()
    constants = "jax_use_simplified_jaxpr_constants"  # which leaves their numbers out of a program's text
    try:
        jax.config.update(constants, True)
        kept = len(list(folder.iterdir()))
        call()
        assert len(list(folder.iterdir())) == kept
    finally:
        jax.config.update(constants, False)
    assert (before := counted.traces) >= 5
    call()
    assert counted.traces == before


def test_the_digest_is_of_the_packages_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "__file__", str(tmp_path / "compilation.py"))
    digest = compilation._begun.__wrapped__
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "a.py").write_text("1")
    before = digest()
    assert digest() == before
    (tmp_path / "shared" / "a.py").write_text("2")
    assert digest() != before
    (tmp_path / "shared" / "a.py").write_text("1")
    for name, value in (("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"), ("NPROC", "1")):
        with monkeypatch.context() as other:
            other.setenv(name, value)
            assert digest() != before, name


def test_a_program_is_compiled_for_settings_that_its_text_does_not_have(folder: Path) -> None:
    call = lambda: Counted().in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)  # noqa: E731
    programs = lambda: {file.stat().st_ino for file in folder.iterdir()}  # noqa: E731
    setting = "jax_disable_most_optimizations"
    before = jax.config.values[setting]
    call()
    assert len(programs()) == 1
    try:
        jax.config.update(setting, not before)
        call()
    finally:
        jax.config.update(setting, before)
    assert len(programs()) == 2


def test_a_command_keeps_nothing_of_files_that_were_changed_since_it_started(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "package"
    code.mkdir()
    monkeypatch.setattr(compilation, "__file__", str(code / "compilation.py"))
    monkeypatch.setattr(compilation, "_begun", compilation._begun.__wrapped__)
    call = lambda: Counted().in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)  # noqa: E731
    call()  # as where Python finds no source
    (code / "nets.py").write_text("")
    call()
    assert not list(folder.iterdir())
    monkeypatch.setattr(compilation, "_STARTED", (code / "nets.py").stat().st_ctime + 1)
    (code / ".#nets.py").symlink_to("user@host.1")  # an editor's lock
    call()
    assert list(folder.iterdir())


def test_a_program_is_taken_from_a_folder_that_is_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("read-only file system")

    counted = Counted()
    for _ in range(2):
        counted.in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)
        monkeypatch.setattr(os, "utime", refuse)
    assert counted.traces == 1
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["shorter", "flipped", "empty", "another's"])
def test_a_damaged_program_is_replaced(folder: Path, damage: str) -> None:
    counted = Counted()
    call = lambda: counted.in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)[0]["w"]  # noqa: E731
    call()
    (whole,) = {file.read_bytes() for file in folder.iterdir()}
    for file in folder.iterdir():
        damaged = {
            "shorter": whole[:-9],
            "flipped": whole[:500] + bytes([whole[500] ^ 1]) + whole[501:],
            "empty": b"",
            "another's": whole[:32] + b"pickle",
        }[damage]
        file.unlink()
        file.write_bytes(damaged)
    np.testing.assert_array_equal(call(), 2 * np.ones(3))
    assert counted.traces == 2
    np.testing.assert_array_equal(call(), 2 * np.ones(3))
    assert counted.traces == 2


def test_what_cannot_be_known_again_is_not_kept(folder: Path) -> None:
    class Part:
        record = ("a part of one's own",)

    counted, own = Counted(), jaxvae.preset("pytorch-examples", hidden=(8,), latent=2)
    vars(own.model)["parts"] = Part()
    for given in ({"spec": own}, {"spec": SPEC, "optimizer": optax.sgd(0.1)}):
        counted.in_a_process()(state={"w": jnp.ones(3)}, times=2, **given)
    assert not list(folder.iterdir())
    with pytest.raises(TypeError, match="spek"):
        counted.in_a_process()(spek=SPEC, state={}, times=2)
    assert jax.vmap(lambda w: counted.in_a_process()(SPEC, {"w": w}, 2)[0]["w"])(jnp.ones((2, 3))).shape == (2, 3)
    assert not list(folder.iterdir())


def test_the_oldest_programs_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_MOST", 4)
    (folder / "another's").mkdir()
    os.utime(folder / "another's", (0, 0))
    counted = Counted()
    for size in range(1, 6):
        counted.in_a_process()(SPEC, {"w": jnp.ones(size)}, 2)
    assert len(list(folder.iterdir())) <= 7
    counted.in_a_process()(SPEC, {"w": jnp.ones(5)}, 2)
    assert counted.traces == 5
    counted.in_a_process()(SPEC, {"w": jnp.ones(1)}, 2)
    assert counted.traces == 6


def test_only_commands_keep_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_folder", None)
    monkeypatch.delenv("JAXVAE_PROGRAMS", raising=False)
    compilation.keep_in(tmp_path / "programs")
    Counted().in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)
    assert not (tmp_path / "programs").exists()


def test_no_program_is_taken_from_a_folder_that_others_can_write_to(folder: Path) -> None:
    counted = Counted()
    counted.in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)
    folder.chmod(0o777)
    compilation.keep_in(folder)
    counted.in_a_process()(SPEC, {"w": jnp.ones(3)}, 2)
    assert counted.traces == 2


@pytest.mark.parametrize("kept", [False, True])
def test_large_products_alone_are_compiled_with_their_option(
    kept: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(compilation, "_folder", None)
    monkeypatch.setattr(compilation, "_UNFUSED", {"xla_of_another_version": ""})
    monkeypatch.setattr(compilation, "_knows_unfused", compilation._knows_unfused.__wrapped__)
    twice = compilation.program(large=lambda given: len(given["x"]) > 2)(lambda x: 2 * x)
    twice(jnp.ones(3))  # an option that XLA doesn't know is not asked for
    monkeypatch.setattr(compilation, "_knows_unfused", lambda: True)
    twice(jnp.ones(2))
    jax.jit(twice)(jnp.ones(4))  # a program within another has no options
    with monkeypatch.context() as other:
        other.setenv("XLA_FLAGS", "--xla_of_another_version=x")
        twice(jnp.ones(5))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_another_version"):
        twice(jnp.ones(6))


@pytest.mark.parametrize(("batch", "devices", "large"), [(2_048, 1, True), (2_047, 1, False), (2_048, 2, False)])
def test_a_batch_is_large_by_what_a_device_has_of_it(
    batch: int, devices: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "shares", lambda: devices)
    spec = replace(SPEC, training=replace(SPEC.training, batch_size=batch))
    assert train._large({"spec": spec}) is large


# What a command traces, as JAX tells of it; whether it imported Flax; and whether its end is spared a garbage search.
COMMAND = """
import atexit, gc, sys, jax
traced = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **told: traced.append(told.get("fun_name")) if "jaxpr_trace" in event else None
)
from jaxvae import __main__
sys.argv = ["jaxvae", *sys.argv[1:]]
atexit.register(lambda: print("spared" if gc.get_freeze_count() > 100_000 else "", file=sys.stderr))
try:
    __main__.main()
finally:
    print(*sorted({str(name) for name in traced} | {"flax"} & set(sys.modules)), file=sys.stderr)
"""


def interpreter(*arguments: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program in a new process, which has imported nothing."""
    return subprocess.run([sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True, check=False)


def test_the_second_command_traces_none_of_its_programs_and_does_not_import_flax(tmp_path: Path) -> None:
    flags = "--data digits --epochs 1 --hidden 8 --latent 2 --train-images 200 --device cpu"
    of_the_tests = ("JAX_", "JAXVAE_PROGRAMS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(of_the_tests)}
    runs = []
    for name, run in (("a", python), ("b", interpreter)):
        result = run(
            *("-c", COMMAND, "train", *flags.split(), "--out", tmp_path / name),
            env={**clean, "XDG_CACHE_HOME": str(tmp_path / "cache"), "XLA_FLAGS": os.environ["XLA_FLAGS"]},
        )
        assert result.returncode == 0, result.stderr
        runs.append((set(result.stderr.split()), (tmp_path / name / "model.safetensors").read_bytes()))
    ours = {"_wrapped", "_first_state", "epoch_order", "train_epoch", "_finite", "_in_stream", "_terms"}
    ours |= {"_sampled", "_reconstructed"}
    assert ours <= runs[0][0]
    assert not (ours | {"flax"}) & runs[1][0]
    assert "spared" in runs[1][0]
    assert runs[0][1] == runs[1][1]
