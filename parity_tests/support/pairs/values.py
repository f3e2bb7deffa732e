"""What flows between two blocks: the kind of the array and its shape without the batch."""

from dataclasses import dataclass, replace

ROWS, SEQUENCE, TOKENS = "rows", "sequence", "tokens"
SIGNAL, IMAGE, VOLUME = "signal", "image", "volume"
GRIDS = (SIGNAL, IMAGE, VOLUME)
"""Arrays with channels second in torch and last in Flax."""


@dataclass(frozen=True)
class Value:
    """The shape of an array."""

    kind: str
    features: int
    """Channels or features; of tokens, the number of words."""
    sides: tuple[int, ...] = ()
    """The length of a sequence, or the sides of a grid."""

    def of(self, features: int) -> "Value":
        """Return the same with another number of features."""
        return replace(self, features=features)

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape in torch's layout."""
        if self.kind == TOKENS:
            return (batch, *self.sides)
        return (batch, self.features, *self.sides) if self.kind in GRIDS else (batch, *self.sides, self.features)
