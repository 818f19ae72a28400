"""A model that takes a hospital's rows as they are: declaration, input statistics, network and weights in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import nn

from fedmed.data.cohort import Cohort
from fedmed.errors import MessageRefused, WorkspaceError
from fedmed.files import write_atomically
from fedmed.models.encoding import Encoder, InputStatistics, feature_names, raw_matrix
from fedmed.models.networks import ModelOptions, build_network
from fedmed.typed_yaml import Record
from fedmed.weights import Layout, Weights, from_bytes, layout_of, sha256, to_bytes

WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "model.json"


class ModelDescription(Record):
    """Everything about a model but its weights."""

    cohort: Cohort
    network: ModelOptions
    statistics: InputStatistics
    run: str
    round: int
    weights: str

    def empty_network(self) -> nn.Module:
        """The network with unset parameters."""
        return build_network(len(feature_names(self.cohort)), self.network)


@dataclass(frozen=True)
class ModelBundle:
    """A description and the weights it names."""

    description: ModelDescription
    weights: Weights

    def probabilities(self, rows: pd.DataFrame, shift: float = 0.0) -> np.ndarray:
        """Probability of the positive class.

        Args:
            rows: cleaned rows with the cohort's columns.
            shift: a hospital's own shift of the intercept, in logits.

        Returns:
            float64 of shape `(rows,)`.
        """
        return probabilities(self.description.empty_network(), self.weights, self.encode(rows), shift)

    def encode(self, rows: pd.DataFrame) -> torch.Tensor:
        """The network's inputs for cleaned rows, float32 of shape `(rows, features)`."""
        encoder = Encoder(self.description.cohort, self.description.statistics)
        features: torch.Tensor = encoder(raw_matrix(rows, self.description.cohort))
        return features

    def save(self, folder: Path) -> None:
        """Write the two files of the bundle; the weights first."""
        write_atomically(folder / WEIGHTS_FILE, to_bytes(self.weights))
        write_atomically(folder / DESCRIPTION_FILE, self.description.model_dump_json(indent=2).encode() + b"\n")


def load_bundle(folder: Path) -> ModelBundle:
    """The bundle saved in `folder`, its weights checked against the description.

    Raises:
        WorkspaceError: if there is none, or its description is damaged.
        MessageRefused: if the weights are not those that the description names.
    """
    try:
        description = ModelDescription.model_validate_json((folder / DESCRIPTION_FILE).read_bytes())
        data = (folder / WEIGHTS_FILE).read_bytes()
    except FileNotFoundError:
        raise WorkspaceError(f"{folder}: there is no model here yet; `fedmed run` trains one") from None
    except ValidationError:
        raise WorkspaceError(
            f"{folder / DESCRIPTION_FILE}: not the description of a model; `fedmed run --force` trains one anew"
        ) from None
    if sha256(data) != description.weights:
        raise MessageRefused(f"{folder / WEIGHTS_FILE}: not the weights that {DESCRIPTION_FILE} names")
    return ModelBundle(description, from_bytes(data, expected_layout(description)))


def expected_layout(description: ModelDescription) -> dict[str, Layout]:
    """The names, types and shapes that the weights of this model must have."""
    return layout_of(dict(description.empty_network().named_parameters()))


def probabilities(network: nn.Module, weights: Weights, features: torch.Tensor, shift: float = 0.0) -> np.ndarray:
    """Probabilities of the positive class from encoded features `(rows, features)`; float64 of shape `(rows,)`."""
    with torch.no_grad():
        logits = torch.func.functional_call(network, dict(weights), (features,)).squeeze(1)
        return torch.sigmoid(logits.double() + shift).numpy()
