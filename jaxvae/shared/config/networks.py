"""The kinds of encoder and decoder: everything about them but their layers, which are in model/layout.py.

A new kind is one entry here, one in `layout.layers` and one in `NETWORKS` of each package's networks.py. All other code
walks `layout.layers` or ends in an error; only a new kind of layer has to be added there too.
"""

from dataclasses import dataclass
from typing import Literal

NetworkName = Literal["mlp", "conv", "layers"]


@dataclass(frozen=True)
class Network:
    """What a kind of network is, in words."""

    adjective: str
    """Before the model's name, e.g. `convolutional `."""
    help: str
    """What the command line says of it after its name."""
    spatial: bool
    """Whether its hidden layers may see height, width and channels, and its last bias may be a channel's."""


NETWORKS: dict[NetworkName, Network] = {
    "mlp": Network("", "linear layers", spatial=False),
    "conv": Network(
        "convolutional ",
        "3x3 convolutions of stride 2, with batch norm unless `norm` is none, and transposed ones in the decoder",
        spatial=True,
    ),
    "layers": Network("layered ", "any layers, as `encoder` and `decoder` list them", spatial=True),
}

HELP = f"The encoder and the decoder. {'; '.join(f'`{name}`: {entry.help}' for name, entry in NETWORKS.items())}."
