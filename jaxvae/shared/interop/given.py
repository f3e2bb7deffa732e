"""What a file's tensors leave open, as the user gives it."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import tyro

from jaxvae.shared.config import layer_words
from jaxvae.shared.config.choices import Activation, Binarization, Output, PosteriorName, Range, Units
from jaxvae.shared.config.likelihoods import LikelihoodName
from jaxvae.shared.config.networks import NetworkName
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec

_PRESET_HELP = f"The preset to assume where the tensors do not show the loss; one of {', '.join(PRESETS)}."


@dataclass(frozen=True)
class Given:
    """What the tensors do not show. What is not given is assumed, and printed."""

    preset: Annotated[str | None, tyro.conf.arg(help=_PRESET_HELP, help_behavior_hint="")] = None
    image: tuple[int, int, int] | None = None
    """Height, width and channels of an image, where the tensors leave that open. By default a square image, grey if
    possible."""
    range: Range | None = None
    """The pixels that the model was trained on: in [0, 1] (`unit`) or [-1, 1] (`signed`)."""
    binarization: Binarization | None = None
    """How its pixels became 0 or 1, as in train."""
    network: NetworkName | None = None
    """Its kind of network, for a table of names or where programs of two kinds have the same names: `mlp`, `conv` or
    `layers`, as in train."""
    encoder: tuple[str, ...] | None = None
    """Its encoder's layers in words, for a table of names and the network `layers`, as in train."""
    decoder: tuple[str, ...] | None = None
    """Its decoder's layers in such words."""
    activation: Activation | None = None
    """Its activation after every hidden layer."""
    slope: float | None = None
    """The slope of `leaky-relu` below 0."""
    posterior: PosteriorName | None = None
    """What its encoder's output means: `gaussian` is mean and log-variance; the others as in train."""
    likelihood: LikelihoodName | None = None
    """The likelihood that it was trained with, as in train."""
    variance: float | None = None
    """The variance of the `gaussian` likelihood."""
    output: Output | None = None
    """The function after its last layer: `bounded` is a sigmoid for pixels in [0, 1] and tanh in [-1, 1]; `linear` is
    none; `tanh` is tanh for pixels in [0, 1]."""
    classes: int | None = None
    """Number of classes, whose one-hot label both networks take after their other inputs."""
    beta: float | None = None
    """The weight of the KL divergence in its loss."""
    units: Units | None = None
    """Whether its loss is per `image`, per `pixel`, or `mixed`, as in train."""

    def over(self, other: "Given") -> "Given":
        """Take what is not given here from another."""
        return replace(other, **self._set())

    def applied(self, spec: Spec) -> Spec:
        """Put what is given into a configuration, all but the sizes.

        Args:
            spec: The configuration, a preset's.

        Returns:
            The configuration with these fields.

        Raises:
            InputError: If a field is invalid, or incompatible with another.
        """
        given, parts = self._set(), {}
        for name in ("model", "objective", "images"):
            part = getattr(spec, name)
            chosen = {f.name: given[f.name] for f in fields(part) if f.name in given and f.name != "image"}
            if name == "model" and chosen.get("network") == "layers" and self.decoder:
                chosen |= {"hidden": (), "image": self.image or layer_words.image(self.decoder)}
            parts[name] = replace(part, **chosen)
        return replace(spec, **parts)

    def flags(self) -> list[str]:
        """What is given, as flags of the command line."""
        return [f"--{name} {' '.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in self._set().items()]

    def _set(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}
