"""The command that writes a page about runs: what they are, learned and can draw."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxvae.shared import safe_io
from jaxvae.shared.analysis import evaluation, latents
from jaxvae.shared.analysis.evaluation import CHEAP, reason_not_applicable, take
from jaxvae.shared.analysis.trained_model import TrainedModel, trained_model
from jaxvae.shared.commands.common import Device, RunPaths, open_images, open_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description, requirements
from jaxvae.shared.plotting import image_grid, svg_charts
from jaxvae.shared.report import explorer, webpage
from jaxvae.shared.runs import command_line, measures_record, metrics, parity_record, run_folder

_SAMPLES, _PAIRS, _COLUMNS = 64, 32, 16  # images; classes that have a column each at most
_AXES = 10  # latents that are traversed
_MEANWHILE = ("terms", "squared-error", "active-units")  # what is shown large


@dataclass(frozen=True)
class Report:
    """Write one page about runs: learning curves, samples, reconstructions, what each latent does, measures, and an
    explorer in which the decoder answers to sliders. It is one file that any browser opens, without a network.

    What evaluate has kept in a run's folder is in it, and what scripts/parity.py --run has. For example, two runs side
    by side:

        report runs/jaxvae-1 runs/torchvae-1 --out report.html
    """

    run: RunPaths
    """The run folders, whichever package wrote them."""
    out: Path
    """The HTML to write."""
    data_root: Path | None = None
    """The folder that holds the data. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


def report(side: Any, command: Report) -> None:
    """Writes the page. Raises InputError for what can't be done as asked."""
    require_html(command.out)
    if not command.run:
        raise InputError("There is nothing to report on; give one run folder or more.")
    articles, content = [], []
    for number, path in enumerate(command.run):
        run, weights = open_run(side, path, command.device)  # one after another: a precision is the process's
        seen = trained_model(side, run, weights, open_images(run, command.data_root))
        space = latents.space(run.spec, seen.latents, str(path))
        articles.append(_article(number, seen, space))
        content.append(explorer.content(seen, space, str(path)))
    n = len(articles)
    title = "A report on " + (str(command.run[0]) if n == 1 else f"{n} runs")
    heading = "What a run has learned" if n == 1 else f"What {n} runs have learned"
    lead = "All of this page is in its file."
    if any(one["decoder"] for one in content):
        lead += " Move a slider, and the decoder answers: it runs here, in the browser."
    save(webpage.page(title, heading, lead, articles, content), command.out)
    print(f"{'a run' if n == 1 else f'{n} runs'} in {command.out}")


def require_html(path: Path) -> None:
    """Raises InputError unless a page can be called so and written there; worth asking before what takes long."""
    if path.suffix.lower() != ".html":
        raise InputError(f"Reports are written as HTML: {path} should end in .html.")
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"The report {path} can't be written: its folder should be there; give another --out.")


def save(page: bytes, path: Path) -> None:
    """Writes the page whole or not at all."""
    try:
        safe_io.write_atomically(path, page)
    except OSError as error:
        raise InputError(f"The report {path} can't be written ({error.strerror}); give another --out.") from None


def _article(number: int, seen: TrainedModel, space: latents.Space) -> webpage.Article:
    run, spec = seen.run, seen.run.spec
    measured = _measured(seen)
    lead = webpage.paragraph(description.summary(spec), "soft") + webpage.figures(_large(seen, measured))
    sections = {
        "Explore the latents": webpage.explorer(number),
        "Learning curves": _curves(seen),
        "Samples": _samples(seen),
        "Reconstructions": _reconstructions(seen),
        "What each latent does": _traversals(seen, space),
        "Measures": _measures(seen, measured),
        "What it is": _what(seen),
        "Agreement of the two packages": _agreement(run),
        "The same run again": _again(run),
    }
    return webpage.Article(str(run.path), lead, sections)


def _measured(seen: TrainedModel) -> dict[str, dict[str, Any]]:
    """What evaluate has kept of the run as it stands, and what is cheap taken now."""
    step = {"step": seen.step, "epoch": seen.epoch}
    kept = {name: found for name, found in measures_record.read(seen.run).items() if step.items() <= found.items()}
    cheap = [name for name in CHEAP if name not in kept and reason_not_applicable(seen.run.spec, name) is None]
    return kept | take(seen, cheap)


def _large(seen: TrainedModel, measured: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    found = [(f"test {term}", f"{measured['terms'][term]:.2f}", "nats per image") for term in seen.run.spec.terms]
    return found + [row for name in _MEANWHILE if name in measured for row in evaluation.rows(name, measured[name])]


def _curves(seen: TrainedModel) -> str:
    records = metrics.read(seen.run)
    if not records:
        why = "the run was imported" if "imported" in seen.run.config else "its metrics.jsonl is empty"
        return webpage.paragraph(f"Its training was not recorded here: {why}.")
    splits = [split for split in ("train", "test") if any(record["split"] == split for record in records)]
    return webpage.curves(svg_charts.learning_curves(records, seen.run.spec.terms), splits)


def _samples(seen: TrainedModel) -> str:
    if not requirements.has_prior(seen.run.spec):
        return webpage.paragraph("This model has no prior to draw from.")
    classes = seen.run.spec.model.classes
    columns = classes if 1 < classes <= _COLUMNS else None
    n = columns * 6 if columns else _SAMPLES
    told = f"{n} images drawn from the prior" + (", a column for each class" if columns else "")
    return webpage.picture(
        image_grid.grid(explorer.samples(seen, n), columns), f"{told}.", f"{told}, from the run's seed."
    )


def _reconstructions(seen: TrainedModel) -> str:
    n = min(_PAIRS, len(seen.data.test))
    shown = seen.data.test[:n]
    again = seen.side.reconstruct(seen.run.spec, seen.weights, shown, seen.data.test_labels[:n])
    told = f"The first {n} test images of {seen.data.name}, each above its reconstruction."
    return webpage.picture(image_grid.pairs(shown / 255, again, 8), told, told)


def _traversals(seen: TrainedModel, space: latents.Space) -> str:
    rows = []
    for latent in space.order[:_AXES]:
        span = f"from {space.low[latent]:.3g} to {space.high[latent]:.3g}"
        images = explorer.images(seen, explorer.along(space, latent))[::2]
        alt = f"What is decoded as latent {latent + 1} goes {span}."
        figure = f"{space.activity[latent]:.3g} {space.unit}"
        rows.append((f"latent {latent + 1}", figure, image_grid.grid(images, len(images)), alt))
    kind = "KL divergence from the prior" if space.unit == "nats" else "variance over test images"
    where = "at 0" if requirements.has_prior(seen.run.spec) else "at their means over test images"
    told = "The class is 0. " if seen.run.spec.model.classes else ""
    some = "Each latent" if len(rows) == len(space.order) else f"The {len(rows)} latents that say most, each"
    span = f"{some} from end to end of its slider, the others {where}; by {kind}. {told}"
    return webpage.paragraph(span, "soft") + webpage.strips(rows)


def _measures(seen: TrainedModel, measured: dict[str, dict[str, Any]]) -> str:
    rows = [(term, f"{measured['terms'][term]:.3f}", "nats per image") for term in seen.run.spec.terms]
    rows += [row for name, found in measured.items() if name != "kl-by-latent" for row in evaluation.rows(name, found)]
    after = f"after {seen.step:,} steps" if seen.step else "as its weights are"
    told = f"Of {len(seen.data.test):,} test images of {seen.data.name}, {after}."
    found = webpage.paragraph(told, "soft") + webpage.table(("measure", "value", "unit"), rows, "Measures", (1,))
    if "kl-by-latent" in measured:
        inner = evaluation.rows("kl-by-latent", measured["kl-by-latent"])
        each = webpage.table(("latent", "value", "unit"), inner, "KL by latent", (1,))
        found += webpage.disclosure("KL divergence of each latent", each)
    return found


def _what(seen: TrainedModel) -> str:
    spec = seen.run.spec
    rows = [(name, words, f"{size:,}") for name, words, size in description.layers(spec)]
    layers = webpage.table(("layer", "what it does", "parameters"), rows, "Layers", (2,))
    return webpage.facts(description.facts(spec)) + webpage.disclosure(f"Its {len(rows)} layers", layers)


def _agreement(run: run_folder.Run) -> str:
    found = parity_record.read(run)
    if found is None:
        told = "Whether jaxvae and torchvae agree on this configuration was not measured; this measures and keeps it:"
        return webpage.paragraph(told, "soft") + webpage.command(
            shlex.join(["python", "scripts/parity.py", "--run", str(run.path)])
        )
    head, rows = parity_record.brief(found.levels)
    verdict = webpage.paragraph(found.verdict, "pass" if found.passed else "fail")
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    about = webpage.paragraph(f"Runs of {found.steps:,} steps from the same seed; {versions}.", "soft")
    return verdict + about + webpage.table(head, rows, "Agreement", range(1, len(head)))


def _again(run: run_folder.Run) -> str:
    again = command_line.command(run)
    if again is None:
        return webpage.paragraph(f"It was imported from {run.config['imported'].get('file')}, not trained here.")
    sessions = {}
    for number, session in enumerate(run.config["sessions"], 1):  # of which several may begin at the same step
        versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items())
        told = f"from step {session['from_step']:,} by {session['framework']} on {session['device']}"
        sessions[f"session {number}"] = f"{told}, {session['created']}: {versions}"
    about = f"Images of {run.config['data']['name']}: {run.config['data']['train']:,} to train on, "
    about += f"{run.config['data']['test']:,} to test on, SHA-256 {run.config['data']['digest'][:12]}..."
    return webpage.command(again) + webpage.paragraph(about, "soft") + webpage.facts(sessions)
