"""Compare jaxvae and torchvae: scripts/parity.py --help. The installed command is `parity`."""

from parity_tests.harness.vae.command import run

if __name__ == "__main__":
    run()
