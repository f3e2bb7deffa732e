"""Which runs' losses have the same scale, and can share the axes of a picture."""

import itertools
from collections.abc import Sequence

from jaxvae.shared.runs.run_folder import Run

_RANGES = {"unit": "[0, 1]", "signed": "[-1, 1]"}


def scales(runs: Sequence[Run]) -> list[tuple[str, list[int]]]:
    """Group runs by the scale of their losses: the likelihood, and the size and the range of the images.

    What the optimizer minimizes may be a mean over pixels; the recorded losses are nats per image in every run.

    Args:
        runs: The runs.

    Returns:
        For each scale what tells it from the others, empty if there is one, and the numbers of its runs.
    """
    parts = []
    for run in runs:
        model = run.spec.model
        size = "x".join(map(str, model.image))
        variance = 1.0 if model.likelihood == "gaussian-learned" else model.variance  # which only starts with it
        likelihood = model.likelihood if model.parts.nll is None else model.parts.record["nll"].name
        parts.append((likelihood, f"variance {variance:g}", f"{size} pixels in {_RANGES[run.spec.images.range]}"))
    differ = [len(set(values)) > 1 for values in zip(*parts, strict=True)]
    return [
        (", ".join(itertools.compress(kind, differ)), [i for i, other in enumerate(parts) if other == kind])
        for kind in dict.fromkeys(parts)
    ]


def common_terms(runs: Sequence[Run]) -> list[str]:
    """The terms that all of the runs have, the loss first."""
    return [term for term in runs[0].spec.terms if all(term in run.spec.terms for run in runs)]
