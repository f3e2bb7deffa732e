"""Compile the programs of jaxvae for accelerators that are not here, and read what XLA makes of them."""
