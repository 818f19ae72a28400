"""From a hospital's rows to a network's inputs: imputation, scaling and one-hot coding, as a part of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedmed.data.cohort import Cohort
from fedmed.typed_yaml import Record


class InputStatistics(Record):
    """Mean and standard deviation of every number column, over the training rows of the hospitals that took part."""

    mean: dict[str, float]
    deviation: dict[str, float]


def raw_matrix(rows: pd.DataFrame, cohort: Cohort) -> Tensor:
    """Rows as numbers, with nothing imputed yet.

    Args:
        rows: a frame with the cohort's columns, as :mod:`fedmed.data.reading` cleans them.
        cohort: the declaration.

    Returns:
        float32 of shape `(rows, columns)`: numbers as they are, categories as their index in the declared order, NaN
        where a value is missing or a category is not declared.
    """
    matrix = np.full((len(rows), len(cohort.columns)), np.nan, dtype=np.float32)
    for position, (name, column) in enumerate(cohort.columns.items()):
        if column.categories is None:
            matrix[:, position] = rows[name].to_numpy(dtype=np.float32)
        else:
            index = {code: float(place) for place, code in enumerate(column.categories)}
            matrix[:, position] = [index.get(code, np.nan) if isinstance(code, str) else np.nan for code in rows[name]]
    return torch.from_numpy(matrix)


class Encoder(nn.Module):
    """Standardises numbers, codes categories one-hot, and says for imputed columns what was missing.

    A missing number becomes the mean (0 after scaling), a missing category all zeros; a column whose declaration says
    `missing: impute` has one more input that is 1 where the value was missing.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, cohort: Cohort, statistics: InputStatistics) -> None:
        super().__init__()
        self._columns = list(cohort.columns.items())
        numbers = cohort.numbers()
        self.register_buffer("mean", torch.tensor([statistics.mean[name] for name in numbers], dtype=torch.float32))
        scale = [statistics.deviation[name] or 1.0 for name in numbers]
        self.register_buffer("deviation", torch.tensor(scale, dtype=torch.float32))
        self.names = feature_names(cohort)

    def forward(self, raw: Tensor) -> Tensor:
        """float32 `(rows, columns)` with NaN for missing → float32 `(rows, features)` without."""
        features: list[Tensor] = []
        number = 0
        for position, (_, column) in enumerate(self._columns):
            values = raw[:, position]
            missing = torch.isnan(values)
            if column.categories is None:
                scaled = (values - self.mean[number]) / self.deviation[number]
                features.append(torch.where(missing, 0.0, scaled).unsqueeze(1))
                number += 1
            else:
                codes = torch.arange(len(column.categories), dtype=raw.dtype)
                features.append((values.unsqueeze(1) == codes).to(raw.dtype))
            if column.missing == "impute":
                features.append(missing.to(raw.dtype).unsqueeze(1))
        return torch.cat(features, dim=1)


def feature_names(cohort: Cohort) -> list[str]:
    """The network's inputs by name, in the encoder's order: `age`, `sex=female`, `chol missing` and so on."""
    names: list[str] = []
    for name, column in cohort.columns.items():
        names += (
            [name] if column.categories is None else [f"{name}={meaning}" for meaning in column.categories.values()]
        )
        if column.missing == "impute":
            names.append(f"{name} missing")
    return names
