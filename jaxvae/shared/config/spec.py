"""The configuration of a run."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from typing_extensions import Doc

from jaxvae.shared.config.compatibility import conflicts
from jaxvae.shared.config.data_sets import DATA_HELP, require_data
from jaxvae.shared.config.fields import check_fields
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

LENGTH = ("epochs", "max_steps", "patience")
"""Fields of `TrainingSpec` that say how long a run trains, which a resumed run may change."""


@dataclass(frozen=True)
class Spec:
    """Everything that determines a run's numbers. The same Spec gives the same run in both frameworks."""

    data: Annotated[str, Doc(DATA_HELP)] = "auto"
    model: ModelSpec = field(default_factory=ModelSpec)
    objective: ObjectiveSpec = field(default_factory=ObjectiveSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    images: ImagesSpec = field(default_factory=ImagesSpec)

    def __post_init__(self) -> None:
        check_fields(self)
        require_data(self.data)
        for reason in conflicts(self.model, self.objective, self.images):
            raise InputError(f"Invalid configuration: {reason}.")
        if self.training.patience and not self.images.validation:
            raise InputError(
                "Invalid configuration: patience counts epochs without a lower validation loss, and no images are held "
                "out for validation; give --validation, or --patience 0."
            )
        if self.training.precision != "float32" and self.model.parts.networks:
            raise InputError(
                f"Invalid configuration: the precision {self.training.precision} is of the package's layers, and the "
                f"{self.model.parts.networks[0]} is your own; ask for it in your layers, and give --precision float32."
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that a step reports, in nats per image; the first is the loss."""
        if self.objective.form == "adversarial":
            return ("loss", "reconstruction", "discriminator", "generator")
        return ("loss", "reconstruction", "kl")

    @property
    def phases(self) -> dict[str, tuple[str, ...]]:
        """The networks that each update of a step trains, in order; each update has its own optimizer. The key of a
        single update is "", which weight files keep."""
        if self.objective.form == "adversarial":
            return {
                "reconstruction": ("encoder", "decoder"),
                "discriminator": ("discriminator",),
                "generator": ("encoder",),
            }
        return {"": ("encoder", "decoder")}

    @property
    def effective_beta(self) -> float:
        """Final weight of the KL divergence, or of its distance from the capacity, in nats per image."""
        weight = self.objective.gamma if self.objective.form == "capacity" else self.objective.beta
        return weight * (self.model.pixels if self.objective.units == "mixed" else 1)

    @property
    def minimized(self) -> float:
        """Factor from the loss in nats per image to the loss that the optimizer minimizes."""
        return 1.0 if self.objective.units == "image" else 1 / self.model.pixels


def resolved(spec: Spec, images: int) -> Spec:
    """Return the configuration with what depends on the number of training images set."""
    training = spec.training.resolved(images)
    return spec if training is spec.training else replace(spec, training=training)


def require_spec(spec: object) -> None:
    """Raises InputError unless it is a configuration."""
    if not isinstance(spec, Spec):
        name = spec if isinstance(spec, str) else "conv"
        raise InputError(f"The configuration must be a Spec, found {shown(spec)}; give Spec(...) or preset({name!r}).")


def same_run(a: Spec, b: Spec) -> bool:
    """Whether two configurations are equal, apart from the flags in `LENGTH`."""
    return replace(a, training=replace(a.training, **{name: getattr(b.training, name) for name in LENGTH})) == b
