"""A report as plain JSON values: schema.json beside this file says what each field holds."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parity_tests.harness import causes
from parity_tests.harness.findings import (
    MODULES,
    PRESETS,
    Diagnosis,
    Figure,
    Finding,
    Layer,
    Node,
    Report,
    Source,
    Trajectory,
)
from parity_tests.harness.formats.words import NO_CAUSE, verdict
from parity_tests.harness.loops.report import RunsReport

VERSION = 4

Json = dict[str, Any]

_ELSEWHERE = ("layer", "figures", "configuration")


def of(report: Report | RunsReport) -> Json:
    """Convert a report to plain JSON values."""
    return of_runs(report) if isinstance(report, RunsReport) else of_report(report)


def of_report(report: Report) -> Json:
    """Convert a report of modules, or of the VAE presets, to plain JSON values."""
    presets = report.subject == PRESETS
    return _document(
        compared="presets" if presets else "modules",
        subject=report.subject,
        reference={MODULES: "torch", PRESETS: "formulas"}.get(report.subject),
        passed=report.passed,
        verdict=verdict(report),
        findings=report.findings,
        diagnosis=report.diagnosis,
        tree=report.tree,
        drawn=report.drawn,
        unexercised=report.unexercised,
        left_out=report.left_out,
        distances=[one._asdict() for one in report.distances],
        trajectories=report.trajectories,
        about=report.about,
    )


def of_runs(report: RunsReport) -> Json:
    """Convert a report of two runs to plain JSON values."""
    return _document(
        compared="runs",
        subject="The two runs",
        reference="torch",
        passed=report.passed,
        verdict=str(report).splitlines()[0],
        step=report.step,
        quantity=report.quantity,
        findings=report.findings,
        diagnosis=report.diagnosis,
        tree=report.tree,
        not_compared=report.not_compared,
        trajectories=() if report.trajectory is None else (report.trajectory,),
        about=report.about,
    )


def _document(
    *,
    findings: tuple[Finding, ...],
    diagnosis: Diagnosis | None,
    tree: Node | None,
    trajectories: tuple[Trajectory, ...],
    about: dict[str, object],
    **rest: Any,
) -> Json:
    lists = dict.fromkeys(("drawn", "unexercised", "left_out", "not_compared", "distances"), ())
    every = [] if diagnosis is None else [diagnosis, *diagnosis.more]
    listed = [(one, cause) for one in every for cause in _causes(one)]
    return plain(
        {
            "version": VERSION,
            **{"step": None, "quantity": None, **lists, **rest},
            "findings": [{**finding._asdict(), "passed": finding.passed} for finding in findings],
            "causes": [cause for _, cause in listed],
            "diagnosis": diagnosis and _diagnosis(diagnosis),
            "tree": tree and _node(tree, [one for one, _ in listed]),
            "trajectories": [trajectory._asdict() for trajectory in trajectories],
            "about": about,
        }
    )


def _diagnosis(diagnosis: Diagnosis) -> Json:
    fields = {name: value for name, value in diagnosis._asdict().items() if name not in _ELSEWHERE}
    return {**fields, "more": [_diagnosis(one) for one in diagnosis.more]}


def _causes(diagnosis: Diagnosis) -> Iterator[Json]:
    """Yield an entry for each cause of a diagnosis, or one without a kind where none is known."""
    whole = causes.each(diagnosis.cause or NO_CAUSE)
    layer = diagnosis.layer or Layer()
    for cause in whole.parts or (whole,):
        yield {
            "where": diagnosis.where,
            "kind": cause.kind,
            "cause": str(cause) if diagnosis.cause else None,
            "backend": diagnosis.backend,
            "layer": {"jax": _side(layer.jax, layer.jax_source), "torch": _side(layer.torch, layer.torch_source)},
            "difference": diagnosis.difference,
            "expected": cause.expected,
            "found": cause.found,
            "remedy": cause.advice,
            "alternative": whole.alternative,
            "sentence": _sentence(diagnosis, layer, cause),
        }


def _side(name: str | None, source: Source | None) -> Json | None:
    if name is None and source is None:
        return None
    found = source and {"class": source.name, "file": source.file, "line": source.line}
    return {"name": name, **(found or {"class": None, "file": None, "line": None})}


def _sentence(diagnosis: Diagnosis, layer: Layer, cause: causes.Cause) -> str:
    """Name layer, file, cause, both settings and remedy in one sentence."""
    sources = {"JAX": layer.jax_source, "PyTorch": layer.torch_source}
    if diagnosis.backend:  # the other package is right
        sources.pop("PyTorch" if diagnosis.backend == "jaxvae" else "JAX")
    known = [f"{source} in {framework}" for framework, source in sources.items() if source]
    place = f" ({', '.join(known)})" if known else ""
    backend = f"{diagnosis.backend} departs from the plain formula: " if diagnosis.backend else ""
    said = str(cause).removesuffix(".")
    if cause.expected is not None and cause.found is not None:
        said = f"{cause.plain}; expected {shown(cause.expected)}, found {shown(cause.found)}"
    remedy = f"; to repair it, {cause.advice}" if cause.advice else ""
    return f"{diagnosis.where}{place}: {backend}{said}{remedy}."


def shown(value: object) -> str:
    """A setting as it is written in a sentence."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _node(node: Node, diagnoses: list[Diagnosis], root: bool = True, configuration: str = "") -> Json:
    layer = node.layer or Layer()
    named = "" if root else _name(layer)
    several = any(one.configuration for one in diagnoses)
    return {
        "name": node.name,
        "jax": layer.jax,
        "torch": layer.torch,
        "class": node.kind or None,
        "status": node.status,
        "first": node.first,
        "figures": [_figure(figure) for figure in node.figures],
        "causes": [
            i
            for i, one in enumerate(diagnoses)
            if named is not None and one.layer and _name(one.layer) == named and one.configuration == configuration
        ],
        "children": [
            _node(child, diagnoses, False, configuration or (child.name if several else "")) for child in node.children
        ],
    }


def _name(layer: Layer) -> str | None:
    """A layer's name in torch, or in JAX if torch has none."""
    return layer.jax if layer.torch is None else layer.torch


def _figure(figure: Figure) -> Json:
    return {**figure._asdict(), "direction": figure.direction or None, "passed": figure.passed}


def plain(value: Any) -> Any:
    """Convert a value to plain JSON values; floats that are not finite become strings."""
    match value:
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case float() if not np.isfinite(value):
            return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case str():
            return str(value)
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
    return value
