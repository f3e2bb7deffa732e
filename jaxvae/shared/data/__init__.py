"""Data sets: MNIST and its siblings, scikit-learn's digits, and one's own pictures and arrays."""

from jaxvae.shared.data.dataset import Dataset as Dataset
from jaxvae.shared.data.datasets import load as load
from jaxvae.shared.data.datasets import mnist as mnist
from jaxvae.shared.data.sklearn_digits import digits as digits
