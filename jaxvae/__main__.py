"""`python -m jaxvae`, and the command `jaxvae`."""

import jaxvae
from jaxvae.shared import cli
from jaxvae.shared.backend import SweepBackend

BACKEND: SweepBackend = jaxvae


def main() -> None:
    cli.run(BACKEND)


if __name__ == "__main__":
    main()
