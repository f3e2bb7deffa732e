"""`python -m jaxvae`, and the command `jaxvae`."""

import os

import jaxvae
from jaxvae.shared import cli
from jaxvae.shared.backend import SweepBackend

BACKEND: SweepBackend = jaxvae


def main() -> None:
    os.environ.setdefault("JAXVAE_PROGRAMS", "1")  # see `jaxvae.compilation`, which would import JAX for --help too
    cli.run(BACKEND)


if __name__ == "__main__":
    main()
