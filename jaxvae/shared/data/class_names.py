"""The names of classes."""

import string
from collections.abc import Iterable, Sequence

_CHARACTERS = string.digits + string.ascii_uppercase
_MERGED = tuple(_CHARACTERS + "abdefghnqrt")  # the other small letters look like their capitals

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "fashion-mnist": (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "emnist": _MERGED,
    "emnist:balanced": _MERGED,
    "emnist:bymerge": _MERGED,
    "emnist:byclass": tuple(_CHARACTERS + string.ascii_lowercase),
    "emnist:letters": tuple(string.ascii_lowercase),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""The names of the published data sets' classes by label, as their authors list them; digits have none but their
numbers."""


def label_names(names: Sequence[str], labels: Iterable[int]) -> list[str]:
    """Name the classes of labels: by their numbers where there are no names."""
    return [names[label] if label < len(names) else str(label) for label in map(int, labels)]
