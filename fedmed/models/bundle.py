"""A model that takes a hospital's rows as they are: declaration, input statistics, network and weights in one."""

from __future__ import annotations

from collections.abc import Sequence
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
from fedmed.models.encoding import InputStatistics, encode
from fedmed.models.networks import NetworkOptions, network_for, state_of
from fedmed.targets.table import KINDS
from fedmed.targets.target import Target
from fedmed.typed_yaml import Record
from fedmed.weights import Layout, Weights, from_bytes, layout_of, sha256, to_bytes

WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "model.json"


class ModelDescription(Record):
    """Everything about a model but its weights."""

    cohort: Cohort
    network: NetworkOptions
    statistics: InputStatistics
    run: str
    round: int
    weights: str

    def empty_network(self) -> nn.Module:
        """The network with unset parameters."""
        return network_for(self.cohort, self.network)


@dataclass(frozen=True)
class ModelBundle:
    """A description and the weights it names."""

    description: ModelDescription
    weights: Weights

    def predictions(
        self, rows: pd.DataFrame, shift: float | Sequence[float] = 0.0, state: Weights | None = None
    ) -> np.ndarray:
        """What the model says of each row; see :func:`predictions`.

        Args:
            rows: cleaned rows with the cohort's columns.
            shift: a hospital's own shift of the outputs.
            state: a hospital's own state, in place of the global one.
        """
        told = outputs(self.description.empty_network(), state or self.weights, self.encode(rows))
        return predictions(told, self.description.cohort.target, self.description.network, shift)

    def encode(self, rows: pd.DataFrame) -> torch.Tensor:
        """The network's inputs for cleaned rows; see :func:`fedmed.models.encoding.encode`."""
        return encode(rows, self.description.cohort, self.description.statistics)

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
    return layout_of(state_of(description.empty_network()))


def outputs(network: nn.Module, weights: Weights, features: torch.Tensor) -> torch.Tensor:
    """The network's outputs as it stands at prediction: float32 of shape `(rows, outputs)`.

    Args:
        network: gives the function; it is left in evaluation mode (no dropout, BatchNorm by its running statistics).
        weights: its state, parameters and statistics.
        features: encoded rows, of shape `(rows, *input shape)`.
    """
    network.eval()
    with torch.no_grad():
        told: torch.Tensor = torch.func.functional_call(network, dict(weights), (features,))
    return told


def predictions(
    outputs: torch.Tensor, target: Target, options: NetworkOptions, shift: float | Sequence[float] = 0.0
) -> np.ndarray:
    """What a model says of each row.

    Args:
        outputs: of the network, of shape `(rows, k)`.
        target: what is predicted.
        options: of the network: whether survival is by Cox's model or in discrete time.
        shift: a hospital's own shift of the outputs: one number, or one a column. It does not change a Cox model.

    Returns:
        float64. Binary: probability of the positive class, `(rows,)`. Multiclass: of every class, `(rows, classes)`.
        Survival by Cox: log relative hazard, `(rows,)`; in discrete time: probability of no event by the end of each
        interval, `(rows, intervals)`.
    """
    kind, logits = KINDS[target.kind], outputs.double()
    if kind.shifts(options.form):
        logits = logits + torch.as_tensor(shift, dtype=torch.float64)
    return kind.says(logits, options.form).numpy()
