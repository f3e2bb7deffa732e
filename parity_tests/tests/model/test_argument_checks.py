"""What every public function says when it is given another model, images, pixels, latents or labels than its own."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxvae
import torchvae
from jaxvae import distributions, nets, objectives, train
from jaxvae.checks import check_pixels
from jaxvae.shared.config.parts import ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from parity_tests.support.backends import IMPLEMENTATIONS, lean, some_arrays

_lean = pytest.fixture(scope="module", autouse=True)(lean)

MODEL = ModelSpec(image=(4, 3, 1), hidden=(5,), latent=2, classes=3)
SPEC = Spec(model=MODEL, training=TrainingSpec(batch_size=4))
ROWS = 6
MODELS = ("params", "model", "weights")
CHECKED = (*MODELS, "images", "x", "state", "data", "start", "starts", "end", "z", "labels", "label")
"""The arguments that hold a model, or what it is given."""
UNCHECKED = {
    ("optimizer_from_arrays", "model"): "its arrays are checked against the configuration",
    ("bind", "params"): "the test below: in PyTorch they are named tensors",
    ("fit", "labels"): "those of an array: parity_tests/tests/training/test_own_loop.py has them",
    ("inputs", "weights"): "the images' shares of a batch",
    ("save_run", "labels"): "those of an array, as fit's",
    ("to_foreign", "weights"): "to_arrays checks it, in its own name",
    ("encode_decode", "model"): "an objective is given it when it has been checked",
}


OF_A_SPEC = (
    *("loss", "training_loss", "inputs", "draw", "prepare_pixels", "sample", "decode", "save", "log_likelihood"),
    *("corrupt", "seen", "gradient_norm", "init", "init_optimizers", "phases", "train_step"),
)
OF_A_KEY = ("loss", "sample", "draw_latents", "log_likelihood", "average_terms", "encode_images", "streams")


class Wrong(NamedTuple):
    """A wrong argument."""

    what: str
    make: Callable[[ModuleType, Any], Any]
    """From the package, and the right argument."""
    says: str
    """After the function's name."""


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def array(package: ModuleType, value: np.ndarray) -> Any:
    return IMPLEMENTATIONS[package.__name__].array(value)


def model(package: ModuleType, spec: Spec) -> Any:
    return package.from_arrays(spec, {name: value.astype(np.float32) for name, value in some_arrays(spec).items()})


def halved(package: ModuleType, weights: Any) -> Any:
    if package is jaxvae:
        return jax.tree.map(lambda leaf: leaf.astype("float16"), weights)
    return weights.half()


def state(package: ModuleType, weights: Any) -> Any:
    return package.TrainState(weights, {}, array(package, np.zeros((), np.int32)), package.root_key(0))


def changed(**fields: Any) -> Callable[[ModuleType, Any], Any]:
    """Makes the weights of another model."""
    return lambda package, _: model(package, dataclasses.replace(SPEC, model=dataclasses.replace(MODEL, **fields)))


def right(package: ModuleType) -> dict[str, Any]:
    """A right argument for every parameter of a public function that a test calls, by its name."""
    images, labels = rng().integers(0, 256, (ROWS, *MODEL.image)).astype(np.uint8), np.arange(ROWS, dtype=np.uint8) % 3
    latents = rng().normal(size=(ROWS, 2)).astype(np.float32)
    x = array(package, rng().uniform(size=(ROWS, MODEL.pixels)).astype(np.float32))
    key, weights = package.root_key(0), model(package, SPEC)
    draws, shares = package.draw(SPEC, key, ROWS), np.full(ROWS, 1 / ROWS, np.float32)
    return {
        **{"spec": SPEC, "specs": [SPEC], **dict.fromkeys(MODELS, weights), "state": state(package, weights)},
        **{"images": array(package, images), "labels": array(package, labels), "label": 1, "x": x, "key": key},
        **{"draws": draws, "dtype": "float32", "keys": key, "static": None, "dynamic": None, "corruption": None},
        **{"rows": ROWS, "z": array(package, latents), "start": latents, "end": latents, "n": ROWS, "steps": 2},
        **{"dimensions": np.array([0, 1]), "values": np.zeros((2, 3)), "path": "none", "format": "safetensors"},
        **{"train": np.zeros((0, 3), np.float32), "decoded": None, "logits": x, "mean": x, "logvar": x},
        "data": Dataset("digits", "none", images, labels, images, labels),
        "batch": package.inputs(SPEC, x, draws, array(package, labels), array(package, shares)),
    }


def arguments(package: ModuleType, function: str, argument: str) -> dict[str, Any]:
    """The right arguments of a function, and of its optional ones this one and labels."""
    parameters = inspect.signature(getattr(package, function)).parameters
    given = right(package)
    if function == "traverse":
        given["z"] = np.zeros(2, np.float32)
    if function == "picture_grid":
        given["images"] = np.zeros((ROWS, *MODEL.image), np.float32)
    if function in ("fit", "fit_together"):
        given["start"] = (given["state"], np.zeros((0, 3), np.float32))
        given["starts"] = [given["start"]]
    # Their labels are an array's, and `right` has a data set.
    optional = () if function in ("fit", "save_run") else ("labels", "label")
    optional += ("images",) if function == "plot_interpolations" else ()  # else draws from the prior
    asked = [n for n, p in parameters.items() if p.default is p.empty or n in optional]
    names = [*asked, *([argument] if argument in parameters else [])]
    assert set(names) <= set(given), f"give `right` what {function} takes"
    return {name: given[name] for name in names}


def recast(dtype: str) -> Callable[[ModuleType, Any], Any]:
    return lambda package, given: array(package, np.asarray(given).astype(dtype))


def resized(*shape: int) -> Callable[[ModuleType, Any], Any]:
    return lambda package, given: array(package, np.zeros(shape, np.asarray(given).dtype))


def cut(package: ModuleType, weights: Any) -> Any:
    """The weights without one of them, or with another's name."""
    if package is jaxvae:
        return {**weights, "decoder": {"hidden": weights["decoder"]["hidden"]}}
    del weights.decoder.logits
    return weights


def more(package: ModuleType, weights: Any) -> Any:
    if package is jaxvae:
        return {**weights, "another": jnp.zeros(3)}
    weights.another = torch.nn.Linear(2, 2)
    return weights


WEIGHTS = [
    Wrong("another size", changed(hidden=(7,)), r"the model: tensor encoder.hidden.0.\w+ should have the shape \[.*\], "
          r"found \[.*\]; give the configuration that it was made with"),
    Wrong("another depth", changed(hidden=(5, 5)), "the model has the tensor .*its configuration doesn't have; give"),
    Wrong("a name missing", cut, r"the model lacks the tensor decoder.logits.\w+, decoder.logits.\w+ that its"),
    Wrong("a name too many", more, r"the model has the tensor another\S* .*that its configuration doesn't have; give"),
]  # fmt: skip
DTYPE = Wrong(
    "another dtype",
    halved,
    r"the model: tensor encoder.hidden.0.\w+ should be float32, found float16; give",
)
IMAGES = [
    Wrong("floats", recast("float32"), r"needs uint8 images, 0 to 255, found float32; convert images in \[0, 1\]"),
    Wrong("other integers", recast("int32"), "needs uint8 images, 0 to 255, found int32; convert"),
]
SIZES = [
    Wrong("another size", resized(ROWS, 3, 3, 1), r"needs images of the model's size, \[n, 4, 3, 1\], found "
          r"\[6, 3, 3, 1\]; give images of that size, or the model another `image`"),
    Wrong("other axes", resized(ROWS, 1, 4, 3), r"needs images of the model's size, .*, found \[6, 1, 4, 3\]"),
    Wrong("flat", resized(ROWS, 12), r"needs images of the model's size, \[n, 4, 3, 1\], found \[6, 12\]"),
]  # fmt: skip
FLOATS = [
    Wrong("bytes", recast("uint8"), r"needs floats \[n, height, width, channels\] in \[0, 1\], found uint8 of the"),
    Wrong("flat", resized(ROWS, 12), r"needs floats .*, found float32 of the shape \[6, 12\]; divide uint8"),
]
PIXELS = [
    Wrong("bytes", recast("uint8"), "needs pixels of float(32|s), found uint8; prepare_pixels converts"),
    Wrong("another size", resized(ROWS, 9), r"needs pixels of the shape \[batch, 12\], found \[6, 9\]; prepare_pixels"),
    Wrong("images", resized(ROWS, 4, 3, 1), r"needs pixels of the shape \[batch, 12\], found \[6, 4, 3, 1\]; prepare"),
    Wrong("stretched", lambda package, given: 255 * np.asarray(given), "needs pixels from 0 to 1, found .* to 2.*; p"),
]
LATENTS = [
    Wrong("integers", recast("int32"), "needs latents of float32, found int32; convert them"),
    Wrong(
        "another number", resized(ROWS, 3), r"needs latents of the shape \[[n6], 2\], found \[6, 3\]; give one row for"
    ),
]
LABELS = [
    Wrong("none", lambda package, given: None, "a model of 3 classes needs labels, found none; give a class from 0"),
    Wrong("floats", recast("float32"), "needs integer labels, found float32; give a class from 0 to 2 for each image"),
    Wrong("too few", resized(ROWS - 1), r"needs labels of the shape \[6\], found \[5\]; give a class from 0 to 2 "),
    Wrong("too many", resized(ROWS + 1), r"needs labels of the shape \[6\], found \[7\]; give a class from 0 to 2"),
    Wrong("one-hot", resized(ROWS, 3), r"needs labels of the shape \[6\], found \[6, 3\]; give a class from 0 to 2"),
    Wrong("too large", lambda package, given: np.full(ROWS, 3), "found labels from 3 to 3; give a class from 0 to 2"),
]
BY_FORMULA = ("bernoulli_nll", "continuous_bernoulli_nll", "gaussian_nll")  # without a configuration
NO_SIZE = ("scale", "binarize")
ANY_DTYPE = ("init_optimizers", "to_arrays")  # the weights' own


def wrongs(function: str, argument: str) -> list[Wrong]:
    """What may be wrong with an argument of a function."""
    match argument:
        case name if name in MODELS:
            return WEIGHTS if function in ANY_DTYPE else [*WEIGHTS, DTYPE]
        case "state":
            return [w._replace(make=lambda p, s, w=w: state(p, w.make(p, s[0]))) for w in [*WEIGHTS, DTYPE]]
        case "images":
            if function == "picture_grid":
                return FLOATS
            return IMAGES if function in NO_SIZE else IMAGES + SIZES
        case "data":
            fields = ("train", "test")
            return [
                w._replace(
                    what=f"{w.what} of {field}",
                    make=lambda p, d, w=w, field=field: d._replace(**{field: np.asarray(w.make(p, getattr(d, field)))}),
                )
                for w in IMAGES + SIZES
                for field in fields
            ]
        case "x":
            if function in BY_FORMULA:
                return PIXELS[:1]
            return PIXELS[:-1] if function == "train_step" else PIXELS  # its program holds no numbers
        case "start" | "starts" if function in ("fit", "fit_together"):
            made = [w._replace(make=lambda p, s, w=w: (w.make(p, s[0]), s[1])) for w in wrongs("train_epoch", "state")]
            if argument == "start":
                return made
            return [w._replace(make=lambda p, s, w=w: [w.make(p, s[0])]) for w in made]
        case "z" | "start" | "end":
            if function == "traverse":
                return [Wrong("another number", resized(3), r"needs latents of the shape \[n, 2\], found \[1, 3\]")]
            return LATENTS
        case "labels":
            if function == "sample":
                return LABELS[1:]
            return LABELS[:-1] if function in ("train_step", "train_epoch") else LABELS
        case "label":
            large = Wrong("too large", lambda package, given: 3, "found labels from 3 to 3; give a class")
            return [large] if function in ("plot_samples", "plot_traversals", "plot_manifold") else [LABELS[0], large]
    raise AssertionError(argument)


def public(package: ModuleType) -> dict[str, inspect.Signature]:
    """The package's public functions, and what they take."""
    functions = {name: getattr(package, name) for name in dir(package)}
    return {n: inspect.signature(f) for n, f in functions.items() if callable(f) and not inspect.isclass(f)}


def cases() -> list[Any]:
    """Every argument of every public function of either package that holds a model or what it is given."""
    found = {
        (name, argument if argument != "model" else "params")
        for package in (jaxvae, torchvae)
        for name, signature in public(package).items()
        for argument in signature.parameters
        if argument in CHECKED and (name, argument) not in UNCHECKED
    }
    return [pytest.param(*case, id="-".join(case)) for case in sorted(found)]


def alike(message: str) -> str:
    """A message without names and shapes of tensors, which are each framework's."""
    return re.sub(r"(tensor) .*?( should| that)|(shape|found) \[.*?\]", r"\1\2\3", message)


@pytest.mark.parametrize(("function", "argument"), cases())
def test_a_wrong_argument_is_one_sentence_and_the_same_in_both_packages(function: str, argument: str) -> None:
    packages = [package for package in (jaxvae, torchvae) if hasattr(package, function)]
    for wrong in wrongs(function, argument):
        messages = []
        for package in packages:
            name = "model" if argument == "params" and package is torchvae else argument
            given = arguments(package, function, name)
            given[name] = wrong.make(package, given[name])
            with pytest.raises(InputError) as error:
                getattr(package, function)(**given)
            messages.append(str(error.value))
        for message in messages:
            assert re.match(rf"{function}:? .*{wrong.says}.*\.$", message), (wrong.what, message)
        assert len({alike(message) for message in messages}) == 1, messages


def test_bind_takes_the_arrays_of_its_model_alone() -> None:
    tensors = dict(model(torchvae, SPEC).state_dict())
    with pytest.raises(
        InputError, match=r"^bind: the model lacks the tensor decoder.logits.bias that its configuration"
    ):
        torchvae.bind(MODEL, {name: tensor for name, tensor in tensors.items() if name != "decoder.logits.bias"})
    with pytest.raises(InputError, match=r"^bind: the model: tensor encoder.hidden.0.kernel should have the shape"):
        jaxvae.bind(MODEL, changed(hidden=(7,))(jaxvae, None))
    with pytest.raises(InputError, match=r"^encode needs a model, found dict; bind makes one of a state_dict\.$"):
        torchvae.encode(SPEC, tensors, right(torchvae)["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        *((function, "x", "pixels") for function in ("encode", "image_terms", "inputs", "corrupt", "train_step")),
        *((function, "images", "images") for function in ("train_epoch", "prepare_pixels", "scale")),
        *((function, "z", "latents") for function in ("decode", "images_of")),
    ],
)
def test_numpys_arrays_are_refused_where_pytorch_needs_tensors(function: str, argument: str, name: str) -> None:
    given = arguments(torchvae, function, argument)
    given[argument] = given[argument].numpy()
    with pytest.raises(InputError, match=rf"^{function} needs {name} in a torch.Tensor, found ndarray; convert"):
        getattr(torchvae, function)(**given)


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        *((f, "x", "pixels") for f in ("encode", "image_terms", "inputs", "corrupt", "train_step", "bernoulli_nll")),
        *((f, "images", "images") for f in ("train_epoch", "prepare_pixels", "scale", "binarize")),
        *((f, "z", "latents") for f in ("decode", "images_of")),
        *(("loss", name, name) for name in ("images", "labels")),
        *((f, "labels", "labels") for f in ("encode", "decode", "inputs", "train_epoch", "train_step")),
        *((f, "logits", "logits") for f in ("bernoulli_nll", "continuous_bernoulli_mean")),
        ("gaussian_nll", "logvar", "logvar"),
    ],
)
def test_the_other_frameworks_array_is_named(package: ModuleType, function: str, argument: str, name: str) -> None:
    given, other = arguments(package, function, argument), torchvae if package is jaxvae else jaxvae
    given[argument] = array(other, np.asarray(given[argument]).copy())
    own, found, convert = {
        "jaxvae": ("an array of JAX or NumPy", "torch.Tensor", f"np.asarray({name})"),
        "torchvae": ("a torch.Tensor", "jax.Array", f"torch.tensor(np.asarray({name}))"),
    }[package.__name__]
    with pytest.raises(InputError) as error:
        getattr(package, function)(**given)
    assert str(error.value) == f"{function} needs {name} in {own}, found {found}; convert {name}: {convert}."


@pytest.mark.parametrize("function", ["decode_images", "interpolate", "traverse", "reconstruct"])
def test_pictures_are_made_of_any_arrays(package: ModuleType, function: str) -> None:
    given = arguments(package, function, "labels")
    names = {"z", "start", "end", "values", "images", "labels"} & set(given)
    pictures = []
    for make in (np.asarray, torch.tensor, jnp.asarray):
        cast = {name: make(np.asarray(given[name]).copy()) for name in names}
        pictures.append(getattr(package, function)(**{**given, **cast}))
        assert type(pictures[-1]) is np.ndarray
        np.testing.assert_array_equal(pictures[-1], pictures[0])


@pytest.mark.parametrize(
    ("function", "changes", "says"),
    [
        ("fit", {"data": [[1]]}, "^fit needs a Dataset, or uint8 images, found list; give load_data"),
        (
            "fit",
            {"spec": "conv"},
            r"^The configuration must be a Spec, found 'conv'; give Spec\(...\) or preset\('conv",
        ),
        (
            "fit",
            {"start": ({}, 0)},
            "^fit needs a TrainState, found dict; give init_state",
        ),
        ("encode", {"spec": np.eye(9)}, r"^The configuration must be a Spec, found array\(.*\]\]\); give Spec"),
        ("train_epoch", {"state": {}}, "^train_epoch needs a TrainState, found dict; give init_state"),
        ("train_step", {"state": {}}, "^train_step needs a TrainState, found dict; give init_state"),
        ("train_epoch", {"spec": "conv"}, "^The configuration must be a Spec, found 'conv'; give Spec"),
        *((f, {"spec": MODEL}, "^The configuration must be a Spec, found ModelSpec") for f in OF_A_SPEC),
        *((f, {"key": 0}, f"^{f} needs one key in a .*, found 0; give root_key") for f in OF_A_KEY),
        *((f, {"key": np.zeros(3)}, f"^{f} needs one key in a .*, found ndarray of float64 ") for f in OF_A_KEY),
    ],
)
def test_an_argument_of_another_kind_is_named(package: ModuleType, function: str, changes: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        getattr(package, function)(**{**arguments(package, function, "none"), **changes})


@pytest.mark.parametrize(
    ("function", "argument", "given", "says"),
    [
        ("train_epoch", "images", [1], "^train_epoch needs uint8 images, 0 to 255, found list; convert"),
        ("sample", "n", -1, "^sample needs n of at least 1, an integer, found -1; give another"),
        ("sample", "n", 2.5, "^sample needs n of at least 1, an integer, found 2.5; give another"),
        ("interpolate", "steps", 0, "^interpolate needs steps of at least 1, an integer, found 0; give another"),
        ("manifold", "steps", 0, "^manifold needs steps of at least 1, an integer, found 0; give another"),
        ("train_epoch", "images", None, "^train_epoch needs uint8 images, 0 to 255, found NoneType; convert"),
        (
            "interpolate",
            "end",
            np.zeros((ROWS + 1, 2), np.float32),
            r"of the shape \[6, 2\], found \[7, 2\]; give one row",
        ),
    ],
)
def test_what_does_not_fit_the_rest_is_one_sentence(package: ModuleType, function, argument, given, says: str) -> None:
    with pytest.raises(InputError, match=says):
        getattr(package, function)(**{**arguments(package, function, argument), argument: given})


def test_fit_needs_images(package: ModuleType) -> None:
    data = right(package)["data"]
    with pytest.raises(
        InputError, match=r"^Training needs one image or more, found an array of the shape \[0, 4, 3, 1\]"
    ):
        package.fit(SPEC, data._replace(train=data.train[:0], train_labels=data.train_labels[:0]))


def test_a_module_of_another_activation_is_another_model() -> None:
    """Its tensors are the same; in JAX the configuration alone says what is computed."""
    weights = changed(activation="tanh")(torchvae, None)
    with pytest.raises(InputError, match=r"^encode: the model was made with activation tanh, the configuration has "):
        torchvae.encode(SPEC, weights, right(torchvae)["x"], right(torchvae)["labels"])


@pytest.mark.parametrize("function", ["inputs", "image_terms"])
def test_noise_is_that_of_the_batch(package: ModuleType, function: str) -> None:
    given = arguments(package, function, "labels")
    given["draws"] = package.draw(SPEC, package.root_key(1), 1)
    with pytest.raises(InputError, match=rf"^{function} needs draws.eps of the shape \[6, 2\], found \[1, 2\]; draw"):
        getattr(package, function)(**given)


@pytest.mark.parametrize(
    ("dimensions", "values", "says"),
    [
        ([0, 2], np.zeros((2, 3)), r"^The latent has the dimensions 0 to 1, found \[0, 2\]; choose of these\.$"),
        ([-1], np.zeros((1, 3)), r"^The latent has the dimensions 0 to 1, found \[-1\]; choose"),
        ([0], np.zeros((2, 3)), r"^Values of 1 dimensions need the shape \[1, steps\], found \[2, 3\]; give a row"),
    ],
)
def test_traverse_takes_dimensions_of_its_latent(package: ModuleType, dimensions, values, says: str) -> None:
    given = arguments(package, "traverse", "z")
    with pytest.raises(InputError, match=says):
        package.traverse(**{**given, "dimensions": np.array(dimensions), "values": values})


@pytest.mark.parametrize("function", ["image_terms", "train_step"])
def test_checks_add_nothing_to_a_program(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = right(jaxvae)
    state = given["state"]._replace(opt_state=jaxvae.init_optimizers(SPEC, given["params"]))

    def program() -> str:
        def compute(state: Any, x: jax.Array, labels: jax.Array) -> Any:
            if function == "train_step":
                return inspect.unwrap(jaxvae.train_step)(SPEC, state, x, labels)
            return jaxvae.image_terms(SPEC, state.params, x, given["draws"], labels)

        return str(jax.make_jaxpr(compute)(state, given["x"], given["labels"]))

    checked, off = program(), []
    for module in (distributions, nets, objectives, train):
        for name in vars(module).copy():
            if name.startswith(("check_", "require_")):
                monkeypatch.setattr(module, name, lambda *arguments, **options: off.append(arguments))
    assert program() == checked
    assert len(off) > 4


def test_checks_need_no_numbers() -> None:
    """What is traced has none, and what is on a device would have to be waited for."""
    given = right(jaxvae)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (given["params"], given["x"]))
    check_pixels("encode", SPEC, shapes[0], shapes[1], jax.ShapeDtypeStruct((ROWS,), "uint8"))


def test_what_is_no_model_is_said(package: ModuleType, tmp_path) -> None:
    with pytest.raises(
        InputError, match=r"^save needs a model('s parameters, nested dicts of arrays)?, found .*str|'a'"
    ):
        package.save(tmp_path / "a.safetensors", SPEC, "a")
