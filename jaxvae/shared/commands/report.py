"""The report command: a web page about runs."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from jaxvae.shared.analysis import evaluation, latents
from jaxvae.shared.analysis.evaluation import CHEAP, reason_not_applicable, take
from jaxvae.shared.analysis.reconstructions import reconstruct
from jaxvae.shared.analysis.trained_model import TrainedModel, trained_model
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import PartsFile, RunDataRoot, RunPaths, chosen_runs, open_images, open_run
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description, requirements
from jaxvae.shared.plotting import image_grid, svg_charts
from jaxvae.shared.plotting.figure_flags import RunNames, data_name, require_title, run_names
from jaxvae.shared.report import explorer, neighbours, overview, webpage
from jaxvae.shared.runs import command_line, measures_record, metrics, parity_record, run_folder
from jaxvae.shared.runs.metrics_parts import SPLITS
from jaxvae.shared.text import LONGEST, counted, from_here, printable, say

_SAMPLES, _PAIRS = 64, 32  # images
_EACH = 8  # samples of each class
_TRAVERSED = 10  # latents at most
_HIGHLIGHTS = ("terms", "squared-error", "active-units")  # measures in large type


@dataclass(frozen=True)
class Report:
    """Write a web page about runs: learning curves, samples, reconstructions, latent traversals, measures, and an
    explorer in which sliders move the latents and the decoder redraws the image. It is one file, which any browser
    opens offline.

    It includes the results that evaluate and scripts/parity.py --run stored in the run folders. For example, two runs
    side by side:

        report runs/jaxvae-1 runs/torchvae-1 --out report.html
    """

    run: RunPaths
    out: Path
    """The HTML to write."""
    title: Annotated[str, tyro.conf.arg(help_behavior_hint="")] = ""
    """The title of the page."""
    names: RunNames = ()
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""
    parts: PartsFile = None


def run(backend: Backend, command: Report) -> None:
    """Write the page, and say so.

    Args:
        backend: The package that evaluates and draws.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    n = write(backend, command)
    say(f"{'a run' if n == 1 else f'{n} runs'} in {command.out}")


def write(backend: Backend, command: Report) -> int:
    """Write the page, and return the number of runs in it. Raises InputError if the request is invalid."""
    require_html(command.out)
    require_title(command.title)
    runs = chosen_runs(backend, command.run)
    if not runs:
        raise InputError("There is nothing to report on; give one run folder or more.")
    names = run_names(runs, command.names)
    articles, content, opened, highlights = [], [], [], []
    for number, path in enumerate(runs):
        if len(runs) > 1:
            say(f"{backend.__name__}: {names[number]}, run {number + 1} of {len(runs)} ...", sys.stderr)
        run, weights = open_run(backend, path, command.device)  # one at a time: float64 is set for the whole process
        model = trained_model(backend, run, weights, open_images(run, command.data_root))
        space = latents.space(run.spec, model.latents, str(path))
        name = names[number]
        measured = _measured(model)
        opened.append(run)
        highlights.append(_highlights(model, measured))
        articles.append(_article(number, name, model, space, measured))
        content.append(explorer.content(model, space, printable(name, LONGEST)))
    n = len(articles)
    title = command.title or "Report on " + (names[0] if n == 1 else f"{n} runs")
    heading = command.title or ("A trained model" if n == 1 else f"{n} trained models")
    lead = "This page is one file and needs no network."
    if any(one["decoder"] for one in content):
        lead += " Move a slider to decode another latent: the decoder runs in the browser."
    compared = overview.overview(opened, [article.name for article in articles], highlights) if n > 1 else ""
    save(webpage.page(title, heading, lead, articles, content, compared), command.out)
    return n


def require_html(path: Path) -> None:
    """Raise InputError unless the path ends in .html and can be written; call it before slow work."""
    if path.suffix.lower() != ".html":
        raise InputError(f"Reports are written as HTML: {path} should end in .html.")
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            f"The report {path} can't be written: its folder must exist and be writable; give another --out."
        )


def save(page: bytes, path: Path) -> None:
    """Write the page, whole or not at all, with links to those beside it. Raises InputError if it can't be written."""
    try:
        neighbours.write(path, page)
    except OSError as error:
        raise InputError(f"The report {path} can't be written ({error.strerror}); give another --out.") from None


def _article(
    number: int, name: str, model: TrainedModel, space: latents.Space, measured: dict[str, evaluation.Figures]
) -> webpage.Article:
    run, spec = model.run, model.run.spec
    summary = description.summary(replace(spec, data=data_name(spec.data)))
    lead = webpage.paragraph(summary, "soft") + webpage.figures(_highlights(model, measured))
    sections = {
        "Latent explorer": webpage.explorer(number),
        "Learning curves": _curves(model),
        "Samples": _samples(model),
        "Reconstructions": _reconstructions(model),
        "Latent traversals": _traversals(model, space),
        "Measures": _measures(model, measured),
        "Model": _model(model),
        "Agreement of the two packages": _agreement(run),
        "Command to reproduce": _command(run),
    }
    return webpage.Article(name, lead, sections)


def _measured(model: TrainedModel) -> dict[str, evaluation.Figures]:
    """The stored measures of the run's last step, and those of the cheap ones that are missing, taken now."""
    step = {"step": model.step, "epoch": model.epoch}
    stored = measures_record.read(model.run)
    current = {name: figures for name, figures in stored.items() if step.items() <= figures.items()}
    spec = model.run.spec
    missing = [name for name in CHEAP if name not in current and reason_not_applicable(spec, name) is None]
    return current | take(model, missing)


def _highlights(model: TrainedModel, measured: dict[str, evaluation.Figures]) -> list[evaluation.Row]:
    terms = [(f"test {term}", f"{measured['terms'][term]:.2f}", "nats per image") for term in model.run.spec.terms]
    return terms + [row for name in _HIGHLIGHTS if name in measured for row in evaluation.rows(name, measured[name])]


def _curves(model: TrainedModel) -> str:
    records = metrics.to_draw(model.run)
    if not records:
        return ""
    splits = [split for split in SPLITS if any(record["split"] == split for record in records)]
    kept = f"The weights are those of epoch {model.epoch}, the best by validation loss."
    best = webpage.paragraph(kept, "soft") if "validation" in splits else ""
    return webpage.curves(svg_charts.learning_curves(records, model.run.spec.terms), splits) + best


def _samples(model: TrainedModel) -> str:
    if not requirements.has_prior(model.run.spec):
        return ""
    classes = model.run.spec.model.classes
    n = classes * _EACH or _SAMPLES
    caption, images = f"{counted(n, 'image')} drawn from the prior", explorer.samples(model, n)
    if not classes:
        return webpage.picture(image_grid.grid(images), f"{caption}.", f"{caption}, from the run's seed.")
    rows, of = image_grid.by_class(images, classes)
    strips = [
        (name, "", image_grid.grid(row, _EACH), f"Images of the class {name}, drawn from the prior.")
        for name, row in zip(label_names(model.data.class_names, of), rows, strict=True)
    ]
    return webpage.paragraph(f"{caption} from the run's seed, a row for each class.", "soft") + webpage.strips(strips)


def _reconstructions(model: TrainedModel) -> str:
    n = min(_PAIRS, len(model.data.test))
    chosen = spread(model.data.test_labels, n)
    reconstructions = reconstruct(model.backend, model.run.spec, model.weights, model.data, chosen)
    caption = f"{counted(n, 'test image')} of {data_name(model.data.name)}, each above its reconstruction."
    return webpage.picture(image_grid.pairs(model.data.test[chosen] / 255, reconstructions, 8), caption, caption)


def _traversals(model: TrainedModel, space: latents.Space) -> str:
    rows = []
    for latent in space.order[:_TRAVERSED]:
        span = f"from {space.low[latent]:.3g} to {space.high[latent]:.3g}"
        images = explorer.images(model, explorer.along(space, latent))[::2]
        alt = f"Decoded images with latent {latent + 1} {span}."
        activity = f"{space.activity[latent]:.3g} {space.unit}"
        rows.append((f"latent {latent + 1}", activity, image_grid.grid(images, len(images)), alt))
    kind = "KL divergence from the prior" if space.unit == "nats" else "variance over test images"
    centre = "at 0" if requirements.has_prior(model.run.spec) else "at their means over test images"
    which = "Each latent" if len(rows) == len(space.order) else f"Each of the {len(rows)} most active latents"
    caption = f"{which} over the range of its slider, the others {centre}, by falling {kind}."
    if model.run.spec.model.classes:
        caption += f" The class is {label_names(model.data.class_names, [0])[0]}."
    return webpage.paragraph(caption, "soft") + webpage.strips(rows)


def _measures(model: TrainedModel, measured: dict[str, evaluation.Figures]) -> str:
    rows = [(term, f"{measured['terms'][term]:.3f}", "nats per image") for term in model.run.spec.terms]
    for name, figures in measured.items():
        if name != "kl-by-latent":
            rows += evaluation.rows(name, figures)
    after = f"after {counted(model.step, 'step')}" if model.step else "with the imported weights"
    caption = f"On {counted(len(model.data.test), 'test image')} of {data_name(model.data.name)}, {after}."
    html = webpage.paragraph(caption, "soft") + webpage.table(("measure", "value", "unit"), rows, "Measures", (1,))
    if "kl-by-latent" in measured:
        by_latent = evaluation.rows("kl-by-latent", measured["kl-by-latent"])
        table = webpage.table(("latent", "value", "unit"), by_latent, "KL by latent", (1,))
        html += webpage.disclosure("KL divergence of each latent", table)
    return html


def _model(model: TrainedModel) -> str:
    spec = replace(model.run.spec, data=data_name(model.run.spec.data))
    rows = [(name, words, f"{size:,}") for name, words, size in description.layers(spec)]
    layers = webpage.table(("layer", "operation", "parameters"), rows, "Layers", (2,))
    return webpage.facts(description.facts(spec, model.run.own_loop)) + webpage.disclosure(
        f"{len(rows)} layers", layers
    )


def _agreement(run: run_folder.Run) -> str:
    record = parity_record.read(run)
    if record is None:
        return ""
    head, rows = parity_record.brief(record.levels)
    verdict = webpage.paragraph(record.verdict, "pass" if record.passed else "fail")
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    runs = webpage.paragraph(f"Runs of {record.steps:,} steps from the same seed; {versions}.", "soft")
    return verdict + runs + webpage.table(head, rows, "Agreement", range(1, len(head)))


def _command(run: run_folder.Run) -> str:
    command = command_line.command(run)
    if run.own_loop:
        return webpage.paragraph("It was trained by a loop of its user's own: no command trains it again.")
    if command is None:
        return webpage.paragraph(f"It was imported from {run.config['imported'].get('file')}, not trained here.")
    sessions = {}
    for number, session in enumerate(run.config["sessions"], 1):  # several can start at the same step
        versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items())
        start = f"from step {session['from_step']:,} by {session['framework']} on {session['device']}"
        sessions[f"session {number}"] = f"{start}, {session['created']}: {versions}"
    data = run.config["data"]
    images = f"Images of {data_name(data['name'])}: {data['train']:,} for training, {data['test']:,} for testing, "
    images += f"SHA-256 {data['digest'][:12]}..."
    return webpage.command(from_here(command)) + webpage.paragraph(images, "soft") + webpage.facts(sessions)
