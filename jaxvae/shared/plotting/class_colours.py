"""The colours of classes, the same for a class in every picture, whichever classes the picture shows."""

import colorsys

_FIRST = (
    *("#4e8fd0", "#f28e2b", "#e15759", "#3fb3a6", "#59a14f"),
    *("#c9a11b", "#b07aa1", "#ff8fa3", "#9c755f", "#8a97a3"),
)
_TURN = 137.5 / 360  # of the colour wheel: the golden angle, after which no two classes meet soon


def class_colour(label: int) -> str:
    """Return the colour of a class as #rrggbb, which can be told from white and from black.

    Args:
        label: The class, from 0.

    Returns:
        One of ten distinct colours for the first ten classes, then others by their hue.
    """
    if label < len(_FIRST):
        return _FIRST[label]
    rgb = colorsys.hls_to_rgb(label * _TURN % 1, 0.45 if label % 2 else 0.6, 0.6)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
