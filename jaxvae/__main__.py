"""`python -m jaxvae`, and the command `jaxvae`."""

import sys

import jaxvae
from jaxvae.shared import cli


def main() -> int:
    return cli.main(jaxvae)


if __name__ == "__main__":
    sys.exit(main())
