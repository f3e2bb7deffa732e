"""A linear Gaussian model, whose likelihood is known in closed form."""

import numpy as np

from jaxvae.shared.config.parts import ModelSpec
from parity_tests.support.backends import Arrays

LINEAR = ModelSpec((2, 3, 1), (), 2, likelihood="gaussian", variance=0.3, output="linear")


def linear_gaussian(seed: int = 5) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray]:
    """Return a model x = W z + b + noise with the exact posterior as its encoder.

    The posterior is diagonal because W's columns are orthogonal.

    Returns:
        The weights, images `[5, 6]`, their log-likelihood under N(b, W W^T + variance I) in nats `[5]`, and W `[6, 2]`.
    """
    rng, variance = np.random.default_rng(seed), LINEAR.variance
    w = np.linalg.qr(rng.normal(size=(6, 2)))[0] * np.array([1.3, 0.6])
    b = rng.normal(size=6)
    precision = 1 + (w**2).sum(0) / variance
    to_mean = (w / variance / precision).T
    arrays = {
        "encoder.mean.weight": to_mean,
        "encoder.mean.bias": -to_mean @ b,
        "encoder.logvar.weight": np.zeros((2, 6)),
        "encoder.logvar.bias": -np.log(precision),
        "decoder.logits.weight": w,
        "decoder.logits.bias": b,
    }
    covariance = w @ w.T + variance * np.eye(6)
    x = rng.multivariate_normal(b, covariance, 5)
    mahalanobis = ((x - b) * np.linalg.solve(covariance, (x - b).T).T).sum(1)
    return arrays, x, -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance).logabsdet), w
