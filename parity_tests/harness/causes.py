"""A likely cause as a sentence that also says what a program needs to act on it."""

from collections.abc import Iterable
from typing import Any

_UNKNOWN = "PyTorch's value"


class Cause(str):
    """A cause in one short sentence, with its kind, the settings of both frameworks and a remedy.

    The kinds are listed in scripts/docs/parity-reports.md; a sentence of another type of string has none.
    """

    plain: str
    """The sentence without settings."""
    kind: str | None
    """A stable name for programs, as `padding`."""
    remedy: str | None
    """What to change in the JAX model so that it computes what the torch module does; of the two packages, in the one
    that departs from the plain formulas. `{expected}` stands for the setting."""
    found: Any
    """The setting there as a plain JSON value, in the terms of Flax where the frameworks count otherwise; None if
    unknown."""
    expected: Any
    """That of the reference, PyTorch or the plain formulas, in the same terms."""
    code: str | None
    """The function of both packages that computes it, by module and name, if the cause is of them."""
    parts: "tuple[Cause, ...]"
    """The causes that were joined to this one."""
    alternative: bool
    """Whether each of the parts explains the numbers alone."""

    def __new__(
        cls, sentence: str, kind: str | None = None, remedy: str | None = None, found: Any = None, expected: Any = None
    ) -> "Cause":
        self = super().__new__(cls, sentence)
        self.plain, self.kind, self.remedy, self.found, self.expected = sentence, kind, remedy, found, expected
        self.code = None
        self.parts, self.alternative = (), False
        return self

    def of(self, in_jax: Any, in_torch: Any, shown: tuple[Any, Any] | None = None) -> "Cause":
        """Return the cause with both settings, which are `shown` in the sentence if their values can't be."""
        ours, theirs = shown or (in_jax, in_torch)
        return self.saying(f"{self}: {ours} in JAX, {theirs} in PyTorch", in_jax, in_torch)

    def saying(self, sentence: str, found: Any = None, expected: Any = None) -> "Cause":
        """Return the cause in another sentence, with both settings if they are known."""
        other = Cause(sentence, self.kind, self.remedy, found, expected)
        other.plain, other.code = self.plain, self.code
        return other

    def only(self, framework: str, sentence: str | None = None) -> "Cause":
        """Return the cause in another sentence; its settings are whether a framework has it."""
        return self.saying(sentence or f"{self} in {framework}", framework == "JAX", framework != "JAX")

    def at_torch(self) -> "Cause":
        """Return the cause of what the torch module does, so that nothing is known of JAX's."""
        where = " in PyTorch"
        return Cause(self if self.endswith(where) else str(self) + where, self.kind)

    def __add__(self, more: str) -> "Cause":
        return self.saying(str(self) + more, self.found, self.expected)

    @property
    def advice(self) -> str | None:
        """The remedy with the reference's setting in it."""
        shown = f"{self.expected:.12g}" if isinstance(self.expected, float) else str(self.expected)
        shown = _UNKNOWN if self.expected is None else shown
        return self.remedy and self.remedy.replace("{torch}", shown).replace("{expected}", shown)


def joined(causes: Iterable[str], by: str = "; ") -> Cause:
    """Join causes to one sentence: all of them together, or by ` or ` each alone, explain the numbers."""
    parts = tuple(each(cause) for cause in causes)
    if len(parts) == 1:
        return parts[0]
    whole = Cause(by.join(parts))
    whole.parts, whole.alternative = parts, by == " or "
    return whole


def each(cause: str) -> Cause:
    """Return a cause; one without a kind of any other string."""
    return cause if isinstance(cause, Cause) else Cause(cause)
