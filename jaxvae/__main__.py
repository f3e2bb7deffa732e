"""`python -m jaxvae`, and the command `jaxvae`."""

import atexit
import gc
import os

import jaxvae
from jaxvae.shared import cli
from jaxvae.shared.backend import SweepBackend

BACKEND: SweepBackend = jaxvae


def main() -> None:
    os.environ.setdefault("JAXVAE_PROGRAMS", "1")  # see `jaxvae.compilation`, which would import JAX for --help too
    # The interpreter would search all that was imported for garbage as it ends, for a third of a second. Not so in
    # torchvae: Triton would report what is left.
    atexit.register(gc.freeze)
    cli.run(BACKEND)


if __name__ == "__main__":
    main()
