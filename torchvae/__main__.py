"""`python -m torchvae`, and the command `torchvae`."""

import torchvae
from jaxvae.shared import cli
from jaxvae.shared.backend import Backend

BACKEND: Backend = torchvae


def main() -> None:
    cli.run(BACKEND)


if __name__ == "__main__":
    main()
