"""Both frameworks as a comparison needs them, for as long as it lasts."""

import contextlib
from collections.abc import Iterator

import jax
import torch


@contextlib.contextmanager
def settings(dtype: str) -> Iterator[None]:
    """64 bits in JAX for float64, products at full precision in both, and the promotion that optax's and Flax's own
    code relies on. Keys may be used again, since each level replays the one before."""
    wanted = {
        "jax_enable_x64": dtype == "float64",
        "jax_default_matmul_precision": "highest",
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
        "jax_debug_key_reuse": False,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
