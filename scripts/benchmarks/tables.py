"""Format the times as Markdown: medians with minimum and maximum."""

from benchmarks import sections
from benchmarks.timing import Timed
from jaxvae.shared.text import markdown_table

_TITLES = {
    "training": "Training, {images:,} images an epoch, batch {batch:,}",
    "evaluation": "Evaluation: the log-likelihood of {images:,} images by {samples:,} samples each",
    "sampling": "Sampling {images:,} images",
    "start": "Start-up: a command that trains one epoch of {images:,} images, from its start to its end",
    "memory": "Memory of a process that trains on {images:,} images, batch {batch:,}",
}
_AXES = {"hidden": "hidden units", "batch": "batch", "images": "images", "samples": "samples k (IWAE)"}


def to_markdown(times: list[Timed]) -> str:
    """Format all times, section by section."""
    parts = []
    for section in dict.fromkeys(timed.section for timed in times):
        mine = [timed for timed in times if timed.section == section]
        if section == "scaling":
            parts.append(_scaling(mine))
            continue
        for where in dict.fromkeys((t.where["images"], t.where.get("batch")) for t in mine):
            group = [t for t in mine if (t.where["images"], t.where.get("batch")) == where]
            table = {"training": _training, "memory": _memory, "start": _start}.get(section, _rates)(group)
            parts.append(f"## {_TITLES[section].format(**group[0].where)}\n\n{table}")
    return "\n\n".join(parts)


def _training(group: list[Timed]) -> str:
    by_name = {timed.name: timed for timed in group}
    columns = {name: f"of {name}'s speed" for name in (sections.TUTORIAL, sections.JAXVAE) if name in by_name}
    limit = by_name[sections.LIMIT]
    head = ["training loop", "images per second", "least to most", "seconds", *columns.values(), "GFLOP/s", "of limit"]
    rows = []
    for timed in group:
        ratios = [f"{timed.rate / by_name[name].rate:.2f}" for name in columns]
        speed = timed.flops / timed.median
        of_limit = f"{timed.rate / limit.rate:.0%}"
        rows.append([timed.name, *_rate(timed), f"{timed.median:.3f}", *ratios, f"{speed / 1e9:.1f}", of_limit])
    each = group[0].flops / group[0].images
    return (
        f"{_table(head, rows)}\n\nAn image's products are {each / 1e6:.3f} MFLOP, forward and backward, counted from "
        f"the shapes; GFLOP/s are of them alone. The limit is {limit.name}."
    )


def _rates(group: list[Timed]) -> str:
    head = ["by", "images per second", "least to most", "seconds", f"of {sections.JAXVAE}'s speed", "GFLOP/s"]
    ours = next(timed for timed in group if timed.name == sections.JAXVAE)
    rows = []
    for timed in group:
        ratio, speed = timed.rate / ours.rate, timed.flops / timed.median
        rows.append([timed.name, *_rate(timed), f"{timed.median:.3f}", f"{ratio:.2f}", f"{speed / 1e9:.1f}"])
    return _table(head, rows)


def _start(group: list[Timed]) -> str:
    rows = [[t.name, f"{t.median:.2f}", f"{min(t.seconds):.2f} to {max(t.seconds):.2f}"] for t in group]
    return _table(["command", "seconds", "least to most"], rows)


def _memory(group: list[Timed]) -> str:
    own = any(timed.where["device"] is not None for timed in group)
    head = ["training loop", "MiB at most", "MiB before", *(["MiB of the device"] if own else [])]
    rows = []
    for timed in group:
        sizes = [timed.where["peak"], timed.where["before"], *([timed.where["device"]] if own else [])]
        rows.append([timed.name, *("" if size is None else f"{size / 2**20:,.0f}" for size in sizes)])
    return f"{_table(head, rows)}\n\nBefore: with the modules imported and the images read."


def _scaling(times: list[Timed]) -> str:
    parts = []
    for axis in dict.fromkeys(timed.where["axis"] for timed in times):
        mine = [timed for timed in times if timed.where["axis"] == axis]
        names = list(dict.fromkeys(timed.name for timed in mine))
        size = [] if axis == "images" else ["images"]
        head = [_AXES[axis], *size, *(f"{name}, µs per image" for name in names), "GFLOP/s of jaxvae"]
        rows = []
        for place in dict.fromkeys(timed.where[axis] for timed in mine):
            here = {timed.name: timed for timed in mine if timed.where[axis] == place}
            costs = [f"{1e6 / here[name].rate:.2f} ({_micro(here[name])})" for name in names]
            ours = here[sections.JAXVAE]
            size = [] if axis == "images" else [f"{ours.images:,}"]
            rows.append([f"{place:,}", *size, *costs, f"{ours.flops / ours.median / 1e9:.1f}"])
        parts.append(f"## Cost by {_AXES[axis]}\n\n{_table(head, rows)}")
    return "\n\n".join(parts)


def _rate(timed: Timed) -> tuple[str, str]:
    median, low, high = (f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" for rate in (timed.rate, *timed.span))
    return median, f"{low} to {high}"


def _micro(timed: Timed) -> str:
    low, high = timed.span
    return f"{1e6 / high:.2f} to {1e6 / low:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return markdown_table(head, rows, padded=False)
