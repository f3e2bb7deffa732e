"""`python -m torchvae`, and the command `torchvae`."""

import torchvae
from jaxvae.shared import cli


def main() -> None:
    cli.run(torchvae)


if __name__ == "__main__":
    main()
