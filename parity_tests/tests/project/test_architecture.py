"""The rules of the architecture: which way imports run, and that the two packages mirror each other."""

import ast
import dataclasses
import importlib
import inspect
import runpy
import tomllib
from pathlib import Path

import pytest

import jaxvae
import parity_tests
import torchvae
from jaxvae.shared.analysis.evaluation import MEASURES
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands.table import COMMANDS
from jaxvae.shared.runs import measures_record
from parity_tests.harness import modules
from parity_tests.harness.modules import compare, inputs
from parity_tests.support import quick_jax
from parity_tests.support.backends import lean
from parity_tests.support.cli import modules_after

ROOT = Path(__file__).parents[3]
FILES = [
    "checks",
    "keys",
    "draws",
    "distributions",
    "products",
    "layers",
    "operations",
    "networks",
    "nets",
    "objectives",
    "pixels",
    "augmentation",
    "updates",
    "train",
    "loop",
    "evaluate",
    "generate",
    "export",
    "params",
    "foreign",
    "gradients",
    "own",
    "library",
    "devices",
    "parallel",
]

# Why a public name or argument may stand on one side only. Everything else must be the same, in the same order.
EXCEPTIONS = {
    ("torchvae", "random"): "JAX has these streams built in",
    ("torchvae", "pickles"): "torch's files, which jaxvae reads through it in a process apart",
    ("torchvae", "compiled"): "jax.jit compiles every step",
    ("torchvae", "_public"): "jaxvae's stub reaches jaxvae.shared by relative imports",
    ("jaxvae", "convolution"): "XLA's own are slow on CPUs",
    ("jaxvae", "sweep"): "a torch model is trained in place, one at a time",
    ("jaxvae", "compilation"): "torch traces no programs",
    ("jaxvae", "packed"): "each kernel of a step is launched by torch itself, but for torch.compile",
    ("jaxvae.checks", "names_tensors"): "jax.jit looks at arguments before the function does",
    ("jaxvae.augmentation", "views_key"): "a TPU derives the keys of many steps at once",
    ("jaxvae.augmentation", "viewed"): "the same",
    ("torchvae.train", "copied"): "a torch model is trained in place",
    ("torchvae.train", "MakeOptimizer"): "optax has a type for it",
    ("jaxvae.devices", "Device"): "PyTorch has a type for it",
    ("jaxvae.devices", "has_gpu"): "a torch tensor knows its device as it is computed with",
    ("jaxvae.devices", "require"): "JAX computes in float32 unless its 64-bit mode is on",
    ("torchvae.devices", "to_tensor"): "jnp.asarray takes all arrays alike",
    ("torchvae.devices", "device_of"): "JAX's arrays go where its default device is",
    ("jaxvae.products", "Product"): "for type checkers",
    ("jaxvae.products", "product"): "a layer of torch is told by a context",
    ("jaxvae.products", "dot_general"): "the same",
    ("torchvae.products", "in_precision"): "a layer of Flax is told by its attributes",
    ("torchvae.train", "spread"): "jaxvae.parallel has it, of any tree",
    ("jaxvae.parallel", "Tree"): "for type checkers",
    ("jaxvae.parallel", "whole"): "and all of the state",
    ("jaxvae.parallel", "rows_of"): "torch's rows are of the first dimension",
    ("jaxvae.parallel", "used"): "FSDP2 gathers by itself",
    ("jaxvae.parallel", "scattered"): "the same",
    ("jaxvae.parallel", "kept"): "a torch state keeps its place",
    ("jaxvae.parallel", "spread"): "torchvae.train has it, since it makes a model and optimizers",
    ("jaxvae.parallel", "complete"): "the same",
    ("torchvae.parallel", "sharded"): "a JAX array tells",
    ("torchvae.parallel", "rows"): "the same",
    ("torchvae.parallel", "all_rows"): "jaxvae.parallel.complete is of any tree",
    ("torchvae.parallel", "own_rows"): "jax.tree and XLA compute with sharded arrays alike",
    ("torchvae.parallel", "shard_layers"): "the same",
    ("torchvae.parallel", "total_norm"): "the same",
    ("torchvae.parallel", "scaled"): "the same",
    ("jaxvae.parallel", "placed"): "and all of the images",
    ("jaxvae.parallel", "everywhere"): "and all of the state",
    ("jaxvae.parallel", "local"): "the same",
    ("torchvae.parallel", "share_port"): "torchrun starts torch's processes",
    ("torchvae.parallel", "summed"): "XLA adds up by itself",
    ("torchvae.parallel", "sum_gradients"): "the same",
    ("jaxvae.layers", "Module"): "Flax's metaclass hides the arguments of a class",
    ("jaxvae.layers", "Module.__init_subclass__"): "the same",
    ("jaxvae.nets", "Params"): "a torch model is its own parameters",
    ("jaxvae.nets", "statistics"): "a torch module keeps them by itself",
    ("jaxvae.nets", "partition"): "a torch optimizer is given its tensors",
    ("jaxvae.nets", "combine"): "the same",
}
ARGUMENTS = {
    ("networks", "VAE.__init__"): ({"rngs"}, "Flax modules draw their first numbers from an argument"),
    ("networks", "Encoder.__init__"): ({"rngs"}, "the same"),
    ("networks", "Decoder.__init__"): ({"rngs"}, "the same"),
    ("networks", "ConvEncoder.__init__"): ({"rngs"}, "the same"),
    ("networks", "ConvDecoder.__init__"): ({"rngs"}, "the same"),
    ("networks", "LayersDecoder.__init__"): ({"rngs"}, "the same"),
    ("networks", "Discriminator.__init__"): ({"rngs"}, "the same"),
    ("layers", "make"): ({"rngs"}, "the same"),
    ("layers", "Block.__init__"): ({"rngs"}, "the same"),
    ("layers", "Block.forward"): ({"training"}, "torch's batch norm follows train() and eval()"),
    ("layers", "BatchNorm.forward"): ({"training"}, "the same"),
    ("nets", "bind"): (
        {"dtype", "precision", "wrap"},
        "torch.autocast and products.in_precision set them; FSDP2 wraps",
    ),
    ("parallel", "share"): ({"all_devices", "devices"}, "a torch process has one device"),
    ("train", "gathered"): ({"optimizer"}, "a torch optimizer is made of its tensors"),
    ("keys", "root_key"): ({"device"}, "torch draws where the key is"),
    ("train", "init_state"): ({"device"}, "the same"),
    ("augmentation", "augment"): ({"places"}, "XLA follows the images' rows"),
    ("train", "train_step"): ({"compile"}, "JAX compiles every step"),
    ("train", "train_epoch"): ({"compile"}, "the same"),
    ("loop", "fit"): ({"compile"}, "the same"),
    ("train", "make_optimizer"): ({"parameters", "learning_rate"}, "a torch optimizer holds both"),
    ("params", "optimizer_from_arrays"): ({"model"}, "the same"),
}
# The same thing in each framework's word: parameters are a dict there and a module here.
WORDS = {"params": "model", "opt_state": "optimizer"}
# Docstrings that say where the state lives, what is donated or updated in place, and which devices there are.
DESCRIBED_DIFFERENTLY = {
    "BatchNorm",
    *("root_key", "draw", "init", "bind", "init_optimizers", "make_optimizer", "init_state"),
    *("train_step", "train_epoch", "fit", "epoch_order", "training_loss", "augment"),
    *("split", "share"),
    *("load", "from_arrays", "optimizer_from_arrays", "prepare", "gathered"),
}


_lean = pytest.fixture(scope="module", autouse=True)(lean)


def every_file(package: str) -> str:
    """Imports of every file of a package, or of every file below a folder that has folders."""
    paths = (ROOT / package).glob("*.py") if package in ("jaxvae", "torchvae") else (ROOT / package).rglob("*.py")
    names = [
        path.relative_to(ROOT).with_suffix("").parts for path in paths if path.stem not in ("__init__", "__main__")
    ]
    return "; ".join(f"import {'.'.join(name)}" for name in sorted(names))


def test_importing_all_of_torchvae_leaves_jax_out() -> None:
    loaded = modules_after(f"import torchvae; torchvae.fit; {every_file('torchvae')}")
    assert "torch" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "optax"}


def test_importing_all_of_jaxvae_leaves_torch_out() -> None:
    loaded = modules_after(f"import jaxvae; jaxvae.fit; {every_file('jaxvae')}")
    assert "jax" in loaded
    assert not loaded & {"torch", "torchvision", "torchvae"}


def test_importing_all_of_shared_imports_neither_framework() -> None:
    loaded = modules_after(every_file("jaxvae/shared"))
    assert "numpy" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "optax", "torch", "torchvision", "torchvae", "sklearn"}


@pytest.mark.parametrize("package", ["jaxvae", "torchvae"])
def test_importing_a_package_or_asking_for_help_imports_no_framework(package: str) -> None:
    heavy = {"jax", "torch", "torchvision", "sklearn", "flax", "optax"}
    assert not modules_after(f"import {package}") & (heavy | {"numpy"})
    ask = f"import {package}, jaxvae.shared.cli as c\ntry: c.main({package}, ['--help'])\nexcept SystemExit: pass"
    assert not modules_after(ask) & heavy
    assert not modules_after("import parity_tests.harness.vae.command") & heavy


def test_importing_the_harness_imports_no_framework() -> None:
    assert not modules_after("import parity_tests; dir(parity_tests)") & {"jax", "flax", "torch", "numpy", "scipy"}


def test_the_configuration_and_the_data_need_no_framework() -> None:
    use = "p.preset('conv'), p.Spec(), p.load_data('digits'), p.InputError, p.__version__"
    for package in ("jaxvae", "torchvae"):
        assert not modules_after(f"import {package} as p; {use}") & {"jax", "jaxlib", "flax", "torch", "torchvision"}


def test_both_packages_export_the_shared_names_as_one_object() -> None:
    names = ["Spec", "ModelSpec", "ObjectiveSpec", "TrainingSpec", "ImagesSpec", "Dataset", "preset", "load_data"]
    for name in [*names, "mnist", "digits", "InputError", "NonFiniteError", "__version__"]:
        assert getattr(jaxvae, name) is getattr(torchvae, name)
        assert name in dir(jaxvae)
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert jaxvae.__version__ == written


def test_the_harness_exports_its_functions() -> None:
    assert parity_tests.assert_parity is compare.assert_parity
    assert parity_tests.compare_modules is compare.compare_modules
    assert parity_tests.ParityError is compare.ParityError
    assert parity_tests.Inputs is inputs.Inputs
    assert all(getattr(modules, name) is getattr(parity_tests, name) for name in modules.__all__)


def test_a_run_on_verified_mnist_imports_neither_torch_nor_torchvision(tmp_path, mnist_root) -> None:
    arguments = f"train --data mnist --data-root {mnist_root} --max-steps 1 --out {tmp_path / 'run'}".split()
    arguments += ["--hidden", "4", "--latent", "2"]
    loaded = modules_after(f"import jaxvae, jaxvae.shared.cli as c\nassert c.main(jaxvae, {arguments!r}) == 0")
    assert "jax" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn"}


def test_imports_between_files_run_one_way() -> None:
    """scripts, parity_tests -> jaxvae | torchvae -> jaxvae.shared -> numpy"""
    for path in [*(ROOT / "jaxvae").rglob("*.py"), *(ROOT / "torchvae").rglob("*.py")]:
        shared = "shared" in path.parts
        allowed = (
            ("jaxvae.shared",) if shared else ("jaxvae.shared", "torchvae" if "torchvae" in path.parts else "jaxvae")
        )
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                internal = name.partition(".")[0] in ("jaxvae", "torchvae", "parity_tests", "scripts")
                assert not internal or name.startswith(allowed), f"{path}: {name}"


ORDER = (
    *("version", "errors", "text", "plain_paths", "safe_io"),
    *("config", "model", "data", "runs", "backend", "plotting", "analysis"),
    *("training", "interop", "report", "commands", "library", "flag_errors", "cli"),
)
"""What stands in jaxvae/shared: each file or folder imports only what comes before it, or its own folder."""


def imported(path: Path) -> list[str]:
    """The modules a file imports, and the names it imports from them."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [
        f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) and n.module for a in n.names
    ]


def test_imports_within_shared_run_in_one_order() -> None:
    shared = ROOT / "jaxvae" / "shared"
    for path in shared.rglob("*.py"):
        place = path.relative_to(shared).parts[0].removesuffix(".py")
        for name in imported(path):
            if place != "__init__" and name.startswith("jaxvae.shared."):
                assert ORDER.index(name.split(".")[2]) <= ORDER.index(place), f"{path} imports {name}"


def test_what_tests_share_imports_no_test_and_the_harness_nothing_of_the_tests() -> None:
    tests = ROOT / "parity_tests"
    fences = {"harness": ("support", "faults", "corrupt", "tests"), "support": ("tests",), "faults": ("tests",)}
    for folder, others in {**fences, "corrupt": ("tests",)}.items():
        for path in (tests / folder).rglob("*.py"):
            wrong = [name for name in imported(path) if name.startswith(tuple(f"parity_tests.{o}" for o in others))]
            assert not wrong, f"{path} imports {wrong}"


def test_a_folder_has_twenty_files_at_most() -> None:
    for top in ("jaxvae/shared", "parity_tests", "scripts"):
        for folder in [ROOT / top, *(p for p in (ROOT / top).rglob("*") if p.is_dir())]:
            assert len(list(folder.glob("*.py"))) <= 20, folder


def public(tree: ast.Module) -> dict[str, ast.AST]:
    """A file's public names in their order, with those of its classes as CLASS.NAME."""
    names: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    names[f"{node.name}.{inner.name}"] = inner
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    names[f"{node.name}.{WORDS.get(inner.target.id, inner.target.id)}"] = inner
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node
    return {name: node for name, node in names.items() if not name.startswith("_")}


@pytest.mark.parametrize("file", FILES)
def test_the_two_sides_of_a_file_mirror_each_other(file: str) -> None:
    in_jax, in_torch = (public(ast.parse((ROOT / side / f"{file}.py").read_text())) for side in ("jaxvae", "torchvae"))
    in_jax = {name.replace("__call__", "forward"): node for name, node in in_jax.items()}
    keep = {
        side: [name for name in names if (f"{side}.{file}", name) not in EXCEPTIONS]
        for side, names in (("jaxvae", in_jax), ("torchvae", in_torch))
    }
    assert keep["jaxvae"] == keep["torchvae"]
    excepted = {(side, name) for side, name in EXCEPTIONS if side.endswith(f".{file}")}
    there = {(f"{side}.{file}", name) for side, names in (("jaxvae", in_jax), ("torchvae", in_torch)) for name in names}
    assert excepted <= there, "an exception that is no longer needed"
    for name in keep["jaxvae"]:
        a, b = in_jax[name], in_torch[name]
        if not isinstance(a, ast.FunctionDef | ast.ClassDef) or not isinstance(b, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(a, ast.FunctionDef) and isinstance(b, ast.FunctionDef):
            allowed = ARGUMENTS.get((file, name), (set(), ""))[0]
            mine, other = ([WORDS.get(n, n) for n in arguments(f) if n not in allowed] for f in (a, b))
            assert mine == other, f"{file}.{name}"
        if name not in DESCRIBED_DIFFERENTLY:
            assert _in_torchs_words(ast.get_docstring(a)) == ast.get_docstring(b), f"{file}.{name}"


def _in_torchs_words(text: str | None) -> str | None:
    """A docstring with the arguments that a torch model takes the place of."""
    text = text and text.replace("    params: The model's parameters.", "    model: The model.")
    return text and text.replace("    opt_state: The", "    optimizer: The")


def arguments(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]]


def test_every_file_is_mirrored_or_excepted() -> None:
    in_jax, in_torch = ({p.stem for p in (ROOT / side).glob("*.py")} for side in ("jaxvae", "torchvae"))
    for package, only in (("torchvae", in_torch - in_jax), ("jaxvae", in_jax - in_torch)):
        assert only == {name for side, name in EXCEPTIONS if side == package}
    assert (in_jax & in_torch) - {"__init__", "__main__"} == set(FILES)


def test_the_two_packages_offer_the_same_names() -> None:
    assert set(dir(torchvae)) - set(dir(jaxvae)) == {"random", "share_port"}
    assert set(dir(jaxvae)) - set(dir(torchvae)) == {"fit_together"}
    for package in (jaxvae, torchvae):
        for name in dir(package):
            assert getattr(package, name) is not None


def test_names_in_use() -> None:
    """mean, logvar, latent; never the other names the field has for them. (Adam's mu is optax's word.)"""
    banned = {"log_var", "z_mean", "z_dim", "recon_x", "sigma"}
    for path in [*(ROOT / "jaxvae").rglob("*.py"), *(ROOT / "torchvae").rglob("*.py")]:
        tree = list(ast.walk(ast.parse(path.read_text())))
        names = {n.id for n in tree if isinstance(n, ast.Name)} | {n.arg for n in tree if isinstance(n, ast.arg)}
        assert not names & (banned | (set() if path.stem in ("train", "params") else {"mu"})), path


def test_every_command_line_is_parsed_in_a_terminal_of_any_width() -> None:
    """By the one function that calls tyro, which does not end in a terminal of a few columns."""
    folders = [ROOT / name for name in ("jaxvae", "torchvae", "parity_tests", "scripts")]
    paths = [path for folder in folders for path in folder.rglob("*.py") if path != Path(__file__)]
    assert [path.name for path in paths if "tyro.cli(" in path.read_text()] == ["cli.py"]


def test_every_module_with_a_command_stands_in_the_table_with_its_own_flags() -> None:
    names = [path.stem for path in (ROOT / "jaxvae" / "shared" / "commands").glob("*.py")]
    modules = [importlib.import_module(f"jaxvae.shared.commands.{name}") for name in names]
    assert {module.run for module in modules if hasattr(module, "run")} == {entry.run for entry in COMMANDS}
    assert len({entry.name for entry in COMMANDS}) == len(COMMANDS)
    for entry in COMMANDS:
        parameters = inspect.signature(entry.run).parameters
        assert [parameter.annotation for parameter in parameters.values()] == [Backend, entry.flags]
        assert dataclasses.is_dataclass(entry.flags)
        assert entry.flags.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert entry.flags.__doc__


@pytest.mark.parametrize("package", [jaxvae, torchvae])
def test_a_package_has_every_function_that_commands_ask_for(package) -> None:
    """Their types are pyright's to check, where each package's __main__ declares it a Backend."""
    asked = [name for name, member in vars(Backend).items() if inspect.isfunction(member) and name[0] != "_"]
    assert len(asked) > 25
    for name in asked:
        assert callable(getattr(package, name)), name


def test_every_measure_has_its_fields_in_a_runs_record() -> None:
    assert set(MEASURES) == {"terms", *measures_record._FIGURES}


def test_a_jax_without_what_the_tests_replace_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((quick_jax.mlir, "make_ir_context"), (quick_jax.lax, "stage_p")):
        monkeypatch.delattr(module, name, raising=False)
    functions = runpy.run_path(quick_jax.__file__)
    functions["install"]()
    assert not hasattr(quick_jax.mlir, "make_ir_context")
    assert functions["_private"]("no_such_module") is None
