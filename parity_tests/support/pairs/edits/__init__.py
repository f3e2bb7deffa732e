"""Changes of one framework's side of a random network, each of which is a difference that the verdict must find."""

from parity_tests.support.pairs.edits.edit import Edit
from parity_tests.support.pairs.edits.layers import LAYER_EDITS
from parity_tests.support.pairs.edits.operations import OPERATION_EDITS
from parity_tests.support.pairs.edits.training import TRAINING_EDITS

EDITS: tuple[Edit, ...] = (*LAYER_EDITS, *OPERATION_EDITS, *TRAINING_EDITS)
"""Every edit."""
