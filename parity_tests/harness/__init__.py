"""Measures agreement: compares jaxvae with torchvae, and any JAX model with a torch module."""
