"""Infer which array of a JAX model is which tensor of a torch module."""
