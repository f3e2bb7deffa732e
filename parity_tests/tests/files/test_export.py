"""What is exported, loaded back by its own runtime alone, computes what the model computes."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import serialization
from safetensors import safe_open
from safetensors.torch import load_file

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.serialization import from_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import export_files
from jaxvae.shared.interop.export_files import Format, signature
from jaxvae.shared.model import layout
from parity_tests.support.backends import lean
from parity_tests.support.quick import quick

pytestmark = pytest.mark.either

Named = dict[str, np.ndarray]

PACKAGES: dict[str, Any] = {"jaxvae": jaxvae, "torchvae": torchvae}
ROOT = Path(__file__).parents[3]

CONV = ModelSpec((5, 7, 2), (3, 4), 3, network="conv", activation="leaky-relu", likelihood="gaussian-pixel", classes=3)
CODE = ModelSpec((4, 5, 1), (7, 6), 3, activation="tanh", posterior="relu-point", likelihood="gaussian-learned")
SCALE = ModelSpec((4, 5, 1), (), 3, posterior="relu-sigma", likelihood="gaussian", output="linear")
JUDGED = ModelSpec(
    (8, 6, 1),
    (4,),
    2,
    network="conv",
    activation="softplus",
    posterior="point",
    discriminator=(5,),
    likelihood="squared-error",
)
MODELS = {
    "conv": Spec("digits", CONV, images=ImagesSpec(range="signed")),
    "code": Spec("digits", CODE, ObjectiveSpec(form="reconstruction")),
    "scale": Spec("digits", SCALE, images=ImagesSpec(range="signed")),
    "judged": Spec("digits", JUDGED, ObjectiveSpec(form="adversarial")),
    "binarised": Spec("digits", ModelSpec((4, 5, 1), (6,), 2, classes=4), images=ImagesSpec(binarization="dynamic")),
}
LAYERS = ModelSpec(
    (6, 8, 2),
    latent=3,
    network="layers",
    encoder=("conv3k4s2p1+norm", "linear5+norm"),
    decoder=("linear3x4x2+plain", "up2k4s2p1+norm", "conv2k3p1"),
    classes=2,
)
LONG = {**MODELS, "layers": Spec("digits", LAYERS)}
models = pytest.mark.parametrize("name", MODELS)
packages = pytest.mark.parametrize("package", PACKAGES)

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def arrays_of(spec: Spec) -> Named:
    """Weights with nothing left at 0 or 1, running statistics included; a softplus is given numbers up to 40."""
    rng, dtype = np.random.default_rng(0), spec.training.dtype

    def drawn(p: layout.Parameter) -> np.ndarray:
        if p.name.endswith("var"):
            return rng.uniform(0.5, 2, p.shape)
        numbers = rng.normal(0, 0.5, p.shape)
        return 40 * numbers if spec.model.activation == "softplus" and p.name.endswith("norm.bias") else numbers

    return {p.name: drawn(p).astype(dtype) for p in layout.table(spec.model)}


def built(package: str, spec: Spec) -> Any:
    return PACKAGES[package].from_arrays(spec, arrays_of(spec))


def images_for(spec: Spec, rows: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images and their labels."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (rows, *spec.model.image), dtype=np.uint8)
    return images, rng.integers(0, max(1, spec.model.classes), rows, dtype=np.int32)


def given(spec: Spec, program: str, rows: int = 7) -> dict[str, np.ndarray]:
    """What the program takes, by the names it has for it."""
    images, labels = images_for(spec, rows)
    dtype = spec.training.dtype
    latents = np.random.default_rng(2).normal(size=(rows, spec.model.latent)).astype(dtype)
    first = {"z": latents} if program == "decode" else {"images": images.astype(dtype) / np.asarray(255, dtype)}
    return {**first, "labels": labels} if spec.model.classes else first


def computed(package: str, spec: Spec, program: str, inputs: Named) -> Named:
    """By the model where it is."""
    model = built(package, spec)
    if package == "jaxvae":
        return jax.tree.map(np.asarray, jax.jit(jaxvae.programs(spec, model)[program])(**inputs))
    result = torchvae.programs(spec, model.requires_grad_(False))[program](*map(torch.tensor, inputs.values()))
    return {name: tensor.numpy() for name, tensor in result.items()}


# The program in a file by its own runtime, to which jaxvae and torchvae are nothing.


def by_jax(file: Path) -> Callable[[Named], Named]:
    from jax import export

    program = export.deserialize(bytearray(file.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    return lambda inputs: jax.tree.map(np.asarray, program.call(*inputs.values()))


def by_torch(file: Path) -> Callable[[Named], Named]:
    program = torch.export.load(file).module()
    # No detach: what a program gives has no gradients.
    return lambda inputs: {name: t.numpy() for name, t in program(*map(torch.tensor, inputs.values())).items()}


def by_onnxruntime(file: Path) -> Callable[[Named], Named]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert all(port.shape[0] == "batch" for port in (*session.get_inputs(), *session.get_outputs()))
    gives = [port.name for port in session.get_outputs()]
    return lambda inputs: dict(zip(gives, map(np.asarray, session.run(gives, inputs)), strict=True))


PROGRAMS: dict[Format, tuple[str, str, Callable[[Path], Callable[[Named], Named]]]] = {
    "stablehlo": ("jaxvae", "stablehlo", by_jax),
    "torch-export": ("torchvae", "pt2", by_torch),
    "onnx": ("torchvae", "onnx", by_onnxruntime),
}


def agrees(spec: Spec, format: Format, folder: Path) -> None:
    """Each program in the folder, at several batch sizes, with the model it is of."""
    package, suffix, load = PROGRAMS[format]
    PACKAGES[package].export_model(folder, spec, built(package, spec), format)
    files = {f"{name}.{suffix}" for name in ("encode", "decode", "reconstruct")}
    assert {path.name for path in folder.iterdir()} == {*files, "signature.json"}
    # A dot product of 70 numbers at most, added in another order, by a library or for a batch of another size.
    tolerance = 1e-5 if spec.training.dtype == "float32" else 1e-13
    for name, (takes, gives) in signature(spec).items():
        file = folder / f"{name}.{suffix}"
        assert str(ROOT).encode() not in file.read_bytes(), "paths of this machine have no place in it"
        program, inputs = load(file), given(spec, name)
        ports = [(port.name, port.dtype, port.shape) for port in takes]
        assert ports == [(key, array.dtype.name, array.shape[1:]) for key, array in inputs.items()]
        expected = computed(package, spec, name, inputs)
        for rows in (1, 2, 7):
            actual = program({key: array[:rows] for key, array in inputs.items()})
            assert set(actual) == {port.name for port in gives}
            for port in gives:
                array, wanted = actual[port.name], expected[port.name][:rows]
                assert array.shape == (rows, *port.shape)
                assert array.dtype == port.dtype
                assert np.ptp(wanted) > 0 or port.name == "pixel_variances"  # of which there may be one
                np.testing.assert_allclose(array, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
                if rows == 7 and format != "onnx":  # the same program, and the same kernels
                    np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(
    ("format", "name"),
    quick(
        [(format, name) for format in PROGRAMS for name in LONG],
        [
            *(("stablehlo", "conv"), ("torch-export", "conv")),
        ],
    ),
)
def test_an_exported_program_computes_what_its_model_does(format: Format, name: str, tmp_path) -> None:
    agrees(LONG[name], format, tmp_path / "out")


def in_float64(name: str) -> Spec:
    return replace(MODELS[name], training=TrainingSpec(dtype="float64"))


@pytest.mark.parametrize(
    ("format", "name"),
    quick(
        [("stablehlo", "conv"), ("torch-export", "conv"), ("onnx", "code"), ("onnx", "binarised")],
        [],
    ),
)
def test_in_float64_too(format: Format, name: str, x64, tmp_path) -> None:
    agrees(in_float64(name), format, tmp_path / "out")


def test_a_torch_program_holds_the_networks_it_runs_on_and_no_others(tmp_path) -> None:
    spec, held = MODELS["judged"], {"encode": {"encoder"}, "decode": {"decoder"}, "reconstruct": {"encoder", "decoder"}}
    torchvae.export_model(tmp_path / "out", spec, built("torchvae", spec), "torch-export")
    for name, networks in held.items():
        state = torch.export.load(tmp_path / "out" / f"{name}.pt2").state_dict
        assert {key.split(".")[1] for key in state} == networks


def test_what_onnxruntime_can_not_run_is_refused(tmp_path) -> None:
    spec = in_float64("judged")
    with pytest.raises(InputError, match=r"can't run this model's encode in float64 .*Conv.*; export it to torch-exp"):
        torchvae.export_model(tmp_path / "out", spec, built("torchvae", spec), "onnx")
    assert list(tmp_path.iterdir()) == []


@models
@packages
def test_programs_compute_what_the_packages_functions_do(package: str, name: str) -> None:
    """They take grey levels for bytes, in whatever range the model has them, binarised or not."""
    spec, side, model = MODELS[name], PACKAGES[package], built(package, MODELS[name])
    images, labels = images_for(spec)
    again = side.reconstruct(spec, model, images, labels)
    inputs = {n: a if package == "jaxvae" else torch.tensor(a) for n, a in given(spec, "reconstruct").items()}
    programs = side.programs(spec, model)
    program = jax.jit(programs["reconstruct"]) if package == "jaxvae" else programs["reconstruct"]
    actual, codes = program(**inputs)["pixel_means"], programs["encode"](**inputs)
    arrays = jax.numpy.asarray(images) if package == "jaxvae" else torch.tensor(images)
    expected = side.encode(spec, model, side.seen(spec, arrays), inputs.get("labels"))._asdict()
    # JAX compiles each as another program: a few roundings of numbers up to 1.
    np.testing.assert_allclose(as_array(actual), again, rtol=0, atol={"jaxvae": 1e-6, "torchvae": 0}[package])
    assert list(codes) == list(expected)
    for key, code in codes.items():
        np.testing.assert_array_equal(as_array(code), as_array(expected[key]))


def as_array(result: Any) -> np.ndarray:
    return result.detach().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


@packages
def test_statically_binarised_images_are_taken_as_they_are(package: str) -> None:
    """Which pixel is 1 comes from the run's key, which a program has no use for: it binarises at half, and so takes
    what is binarised already for what it is."""
    spec = replace(MODELS["binarised"], images=ImagesSpec(binarization="static"))
    side, model, (images, labels) = PACKAGES[package], built(package, spec), images_for(spec)
    seen = as_array(side.seen(spec, images)).reshape(images.shape)
    again = side.reconstruct(spec, model, images, labels)
    result = computed(package, spec, "reconstruct", {"images": seen, "labels": labels})["pixel_means"]
    # Compiled as one program in JAX: a few roundings of numbers up to 1.
    np.testing.assert_allclose(result, again, rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", ["stablehlo", "torch-export"])
def test_the_signature_says_what_the_programs_are(format: Format, tmp_path) -> None:
    package, suffix, _ = PROGRAMS[format]
    spec = MODELS["binarised"]
    PACKAGES[package].export_model(tmp_path / "out", spec, built(package, spec), format)
    result = json.loads((tmp_path / "out" / "signature.json").read_text())
    assert from_json(result["spec"], "signature.json") == spec
    encode = result["programs"]["encode"]
    assert encode["file"] == f"encode.{suffix}"
    ports = [(port["name"], port["dtype"], port["shape"]) for port in encode["inputs"]]
    assert ports == [("images", "float32", ["batch", 4, 5, 1]), ("labels", "int32", ["batch"])]
    assert encode["inputs"][0]["meaning"].endswith("grey levels from 0 to 1; the model sees 1 where they are above half"
                                                   ", else 0")  # fmt: skip
    assert [port["name"] for port in encode["outputs"]] == ["mean", "logvar"]
    assert result["programs"]["decode"]["inputs"][0]["shape"] == ["batch", 2]
    assert result["programs"]["reconstruct"]["outputs"] == result["programs"]["decode"]["outputs"]


@models
def test_a_learned_variance_is_an_output_too(name: str) -> None:
    """In the units of the means, which are from 0 to 1 where the model's pixels are from -1 to 1, too."""
    spec = MODELS[name]
    learned = spec.model.likelihood in ("gaussian-learned", "gaussian-pixel")
    for program in ("decode", "reconstruct"):
        ports = {port.name: port.meaning for port in signature(spec)[program][1]}
        assert ("pixel_variances" in ports) == learned
        results = [computed(package, spec, program, given(spec, program)) for package in PACKAGES]
        assert all(set(result) == set(ports) for result in results)
        if learned:
            np.testing.assert_allclose(*(result["pixel_variances"] for result in results), rtol=1e-4)
    if learned:
        inputs = {key: torch.tensor(array) for key, array in given(spec, "decode").items()}
        model = built("torchvae", spec)
        logvar = torchvae.pixel_logvar(spec, torchvae.decode(spec, model, *inputs.values()))
        assert logvar is not None
        expected = np.broadcast_to(as_array(logvar.exp()), (7, spec.model.pixels)).reshape(7, *spec.model.image)
        actual = computed("torchvae", spec, "decode", given(spec, "decode"))["pixel_variances"]
        np.testing.assert_allclose(actual, expected / (4 if spec.images.range == "signed" else 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("channels", "words"), [(1, "grey levels"), (2, "values of the channels"), (3, "red, green and blue")]
)
def test_the_signature_says_what_the_channels_are(channels: int, words: str) -> None:
    programs = signature(Spec("digits", ModelSpec((4, 5, channels), (6,), 2)))
    for port in (programs["encode"][0][0], programs["decode"][1][0]):
        assert port.meaning == f"height, width, channels: {words} from 0 to 1"


@models
def test_a_hub_folder(name: str, tmp_path) -> None:
    spec, files = MODELS[name], {}
    for package, side in PACKAGES.items():
        side.export_model(tmp_path / package, spec, built(package, spec), "safetensors")
        files[package] = {path.name: path.read_bytes() for path in (tmp_path / package).iterdir()}
    assert files["jaxvae"] == files["torchvae"]
    assert set(files["jaxvae"]) == {"config.json", "model.safetensors"}
    config, weights = (tmp_path / "jaxvae" / file for file in ("config.json", "model.safetensors"))
    result = json.loads(config.read_text())
    assert (result["model_type"], result["architectures"], result["torch_dtype"]) == ("vae", ["VAE"], "float32")
    assert from_json(result["spec"], "config.json") == spec
    with safe_open(weights, framework="np") as file:
        assert file.metadata()["format"] == "pt"
    state = load_file(weights)
    torchvae.VAE(spec.model).load_state_dict(state, strict=True)
    assert list(state) == sorted(arrays_of(spec))
    for package, side in PACKAGES.items():
        again_spec, again = side.load(weights)
        assert again_spec == spec
        same(side.to_arrays(again_spec, again), arrays_of(spec))
        assert package in files


def same(actual: Named, expected: Named) -> None:
    assert set(actual) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], strict=True)


@models
def test_a_state_dict(name: str, tmp_path) -> None:
    spec, path = MODELS[name], tmp_path / "model.pt"
    torchvae.export_model(path, spec, built("torchvae", spec), "torch")
    state = torch.load(path, weights_only=True)
    model = torchvae.VAE(spec.model)
    assert list(state) == list(model.state_dict())  # batch norm's counters among them
    model.load_state_dict(state, strict=True)
    same(torchvae.to_arrays(spec, model), arrays_of(spec))


@models
def test_flax_and_orbax(name: str, tmp_path) -> None:
    import orbax.checkpoint as ocp

    spec = MODELS[name]
    params = built("jaxvae", spec)
    for format in ("flax", "orbax"):
        jaxvae.export_model(tmp_path / format, spec, params, format)
    blank = jaxvae.init(spec, jaxvae.streams(jaxvae.root_key(0)).init)
    content = (tmp_path / "flax").read_bytes()
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "orbax")
    unpacked: Any = serialization.msgpack_restore(content)
    for result in (unpacked, restored):
        assert jax.tree.structure(result) == jax.tree.structure(serialization.to_state_dict(params))
        again = serialization.from_state_dict(blank, result)
        same(jaxvae.to_arrays(spec, again), arrays_of(spec))
    same(jaxvae.to_arrays(spec, serialization.from_bytes(blank, content)), arrays_of(spec))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    flags = f"--data digits --image 8 8 1 --hidden 5 --latent 2 --max-steps 1 --out {path}"
    assert cli.main(torchvae, ["train", *flags.split()]) == 0
    return path


WRITTEN = {
    "jaxvae": ("safetensors", "flax", "orbax", "stablehlo"),
    "torchvae": ("safetensors", "torch", "torch-export", "onnx"),
}
FILES = ("flax", "torch")


@pytest.mark.parametrize(("package", "format"), [(p, f) for p in WRITTEN for f in WRITTEN[p]])
def test_the_command(package: str, format: str, run, tmp_path, capfd) -> None:
    """Nothing is said but what was written, by us or by any library."""
    out = tmp_path / "out"
    assert cli.main(PACKAGES[package], ["export", str(run), "--format", format, "--out", str(out)]) == 0
    assert capfd.readouterr() == (f"{format} of {run} in {out}\n", "")
    assert out.is_file() == (format in FILES)
    beside = {"out.config.json"} if format in FILES else set()
    assert {path.name for path in tmp_path.iterdir()} == {"out", *beside}
    if format in (*FILES, "orbax", "safetensors"):
        config = tmp_path / "out.config.json" if format in FILES else out / "config.json"
        spec = from_json(json.loads(config.read_text())["spec"], "config.json")
        assert (spec.model.hidden, spec.model.latent) == ((5,), 2)
    for path in (out, *out.rglob("*")):
        assert path.stat().st_mode & 0o044, "readable by others"


def refused(package: str, capsys, says: str, run: Path, format: str, out: Path) -> None:
    """In one sentence, and nothing is written."""
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(PACKAGES[package], ["export", str(run), "--format", format, "--out", str(out)]) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err.startswith(f"{package}: ")
    assert err.count("\n") == 1
    assert re.search(says, err), err
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("package", "format", "other"),
    [
        *((p, f, "torchvae") for p, f in [("jaxvae", "torch"), ("jaxvae", "torch-export"), ("jaxvae", "onnx")]),
        *((p, f, "jaxvae") for p, f in [("torchvae", "flax"), ("torchvae", "orbax"), ("torchvae", "stablehlo")]),
    ],
)
def test_what_takes_the_other_framework_is_refused(package, format, other, run, tmp_path, capsys) -> None:
    says = f"{package} can't write {format}; use `{other} export`"
    refused(package, capsys, says, run, format, tmp_path / "out")


@packages
def test_an_unknown_format_is_refused(package: str, tmp_path) -> None:
    spec = MODELS["code"]
    with pytest.raises(InputError, match=r"no format 'keras' to export to; choose one of safetensors, torch, flax"):
        PACKAGES[package].export_model(tmp_path / "out", spec, built(package, spec), "keras")


@packages
def test_what_is_there_already_is_kept(package: str, run, tmp_path, capsys) -> None:
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("mine")
    folder.mkdir()
    link.symlink_to("nowhere")
    for out in (file, folder, link):
        refused(package, capsys, f"{out} exists already; give another --out", run, "safetensors", out)
    (tmp_path / "x.config.json").write_text("mine")
    format = FILES[package == "torchvae"]
    refused(package, capsys, r"x\.config\.json exists already", run, format, tmp_path / "x.pt")
    refused(package, capsys, r"file exists already", run, format, file)
    refused(package, capsys, r"can't be written \(No such file", run, "safetensors", tmp_path / "none" / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder", "link", "x.config.json"}


@packages
def test_what_is_no_run_is_refused(package: str, tmp_path, capsys) -> None:
    refused(package, capsys, "is not a run folder", tmp_path, "safetensors", tmp_path / "out")


@pytest.mark.parametrize(
    ("package", "format", "module"),
    [("jaxvae", "stablehlo", "flatbuffers"), *(("torchvae", "onnx", n) for n in ("onnx", "onnxscript", "onnxruntime"))],
)
def test_without_the_extra_one_sentence_says_which(package, format, module, run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    says = rf"Exporting to {format} needs {module}; run pip install -e '\.\[export\]' in the clone\."
    refused(package, capsys, says, run, format, tmp_path / "out")


@pytest.mark.parametrize(("package", "format"), [("jaxvae", "stablehlo"), ("torchvae", "torch-export")])
def test_nothing_is_left_of_what_fails_halfway(package, format, run, tmp_path, capsys, monkeypatch) -> None:
    def full(folder: Path, *_: object) -> None:
        assert len(list(folder.iterdir())) == 3
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(export_files, "write_signature", full)
    refused(package, capsys, "No space left on device", run, format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@packages
def test_weights_that_are_not_finite_are_refused(package: str, tmp_path) -> None:
    spec = MODELS["code"]
    arrays = arrays_of(spec)
    model = PACKAGES[package].from_arrays(spec, arrays)
    if package == "jaxvae":
        model["encoder"]["mean"]["bias"] += np.float32(np.nan)
    else:
        model.get_parameter("encoder.mean.bias").data += torch.nan
    with pytest.raises(InputError, match=r"encoder\.mean\.bias must be finite"):
        PACKAGES[package].export_model(tmp_path / "out", spec, model, "safetensors")
    assert list(tmp_path.iterdir()) == []
