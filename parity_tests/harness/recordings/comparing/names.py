"""The names of the levels at which two recordings are compared."""

INPUTS, WEIGHTS, OUTPUTS, LAYERS = "every input", "every weight", "every output", "every layer"
STATE, EFFECTS, LOSS, GRADIENTS = "state after a training step", "what each weight moves", "the loss", "every gradient"
