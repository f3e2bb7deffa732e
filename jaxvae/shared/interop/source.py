"""What `import` knows of a program."""

from dataclasses import replace
from typing import Any, NamedTuple

from jaxvae.shared.config import layer_words
from jaxvae.shared.config.choices import Output
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.interop.name_mapping import Rule


class Source(NamedTuple):
    """A known program."""

    name: str
    title: str
    preset: str
    """The preset with the program's layers and loss."""
    rules: tuple[Rule, ...]
    model: tuple[tuple[str, Any], ...] = ()
    """Fields of its model that are otherwise than the preset's, and their values."""
    encoder: tuple[str, ...] = ()
    """The words of its encoder's layers, for the network `layers`, with * for the outputs, which the shapes give."""
    decoder: tuple[str, ...] = ()
    """Those of its decoder."""
    objective: tuple[tuple[str, Any], ...] = ()
    """Fields of its objective that are otherwise than the preset's, and their values."""
    channels: int = 0
    """The channels of its images, where its loss depends on them; 0 for any."""
    counted: str = ""
    """A pattern of tensor names; their number gives that of the hidden layers. Empty where it is `depth`."""
    depth: int = 1
    """Number of hidden layers, where it is always the same."""
    uncounted: int = 0
    """Number of these tensors that belong to no hidden layer."""
    layers: str = ""
    """Assumption about the layers where names and shapes leave them open."""
    loss: str = ""
    """Assumption about the loss where names and shapes leave it open."""
    flag: str = ""
    """The flag that chooses it among programs with the same names; empty if its preset does."""
    shared: str = ""
    """Other programs with the same names, as the object of a sentence."""
    ranges: str = ""
    """Why the pixels' range has to be given, where the program has had more than one."""
    output: Output = "bounded"
    """The output that the program has in any range."""

    def over(self, base: Spec) -> Spec:
        """Return the configuration with the program's own fields of the model, and one output for each *."""
        fields = dict(self.model)
        if self.decoder:
            encoder, decoder = (tuple(w.replace("*", "1") for w in words) for words in (self.encoder, self.decoder))
            fields |= {"network": "layers", "hidden": (), "image": layer_words.image(decoder)}
            fields |= {"encoder": encoder, "decoder": decoder}
        return replace(base, model=replace(base.model, **fields))

    def trained(self) -> Spec:
        """Return the preset with the program's own fields of the objective."""
        base = PRESETS[self.preset]
        return replace(base, objective=replace(base.objective, **dict(self.objective)))
