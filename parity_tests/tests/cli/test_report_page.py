"""The page that `report` writes, in a real browser: what it decodes is what the package generates, and its controls do
what they say."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.data import datasets
from jaxvae.shared.report.explorer import STOPS, frame_stops
from parity_tests.support import backends
from parity_tests.support.reports.browser import launched

pytestmark = pytest.mark.either

PACKAGES: dict[str, Any] = {"jaxvae": jaxvae, "torchvae": torchvae}
QUICK = "--data digits --resize --image 8 8 1 --max-steps 30 --batch-size 250"
MODELS = {
    "bernoulli": "--hidden 12 --latent 12 --activation elu",
    "signed": "--preset tanh-mse --hidden 9 7 --activation tanh --latent 2",
    "conditional": "--preset conditional --hidden 8 --latent 3 --activation softplus --posterior log-sigma",
    "relu-point": "--preset autoencoder --hidden 8 --latent 3",
    "linear": "--likelihood gaussian --output linear --activation leaky-relu --slope 0.3 --hidden 5 --latent 1 "
    "--dtype float64",
    "conv": "--preset conv --hidden 4 6 --latent 4 --classes 10",
}
BY_JAX = ("bernoulli", "conditional")  # which compiles for its seconds
RUNS = {"torchvae": tuple(MODELS), "jaxvae": BY_JAX}
PLACES = [(package, name) for package, names in RUNS.items() for name in names if name != "conv"]


_lean = pytest.fixture(scope="module", autouse=True)(backends.lean)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of each model, `<script>` in the name of one's folder, and a page about them by each package."""
    folder = tmp_path_factory.mktemp("report")
    for name, flags in MODELS.items():
        arguments = ["train", *QUICK.split(), *flags.split(), "--out", str(folder / name)]
        assert cli.main(torchvae, arguments) == 0
    for package, names in RUNS.items():
        paths = [str(folder / name) for name in names]
        assert cli.main(PACKAGES[package], ["report", *paths, "--out", str(folder / f"{package}.html")]) == 0
        jax.config.update("jax_enable_x64", False)
    return folder


browser = pytest.fixture(scope="module")(launched)


class Pages:
    """The pages that are open, each with six explorers or two to draw; what they said, and asked for."""

    def __init__(self, browser: Any) -> None:
        self.browser, self.open = browser, {}
        self.said: list[str] = []
        self.asked: set[str] = set()

    def view(self, url: str, width: int, scheme: str, new: bool) -> Any:
        key = (url, width, scheme)
        if new and key in self.open:
            self.open.pop(key).close()
        if key not in self.open:
            page = self.browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.set_default_timeout(20_000)
            page.on("console", lambda message: self.said.append(message.text))
            page.on("pageerror", lambda error: self.said.append(str(error)))
            page.on("request", lambda request: self.asked.add(request.url))
            page.goto(url)
            page.evaluate("jaxvae.ready.then(() => null)")
            settle(page)
            self.open[key] = page
        return self.open[key]


@pytest.fixture(scope="module")
def pages(browser) -> Pages:
    return Pages(browser)


@pytest.fixture
def view(pages, trained):
    """A page by its file's name in a window of this width, a new one if it has to be. Whatever it is asked for, it asks
    nothing of a network and complains of nothing."""

    def open_page(
        name: str = "torchvae", width: int = 1400, scheme: str = "light", folder: Path = trained, new: bool = False
    ) -> Any:
        return pages.view((folder / f"{name}.html").as_uri(), width, scheme, new)

    yield open_page
    for page in pages.open.values():
        settle(page)
    said, pages.said = pages.said, []
    assert said == []
    files = {url for url, *_ in pages.open}
    assert {url for url in pages.asked if not url.startswith("data:")} == files


def settle(page: Any) -> None:
    """Until what has changed is drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))")


def explorer(page: Any, run: int) -> Any:
    return page.locator(f"[data-explorer='{run}']")


def state(page: Any, run: int) -> dict[str, Any]:
    settle(page)
    return page.evaluate("(run) => jaxvae.state(run)", run)


def pixels(page: Any, run: int, figure: str = "decoded") -> np.ndarray:
    """What a canvas shows: `[height, width, 3]` of 255."""
    settle(page)
    result = (
        explorer(page, run)
        .locator(f".{figure} canvas")
        .evaluate("""(shown) => {
      const copy = document.createElement("canvas"); // reading the page's own often is what the browser complains of
      [copy.width, copy.height] = [shown.width, shown.height];
      const context = copy.getContext("2d");
      context.drawImage(shown, 0, 0);
      return [copy.height, copy.width, ...context.getImageData(0, 0, copy.width, copy.height).data];
    }""")
    )
    return np.array(result[2:], int).reshape(result[0], result[1], 4)[..., :3]


@functools.cache
def loaded(package: str, path: Path) -> tuple[Any, Any]:
    return PACKAGES[package].load(path / "model.safetensors")


def generated(package: str, path: Path, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The package's own images of latents."""
    jax.config.update("jax_enable_x64", "linear" in path.name)
    spec, weights = loaded(package, path)
    z, labels = z.astype(spec.training.stored), labels if spec.model.classes else None
    array = jnp.asarray if package == "jaxvae" else torch.tensor
    with torch.no_grad():
        given_labels = None if labels is None else array(labels)
        result = np.asarray(PACKAGES[package].images_of(spec, weights, array(z), given_labels))
    jax.config.update("jax_enable_x64", False)
    return result


@pytest.mark.parametrize(("package", "name"), PLACES)
def test_the_page_decodes_what_the_package_generates(view, trained, package: str, name: str) -> None:
    page, run = view(package), RUNS[package].index(name)
    spec, _ = loaded(package, trained / name)
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(5, spec.model.latent)) * [[0], [1], [1], [1], [4]]).astype(np.float32)
    labels = np.array([0, 3, 9, 1, 2])
    expected = generated(package, trained / name, z, labels)
    for latents, label, image in zip(z.tolist(), labels.tolist(), expected, strict=True):
        actual = page.evaluate("([run, z, label]) => jaxvae.decode(run, z, label)", [run, latents, label])
        # Sums of some ten products in float32; what the page adds up, it adds in float64.
        np.testing.assert_allclose(actual, image.ravel(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_slider_moved_by_the_keyboard_changes_the_picture(view, name: str) -> None:
    page, run = view(), list(MODELS).index(name)
    slider = explorer(page, run).locator("input[type=range]:enabled").first
    latent = int((slider.get_attribute("id") or "").rpartition("-")[2])
    slider.focus()
    page.keyboard.press("Home")
    shown, first = pixels(page, run), state(page, run)["z"][latent]
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert state(page, run)["z"][latent] > first
    value = state(page, run)["z"][latent]
    assert float(slider.get_attribute("aria-valuetext") or "") == pytest.approx(value, abs=0.0051)  # two digits
    page.keyboard.press("End")
    assert (pixels(page, run) != shown).any()


DRAWN = ("bernoulli", "conditional", "linear", "conv")


@pytest.fixture(scope="module")
def drawn(pages, trained) -> dict[str, list[np.ndarray]]:
    """Three draws from each model's prior on one page, and three on another."""
    results: dict[str, list[np.ndarray]] = {name: [] for name in DRAWN}
    for _ in range(2):
        page = pages.view((trained / "torchvae.html").as_uri(), 1400, "light", True)
        for name in DRAWN:
            run = list(MODELS).index(name)
            button = explorer(page, run).get_by_role("button", name="Draw from the prior")
            for _ in range(3):
                button.click()
                results[name].append(pixels(page, run))
            assert explorer(page, run).get_by_role("status").text_content() == "Drawn from the prior."
            assert state(page, run)["point"] is None
    return results


@pytest.mark.parametrize("name", DRAWN)
def test_a_draw_from_the_prior_is_new_each_time_and_the_same_again(view, drawn, name: str) -> None:
    results = drawn[name]
    for i in range(3):
        np.testing.assert_array_equal(results[i], results[i + 3])
        assert (results[i] != results[(i + 1) % 3]).any()


def test_draws_are_standard_normals(view) -> None:
    page = view()
    z = page.evaluate("""() => {
      const button = document.querySelector("[data-explorer='0'] .draw");
      return Array.from({ length: 400 }, () => (button.click(), jaxvae.state(0).z));
    }""")
    # 4,800 draws: five standard errors of the mean and of the variance.
    assert abs(np.mean(z)) < 5 / np.sqrt(4800)
    assert abs(np.var(z) - 1) < 5 * np.sqrt(2 / 4800)


def test_a_code_without_a_prior_has_sliders_over_its_codes_and_no_draw(view, trained) -> None:
    page, run = view(), list(MODELS).index("relu-point")
    assert not explorer(page, run).get_by_role("button", name="Draw from the prior").is_visible()
    spec, model = loaded("torchvae", trained / "relu-point")
    test = datasets.load(spec, None)[0].test
    codes = torchvae.encode_images(spec, model, test, torchvae.root_key(0)).mean
    for latent in range(3):
        slider = explorer(page, run).locator(f"#run-{run}-latent-{latent}")
        bounds = [float(slider.get_attribute(name) or "") for name in ("min", "max")]
        np.testing.assert_allclose(bounds, [codes[:, latent].min(), codes[:, latent].max()], rtol=1e-5, atol=1e-6)
    explorer(page, run).get_by_role("button", name="Reset").click()
    np.testing.assert_allclose(state(page, run)["z"], codes.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["conditional", "conv"])
def test_a_class_is_chosen(view, trained, name: str) -> None:
    page, run = view(), list(MODELS).index(name)
    explorer(page, run).get_by_role("button", name="Reset").click()
    for label in (0, 7):
        explorer(page, run).get_by_label("Class").select_option(str(label))
        assert state(page, run)["label"] == label
        z = np.zeros((1, loaded("torchvae", trained / name)[0].model.latent))
        expected = generated("torchvae", trained / name, z, np.array([label]))[0]
        np.testing.assert_allclose(pixels(page, run), np.broadcast_to(255 * expected, (8, 8, 3)), atol=0.51)
    assert not explorer(page, 0).locator(".class").is_visible()


@pytest.mark.parametrize("name", MODELS)
def test_a_click_on_the_map_starts_from_that_test_image(view, trained, name: str) -> None:
    page, run = view(), list(MODELS).index(name)
    spec, model = loaded("torchvae", trained / name)
    dataset = datasets.load(spec, None)[0]
    canvas = explorer(page, run).locator(".map canvas")
    canvas.scroll_into_view_if_needed()
    places = [page.evaluate("([run, point]) => jaxvae.place(run, point)", [run, point]) for point in range(297)]
    apart = [min(np.hypot(*np.subtract(p, q)) for q in places if q is not p) for p in places]
    point = int(np.argmax(apart))  # the one that a click can't miss
    canvas.click(position={"x": places[point][0], "y": places[point][1]})
    result = state(page, run)
    assert result["point"] == point
    labels = dataset.test_labels[: point + 1]
    codes = torchvae.encode_images(spec, model, dataset.test[: point + 1], torchvae.root_key(0), labels).mean
    np.testing.assert_allclose(result["z"], codes[point], rtol=1e-4, atol=1e-5)
    shown = np.broadcast_to(dataset.test[point], (8, 8, 3))
    np.testing.assert_array_equal(pixels(page, run, "original"), shown)
    again = torchvae.reconstruct(spec, model, dataset.test[: point + 1], labels)[point]
    np.testing.assert_allclose(pixels(page, run), np.broadcast_to(255 * again.clip(0, 1), (8, 8, 3)), atol=0.51)
    if spec.model.classes:
        assert result["label"] == labels[-1]
    assert f"Test image {point + 1}, label {labels[-1]}." in explorer(page, run).get_by_role("status").text_content()


def test_the_arrow_keys_go_over_the_map(view) -> None:
    page, run = view(), list(MODELS).index("signed")
    explorer(page, run).locator(".map canvas").focus()
    before = page.evaluate("window.scrollY")
    for key, axis, way in (("ArrowRight", 0, 1), ("ArrowLeft", 0, -1), ("ArrowUp", 1, -1), ("ArrowDown", 1, 1)):
        here = state(page, run)["point"]
        page.keyboard.press(key)
        there = state(page, run)["point"]
        a, b = (page.evaluate("([run, point]) => jaxvae.place(run, point)", [run, point]) for point in (here, there))
        assert there != here
        assert (b[axis] - a[axis]) * way > 0
    assert page.evaluate("window.scrollY") == before


def test_reset_goes_to_the_middle_of_the_prior(view) -> None:
    page = view()
    explorer(page, 0).get_by_role("button", name="Draw from the prior").click()
    explorer(page, 0).get_by_role("button", name="Reset").click()
    result = state(page, 0)
    assert result["z"] == [0] * 12
    assert result["point"] is None
    assert explorer(page, 0).locator(".original figcaption").text_content() == "no test image"


def test_the_latents_that_say_most_come_first_and_the_rest_behind_a_disclosure(view) -> None:
    page = view()
    sliders = explorer(page, 0).locator("input[type=range]")
    assert sliders.count() == 12
    assert [sliders.nth(i).is_visible() for i in range(12)] == [True] * 10 + [False] * 2
    words = explorer(page, 0).locator(".slider small").all_text_contents()
    figures = [float(text.removesuffix(" nats")) for text in words]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 0
    explorer(page, 0).locator(".more summary").click()
    assert sliders.nth(11).is_visible()


def test_frames_stand_in_for_a_decoder_that_is_not_in_the_page(view, trained) -> None:
    page, run = view(), list(MODELS).index("conv")
    assert "rendered images" in explorer(page, run).locator(".note").text_content()
    explorer(page, run).get_by_role("button", name="Reset").click()
    explorer(page, run).get_by_label("Class").select_option("4")
    slider = explorer(page, run).locator("input[type=range]").first
    latent = int((slider.get_attribute("id") or "").rpartition("-")[2])
    slider.focus()
    page.keyboard.press("Home")
    z, shown = [], []
    for _ in range(STOPS):
        z.append(state(page, run)["z"])
        shown.append(pixels(page, run))
        page.keyboard.press("ArrowRight")
    low, high = z[0][latent], z[-1][latent]
    assert high == -low >= 3
    np.testing.assert_allclose(z, np.outer(np.linspace(low, high, STOPS), np.eye(4)[latent]), atol=1e-12)
    expected = 255 * generated("torchvae", trained / "conv", np.array(z), np.full(STOPS, 4))
    np.testing.assert_allclose(shown, np.broadcast_to(expected, (STOPS, 8, 8, 3)), atol=0.51)
    assert (shown[0] != shown[-1]).any()


def test_sliders_stand_where_a_draw_among_the_frames_was_drawn(view, trained) -> None:
    page, run = view(), list(MODELS).index("conv")
    explorer(page, run).get_by_label("Class").select_option("3")
    explorer(page, run).get_by_role("button", name="Draw from the prior").click()
    z = np.array(state(page, run)["z"])
    assert np.abs(z).min() > 0
    expected = 255 * generated("torchvae", trained / "conv", z[None], np.array([3]))[0]
    np.testing.assert_allclose(pixels(page, run), np.broadcast_to(expected, (8, 8, 3)), atol=0.51)
    sliders = explorer(page, run).locator("input[type=range]")
    assert sliders.count() == 4  # all latents
    for i in range(4):
        latent = int((sliders.nth(i).get_attribute("id") or "").rpartition("-")[2])
        assert float(sliders.nth(i).get_attribute("aria-valuetext") or "") == pytest.approx(z[latent], abs=0.006)


@pytest.mark.parametrize(("latents", "values"), [(4, 640), (128, 784), (128, 12288), (128, 122880), (500, 784), (1, 1)])
def test_every_latent_has_frames_and_the_page_stays_moderate(latents: int, values: int) -> None:
    stops, scale = frame_stops(latents, values)
    assert len(stops) == latents
    assert all(n % 2 for n in stops)
    assert stops[0] == STOPS >= stops[-1] >= 3
    assert sum(stops) * values <= 12e6 * scale**2
    assert scale == 1 or values > 12288


def test_a_class_chosen_beside_frames_leaves_the_test_image(view, trained) -> None:
    """Its reconstruction was rendered in its own class alone: what is shown instead is the middle, and said to be."""
    page, run = view(), list(MODELS).index("conv")
    explorer(page, run).locator(".map canvas").focus()
    for key in ("ArrowRight", "ArrowLeft"):  # from the outermost there may be none in a direction
        page.keyboard.press(key)
    assert state(page, run)["point"] is not None
    explorer(page, run).get_by_label("Class").select_option("7")
    actual = state(page, run)
    assert (actual["point"], actual["label"], actual["z"]) == (None, 7, [0.0] * 4)
    expected = 255 * generated("torchvae", trained / "conv", np.zeros((1, 4)), np.array([7]))[0]
    np.testing.assert_allclose(pixels(page, run), np.broadcast_to(expected, (8, 8, 3)), atol=0.51)


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_wider_than_the_window(view, package: str, width: int) -> None:
    page = view(package, width)
    for summary in page.locator("summary:visible").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = """() => [...document.querySelectorAll("button, label, h2, h3, .slider, li, figcaption, .facts dd")]
      .filter((e) => e.offsetParent && e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML)"""
    assert page.evaluate(clipped) == []


def test_two_runs_stand_side_by_side_where_there_is_room(view) -> None:
    for width, beside in ((1400, True), (360, False)):
        page = view("jaxvae", width)
        boxes = [article.bounding_box() for article in page.locator("article").all()]
        assert len(boxes) == 2
        assert (boxes[0]["y"] == boxes[1]["y"]) == beside
        assert (boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]) == beside
        if beside:  # and each section beside its like
            for heading in page.locator("article").first.locator("h3").all_text_contents():
                tops = [h.bounding_box()["y"] for h in page.get_by_role("heading", name=heading, exact=True).all()]
                assert len(tops) == 2
                assert tops[0] == tops[1]


def test_the_page_is_dark_where_the_reader_is(view) -> None:
    results = [
        view("jaxvae", 1400, s).evaluate("getComputedStyle(document.body).backgroundColor") for s in ("light", "dark")
    ]
    light, dark = (sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) for colour in results)
    assert dark < 150 < 600 < light


@pytest.mark.slow
def test_everything_has_a_name_and_can_be_reached(view) -> None:
    page = view(new=True)
    nameless = """() => [...document.querySelectorAll("img, canvas, svg, input, select, button, [role=region]")]
      .filter((e) => !(e.alt || e.ariaLabel || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    page.locator(".draw").first.focus()
    seen = set()
    for _ in range(16):
        here = page.evaluate("document.activeElement.className || document.activeElement.type || 'other'")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", here
        seen.add(here)
        page.keyboard.press("Tab")
    assert {"draw", "reset", "range"} <= seen
    assert page.evaluate("document.querySelector('.map canvas').tabIndex") == 0


@pytest.mark.slow
def test_a_name_stays_a_name(view, trained, tmp_path) -> None:
    """A folder and a run called so that they would end the page's script and begin another."""
    folder = tmp_path / "a<" / "script><script>throw 1<" / "script><!--"
    shutil.copytree(trained / "signed", folder)
    config = json.loads((folder / "config.json").read_text())
    config["sessions"][0]["device"] = "<img src=x onerror=throw>\ud800\u202e\x1b[31m"
    (folder / "config.json").write_text(json.dumps(config))
    name = "a</script><script>throw 1</script><!--"
    assert cli.main(torchvae, ["report", str(folder), "--names", name, "--out", str(tmp_path / "odd.html")]) == 0
    page = view("odd", folder=tmp_path)
    assert page.locator("h2").text_content() == name
    assert page.locator("script").count() == 2
    assert r"<img src=x onerror=throw>\ud800\u202e\x1b[31m" in page.locator(".facts").last.text_content()
