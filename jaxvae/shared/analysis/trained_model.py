"""A trained model with its test images, as the measures take it."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.runs import run_folder
from jaxvae.shared.runs.metrics import steps_and_epochs


@dataclass(frozen=True)
class TrainedModel:
    """What is measured."""

    side: Any
    run: run_folder.Run
    weights: Any
    data: Dataset
    key: Any
    samples: int
    step: int
    epoch: int

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """For a model with classes."""
        return self.data.test_labels if self.run.spec.model.classes else None

    @functools.cached_property
    def latents(self) -> Any:
        """The posteriors, which several measures are of."""
        return self.side.encode_images(self.run.spec, self.weights, self.data.test, self.key, self.labels)


def trained_model(side: Any, run: run_folder.Run, weights: Any, dataset: Dataset, samples: int = 5000) -> TrainedModel:
    """A run as it stands, on the test images. What is drawn for these is drawn as in its last epoch's evaluation."""
    step, epoch = steps_and_epochs(run)
    key = side.stream_key(side.root_key(run.spec.training.seed), "evaluation", epoch)
    return TrainedModel(side, run, weights, dataset, key, samples, step, epoch)
