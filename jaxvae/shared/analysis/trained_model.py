"""A trained model with its test images, as the measures need it."""

import functools
from dataclasses import dataclass

import numpy as np

from jaxvae.shared.backend import Backend, Key, Latents, Weights
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.runs import run_folder
from jaxvae.shared.runs.best_epoch import steps_and_epochs


@dataclass(frozen=True)
class TrainedModel:
    """A run's weights and test images, and the package that computes with them."""

    backend: Backend
    run: run_folder.Run
    weights: Weights
    data: Dataset
    key: Key
    """The evaluation's key, of the epoch whose weights the run keeps."""
    samples: int
    """Latent samples per image for the log-likelihood."""
    step: int
    """Steps that the weights were trained for; 0 if unknown."""
    epoch: int

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """Labels of the test images, `[n]`; None for a model without classes."""
        return self.data.test_labels if self.run.spec.model.classes else None

    @functools.cached_property
    def latents(self) -> Latents:
        """Posteriors of the test images, which several measures use."""
        return self.backend.encode_images(self.run.spec, self.weights, self.data.test, self.key, self.labels)


def trained_model(
    backend: Backend, run: run_folder.Run, weights: Weights, dataset: Dataset, samples: int = 5000
) -> TrainedModel:
    """Prepare a run for the measures, with the key of the evaluation of these weights.

    Args:
        backend: The package that evaluates.
        run: The run.
        weights: Its weights.
        dataset: Its images.
        samples: Latent samples per image for the log-likelihood.

    Returns:
        What the measures need.
    """
    step, epoch = steps_and_epochs(run)
    key = backend.stream_key(backend.root_key(run.spec.training.seed), "evaluation", epoch)
    return TrainedModel(backend, run, weights, dataset, key, samples, step, epoch)
