"""`python -m torchvae`, and the command `torchvae`."""

import sys

import torchvae
from jaxvae.shared import cli


def main() -> int:
    return cli.main(torchvae)


if __name__ == "__main__":
    sys.exit(main())
