"""The weight file of both packages, also read by other programs. Rejected files: test_corrupt_weights.py."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_for_torch

import jaxvae
import torchvae
from jaxvae.shared.config.parts import ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, weight_file
from parity_tests.harness.vae import jax_backend, torch_backend
from parity_tests.harness.vae.batch import Batch
from parity_tests.support.backends import lean

pytestmark = pytest.mark.either

SPEC = Spec("digits", ModelSpec((4, 5, 1), (7, 6), 3))
PACKAGES = {"jaxvae": (jaxvae, jax_backend), "torchvae": (torchvae, torch_backend)}

_lean = pytest.fixture(scope="module", autouse=True)(lean)


def written_by(name: str, path: Path, spec: Spec = SPEC) -> Path:
    package, _ = PACKAGES[name]
    package.save(path, spec, package.init(spec, package.streams(package.root_key(spec.training.seed)).init))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written_by("jaxvae", tmp_path / "model.safetensors")


@pytest.mark.parametrize("writer", PACKAGES)
@pytest.mark.parametrize("reader", PACKAGES)
def test_either_package_reads_what_either_wrote(writer: str, reader: str, tmp_path, dtype: str) -> None:
    spec = Spec("digits", SPEC.model, training=TrainingSpec(dtype=dtype, seed=3))  # type: ignore[arg-type]
    path = written_by(writer, tmp_path / "model.safetensors", spec)
    package, side = PACKAGES[reader]
    found_spec, actual = package.load(path)
    assert found_spec == spec
    expected = side.initial(spec)
    for name, array in package.to_arrays(spec, actual).items():
        np.testing.assert_array_equal(array, expected[name], strict=True)


FAMILY = {
    "conv": ModelSpec((7, 10, 2), (3, 5), 4, network="conv", activation="leaky-relu", likelihood="squared-error"),
    "conditional": ModelSpec((4, 5, 1), (7, 6), 3, classes=4),
    "conditional conv": ModelSpec((8, 8, 1), (3, 4), 2, network="conv", classes=3, likelihood="gaussian-pixel"),
    "gaussian-learned": ModelSpec((4, 5, 1), (7,), 3, likelihood="gaussian-learned"),
    "adversarial": ModelSpec((4, 5, 1), (7, 6), 3, posterior="point", discriminator=(5, 4)),
}
family = pytest.mark.parametrize("name", FAMILY)


def member(name: str) -> Spec:
    objective = ObjectiveSpec(form="adversarial") if name == "adversarial" else ObjectiveSpec()
    return Spec("digits", FAMILY[name], objective)


def trained_arrays(spec: Spec) -> dict[str, np.ndarray]:
    """Weights with nothing left at 0 or 1, running statistics included."""
    rng = np.random.default_rng(0)
    return {p.name: (1.5 + rng.uniform(-1, 1, p.shape)).astype("float32") for p in layout.table(spec.model)}


def batch_of(spec: Spec, rows: int = 9) -> Batch:
    rng, model = np.random.default_rng(1), spec.model
    x, eps = (rng.uniform(size=(rows, n)).astype("float32") for n in (model.pixels, model.latent))
    labels = rng.integers(0, model.classes, rows, dtype=np.uint8) if model.classes else None
    return Batch(x, eps, labels)


@family
@pytest.mark.parametrize("writer", PACKAGES)
@pytest.mark.parametrize("reader", PACKAGES)
def test_the_familys_files_are_read_by_either_package(name: str, writer: str, reader: str, tmp_path) -> None:
    spec, path = member(name), tmp_path / "model.safetensors"
    arrays, package = trained_arrays(spec), PACKAGES[writer][0]
    package.save(path, spec, package.from_arrays(spec, arrays))
    found_spec, actual = PACKAGES[reader][0].load(path)
    assert found_spec == spec
    back = PACKAGES[reader][0].to_arrays(spec, actual)
    assert list(back) == list(arrays)
    for array, expected in zip(back.values(), arrays.values(), strict=True):
        np.testing.assert_array_equal(array, expected, strict=True)


@family
def test_the_familys_files_are_the_same_bytes_from_either(name: str, tmp_path) -> None:
    files = [written_by(package, tmp_path / package, member(name)).read_bytes() for package in PACKAGES]
    assert files[0] == files[1]


def test_the_familys_arrays_mean_the_same() -> None:
    """The permuted axes of a linear layer at a convolution and the running statistics have come to their places."""
    spec = member("conditional conv")
    small = {name: array * np.float32(0.1) for name, array in trained_arrays(spec).items()}
    given = batch_of(spec)
    in_jax, in_torch = (side.forward(spec, small, given) for side in (jax_backend, torch_backend))
    assert list(in_jax) == list(in_torch)
    for actual, expected in zip(in_jax.values(), in_torch.values(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@family
@pytest.mark.parametrize("writer", PACKAGES)
def test_torchs_own_load_state_dict_takes_the_familys_files(name: str, writer: str, tmp_path) -> None:
    spec, path = member(name), tmp_path / "model.safetensors"
    arrays, package = trained_arrays(spec), PACKAGES[writer][0]
    package.save(path, spec, package.from_arrays(spec, arrays))
    model = torchvae.VAE(spec.model)
    result = model.load_state_dict(load_for_torch(path), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    state = model.state_dict()
    for name, array in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), array)


def test_a_learned_variance_is_an_array_without_axes(tmp_path) -> None:
    spec = member("gaussian-learned")
    for name in PACKAGES:
        result = load_file(written_by(name, tmp_path / name, spec))["decoder.logvar"]
        assert result.shape == ()
        assert result.dtype == np.float32


def phased() -> tuple[Spec, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """An adversarial model's spec, arrays and optimizer state, every phase's at a step and with moments of its own."""
    spec, rng = member("adversarial"), np.random.default_rng(2)
    arrays = torch_backend.initial(spec)
    fresh = torchvae.optimizer_to_arrays(spec, torchvae.init_state(spec).optimizer)
    moments = {
        name: np.asarray(i + 1, np.int32) if name.endswith("step") else rng.uniform(size=a.shape).astype(a.dtype)
        for i, (name, a) in enumerate(fresh.items())
    }
    return spec, arrays, moments


def restored(name: str, spec: Spec, arrays: dict[str, np.ndarray], moments: dict[str, np.ndarray]):
    """The optimizers of this package from arrays, as arrays."""
    if name == "jaxvae":
        return jaxvae.optimizer_to_arrays(spec, jaxvae.optimizer_from_arrays(spec, moments))
    model = torchvae.from_arrays(spec, arrays)
    return torchvae.optimizer_to_arrays(spec, torchvae.optimizer_from_arrays(spec, moments, model))


def test_optimizers_of_several_phases_come_back_by_way_of_either(tmp_path) -> None:
    spec, arrays, moments = phased()
    assert [n for n in moments if n.endswith("step")] == ["reconstruction.step", "discriminator.step", "generator.step"]
    encoders = [n for n in moments if n.endswith("exp_avg.encoder.mean.bias")]
    assert encoders == ["reconstruction.exp_avg.encoder.mean.bias", "generator.exp_avg.encoder.mean.bias"]
    for route in (("jaxvae", "torchvae"), ("torchvae", "jaxvae")):
        result = moments
        for name in route:
            result = restored(name, spec, arrays, result)
        assert list(result) == list(moments)
        for name in moments:
            np.testing.assert_array_equal(result[name], moments[name], strict=True)


LOST = "generator.exp_avg_sq.encoder.mean.bias"
STRAY = "discriminator.exp_avg.encoder.mean.bias"
PHASES = {
    "no step": (lambda a: a.pop("discriminator.step"), "state lacks its discriminator.step"),
    "no phase": (lambda a: [a.pop(n) for n in list(a) if n.startswith("generator.")], "lacks its generator.step"),
    "a moment short": (lambda a: a.pop(LOST), "optimizer's generator.exp_avg_sq lacks the tensor encoder.mean.bias"),
    "another's network": (lambda a: a.update({STRAY: a[LOST]}), "discriminator.exp_avg has the tensor encoder.mean.b"),
    "another phase": (lambda a: a.update({"critic.step": a["generator.step"]}), "has unexpected entries critic.step"),
    "one phase's names": (
        lambda a: [a.update({n.split(".", 1)[1]: a.pop(n)}) for n in list(a) if n.startswith("reconstruction.")],
        "lacks its reconstruction.step",
    ),
    "transposed": (
        lambda a: a.update({"generator.exp_avg.encoder.mean.weight": np.zeros((6, 3), "float32")}),
        r"generator.exp_avg: tensor encoder.mean.weight should have the shape \[3, 6\], found \[6, 3\]",
    ),
}


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("fault", PHASES)
def test_optimizers_of_wrong_or_missing_phases_are_refused(name: str, fault: str) -> None:
    spec, arrays, moments = phased()
    change, says = PHASES[fault]
    change(moments)
    with pytest.raises(InputError, match=says):
        restored(name, spec, arrays, moments)


def test_optimizers_of_one_phase_are_not_those_of_several() -> None:
    spec, arrays, moments = phased()
    plain = Spec("digits", SPEC.model)
    state = torchvae.optimizer_to_arrays(plain, torchvae.init_state(plain).optimizer)
    for name in PACKAGES:
        with pytest.raises(InputError, match=r"lacks its reconstruction\.step"):
            restored(name, spec, arrays, state)
        with pytest.raises(InputError, match="lacks its step"):
            restored(name, plain, torch_backend.initial(plain), moments)


def test_both_packages_write_the_same_bytes(tmp_path) -> None:
    assert written_by("jaxvae", tmp_path / "a").read_bytes() == written_by("torchvae", tmp_path / "b").read_bytes()


@pytest.mark.parametrize("writer", PACKAGES)
def test_a_plain_torch_module_loads_it(writer: str, tmp_path) -> None:
    """With safetensors and torch alone: no code of ours in the model or in the loading."""
    nn = torch.nn

    class Half(nn.Module):
        def __init__(self, widths: list[int], **heads: int):
            super().__init__()
            self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
            for name, size in heads.items():
                self.add_module(name, nn.Linear(widths[-1], size))

    model = nn.ModuleDict({"encoder": Half([20, 7, 6], mean=3, logvar=3), "decoder": Half([3, 6, 7], logits=20)})
    result = model.load_state_dict(load_for_torch(written_by(writer, tmp_path / "model.safetensors")), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys

    x, eps = np.random.default_rng(0).uniform(size=(9, 20)).astype("float32"), np.zeros((9, 3), "float32")
    hidden = torch.tensor(x)
    for layer in model["encoder"].get_submodule("hidden").children():
        hidden = torch.relu(layer(hidden))
    mean = model["encoder"].get_submodule("mean")(hidden)
    expected = jax_backend.forward(SPEC, jax_backend.initial(SPEC), Batch(x, eps))["mean"]
    np.testing.assert_allclose(mean.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_transposes_are_where_they_belong() -> None:
    for parameter in layout.table(SPEC.model):
        array = np.random.default_rng(0).normal(size=parameter.shape)
        there = layout.to_flax(parameter, array)
        assert there.shape == parameter.flax_shape
        np.testing.assert_array_equal(layout.to_torch(parameter, there), array)
        if array.ndim == 2:
            np.testing.assert_array_equal(there, array.T)


@family
def test_the_familys_transposes_are_undone(name: str) -> None:
    for parameter in layout.table(FAMILY[name]):
        array = np.arange(math.prod(parameter.shape), dtype=float).reshape(parameter.shape)
        there = layout.to_flax(parameter, array)
        assert there.shape == parameter.flax_shape
        np.testing.assert_array_equal(layout.to_torch(parameter, there), array, strict=True)


def test_a_decoders_first_layer_gives_height_width_channels_in_flax() -> None:
    """PyTorch's unflattens to channels, height, width: row (c, y, x) of its weight is column (y, x, c) of the kernel,
    and so for its bias; the encoder's last layers the other way round."""
    table = {parameter.name: parameter for parameter in layout.table(FAMILY["conv"])}
    channels, height, width, latent = 5, 2, 3, 4
    weight, bias = table["decoder.input.weight"], table["decoder.input.bias"]
    array = np.arange(channels * height * width * latent).reshape(-1, latent)
    kernel = layout.to_flax(weight, array).reshape(latent, height, width, channels)
    np.testing.assert_array_equal(kernel[:, 1, 2, 3], array[(3 * height + 1) * width + 2])
    assert layout.to_flax(bias, np.arange(30)).reshape(height, width, channels)[1, 0, 4] == (4 * height + 1) * width
    head = layout.to_flax(table["encoder.mean.weight"], array.T).reshape(height, width, channels, latent)
    np.testing.assert_array_equal(head[0, 1, 2], array[(2 * height + 0) * width + 1])


def test_the_file_is_readable_by_others(file: Path) -> None:
    assert file.stat().st_mode & 0o044, "safetensors' own writer makes it 0600"


@pytest.mark.parametrize("every", [131, pytest.param(13, marks=pytest.mark.slow)])
def test_one_flipped_bit_anywhere(file: Path, every: int) -> None:
    """Bits of the whole file, header and tensors: nothing goes through, nothing but InputError comes out."""
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), every):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(InputError):
            weight_file.load(file)


@pytest.mark.parametrize("name", PACKAGES)
def test_weights_that_are_not_the_models_are_not_written(name: str, tmp_path) -> None:
    """Nor is the file that was there touched."""
    package, _ = PACKAGES[name]
    path = written_by(name, tmp_path / "model.safetensors")
    before = path.read_bytes()
    other = package.init(Spec("digits", ModelSpec((4, 5, 1), (7,), 3)), package.root_key(0))
    with pytest.raises(InputError, match=r"unexpected entries|lacks"):
        package.save(path, SPEC, other)
    diverged = package.to_arrays(SPEC, package.load(path)[1])
    diverged["encoder.mean.bias"] = np.full(3, np.nan, "float32")
    with pytest.raises(InputError, match="must be finite"):
        weight_file.save(path, SPEC, diverged)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_no_weight_file_is_said(name: str, tmp_path) -> None:
    package, _ = PACKAGES[name]
    params = package.init(SPEC, package.root_key(0))
    with pytest.raises(InputError, match=r"^The weight file must be a path, found None; give"):
        package.load(None)
    with pytest.raises(InputError, match=f"a can't be written: the folder {tmp_path}/no/folder doesn't exist"):
        package.save(tmp_path / "no/folder/a", SPEC, params)
    with pytest.raises(InputError, match=f"{tmp_path} can't be written: it is a folder; give a file in a folder"):
        package.save(str(tmp_path), SPEC, params)
    other = Spec("digits", ModelSpec((4, 5, 1), (9, 6), 3))
    with pytest.raises(InputError, match=r"encoder\.hidden\.0.* have the shape \[.*9.*\], found \[.*7.*\]"):
        package.save(tmp_path / "a", other, params)
    assert not list(tmp_path.iterdir())
    file = written_by(name, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        package.to_arrays(SPEC, package.load(tmp_path)[1])["encoder.mean.bias"],
        package.to_arrays(SPEC, package.load(file)[1])["encoder.mean.bias"],
    )
    with pytest.raises(InputError, match=f"^There is no weight file {tmp_path}, found a folder; give {file}.$"):
        package.load_checkpoint(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch) -> None:
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        written_by("jaxvae", file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
