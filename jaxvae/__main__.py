"""`python -m jaxvae`, and the command `jaxvae`."""

import jaxvae
from jaxvae.shared import cli


def main() -> None:
    cli.run(jaxvae)


if __name__ == "__main__":
    main()
