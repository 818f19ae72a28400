"""From a hospital's rows to a network's inputs: imputation, scaling and one-hot coding, as a part of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedmed.data.arrays import measurements, raw_arrays
from fedmed.data.cohort import Cohort, Column
from fedmed.targets.target import Target
from fedmed.typed_yaml import Record

WHITE = 255.0


class InputStatistics(Record):
    """Mean and standard deviation of every input of :func:`scaled_inputs`, over the training rows of all hospitals."""

    mean: dict[str, float]
    deviation: dict[str, float]


def scaled_inputs(cohort: Cohort) -> list[str]:
    """What is brought to mean 0 and deviation 1, by name, in declared order.

    Number columns under their name, an image under its name, each channel of a series as `column.channel`.
    """
    names: list[str] = []
    for name, column in cohort.columns.items():
        if column.type == "series":
            names += [f"{name}.{channel}" for channel in column.channels or {}]
        elif column.type != "category":
            names.append(name)
    return names


def scale_range(cohort: Cohort, name: str) -> tuple[float, float]:
    """The declared range of a name of :func:`scaled_inputs`; of an image 0 to 1, black to white.

    Raises:
        ValueError: it is no such name.
    """
    if name not in scaled_inputs(cohort):
        raise ValueError(f"{name} is no input that is scaled")
    column, _, channel = name.partition(".")
    declared = cohort.columns[column]
    if declared.type == "image":
        return 0.0, 1.0
    limits = (declared.channels or {})[channel].range if channel else declared.range
    if limits is None:  # pragma: no cover  # the declaration has refused it
        raise ValueError(f"{name} has no range")
    return limits


def feature_names(cohort: Cohort) -> list[str]:
    """The network's inputs by name, in the order of :func:`encode`.

    Of a table: `age`, `sex=female`, `chol missing` and so on. Of a series, those of a step: each channel's value, then
    whether each was observed, then the time since each last was, then those of the table's columns. Of an image: its
    layers.
    """
    if cohort.modality == "image":
        (name,) = cohort.arrays()
        layers = cohort.columns[name].array_shape[0]
        return [name] if layers == 1 else [f"{name} layer {layer + 1}" for layer in range(layers)]
    names: list[str] = []
    for series in cohort.arrays():
        channels = [f"{series}.{channel}" for channel in cohort.columns[series].channels or {}]
        names += [*channels, *(f"{name} observed" for name in channels), *(f"{name} since" for name in channels)]
    for name in cohort.tabular():
        column = cohort.columns[name]
        names += (
            [name] if column.categories is None else [f"{name}={meaning}" for meaning in column.categories.values()]
        )
        if column.missing == "impute":
            names.append(f"{name} missing")
    return names


def input_shape(cohort: Cohort) -> tuple[int, ...]:
    """The shape of one encoded row: `(features,)`, `(layers, height, width)` or `(steps, features)`."""
    for name in cohort.arrays():
        column = cohort.columns[name]
        return column.array_shape if column.type == "image" else (column.array_shape[0], len(feature_names(cohort)))
    return (len(feature_names(cohort)),)


def encode(rows: pd.DataFrame, cohort: Cohort, statistics: InputStatistics) -> Tensor:
    """The network's inputs for cleaned rows.

    Numbers are standardised and categories one-hot; a missing number becomes the mean (0 after scaling), a missing or
    undeclared category all zeros; a column whose declaration says `missing: impute` has one more input that is 1 where
    the value was missing. Pixels are standardised. A series is standardised; where a channel was not observed in a step
    its last observation is carried forward (0 before the first), and two more inputs say whether it was observed in
    the step (1) or not (0), and how long ago it last was, as a share of the window (1 before the first): the masking
    and the time interval of Che et al. 2018, *Recurrent Neural Networks for Multivariate Time Series with Missing
    Values*, equations 1 and 2. The table's columns stand in every step.

    Args:
        rows: a frame with at least the cohort's columns, as :mod:`fedmed.sources.reading` cleans them.
        cohort: the declaration.
        statistics: of :func:`scaled_inputs`.

    Returns:
        float32 of shape `(rows, *input_shape(cohort))`, finite.

    Raises:
        RecordsError: an image or a series has another size than declared.

    Guarantees:
        No row touches another.
    """
    if cohort.modality == "tabular":
        return _tabular(rows, cohort, statistics)
    (name,) = cohort.arrays()
    column = cohort.columns[name]
    if column.type == "image":
        return _images(rows, column, name, statistics)
    series = _series(rows, column, name, statistics)
    constant = _tabular(rows, cohort, statistics)
    return torch.cat([series, constant.unsqueeze(1).expand(-1, series.shape[1], -1)], dim=2)


def labels_of(rows: pd.DataFrame, target: Target) -> Tensor:
    """The labels of a partition's rows.

    Args:
        rows: with the columns that :meth:`Target.label` makes.
        target: what is predicted.

    Returns:
        float32. Binary: `(rows,)` of 0 and 1. Multiclass: `(rows,)`, the number of the class. Survival: `(rows, 2)`,
        duration and event.
    """
    last_is_the_class = target.label_columns[::-1]
    labels = torch.tensor(rows[last_is_the_class].to_numpy(), dtype=torch.float32)
    return labels if len(last_is_the_class) > 1 else labels.squeeze(1)


def _scale(statistics: InputStatistics, name: str) -> tuple[np.float32, np.float32]:
    return np.float32(statistics.mean[name]), np.float32(statistics.deviation[name] or 1.0)


def _tabular(rows: pd.DataFrame, cohort: Cohort, statistics: InputStatistics) -> Tensor:
    features: list[np.ndarray] = []
    for name in cohort.tabular():
        column = cohort.columns[name]
        if column.categories is None:
            values = rows[name].to_numpy(dtype=np.float32)
            missing = np.isnan(values)
            mean, deviation = _scale(statistics, name)
            features.append(np.where(missing, np.float32(0), (values - mean) / deviation)[:, None])
        else:
            place = {code: number for number, code in enumerate(column.categories)}
            codes = np.array([place.get(code, -1) if isinstance(code, str) else -1 for code in rows[name]], dtype=int)
            missing = codes < 0
            features.append(codes[:, None] == np.arange(len(place)))
        if column.missing == "impute":
            features.append(missing[:, None])
    joined = np.concatenate(features, axis=1) if features else np.empty((len(rows), 0))
    return torch.from_numpy(joined.astype(np.float32))


def _images(rows: pd.DataFrame, column: Column, name: str, statistics: InputStatistics) -> Tensor:
    mean, deviation = _scale(statistics, name)
    pixels = torch.from_numpy(raw_arrays(rows[name], column, name).astype(np.float32))
    return pixels.div_(WHITE).sub_(float(mean)).div_(float(deviation))


def _series(rows: pd.DataFrame, column: Column, name: str, statistics: InputStatistics) -> Tensor:
    """float32 of shape `(rows, steps, 3 · channels)`: values, observed, time since."""
    values = measurements(rows[name], column, name)
    for place, channel in enumerate(column.channels or {}):
        mean, deviation = _scale(statistics, f"{name}.{channel}")
        values[..., place] = (values[..., place] - mean) / deviation
    steps = values.shape[1]
    now = np.arange(steps)[None, :, None]
    observed = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(observed, now, -1), axis=1)
    carried = np.where(last < 0, np.float32(0), np.take_along_axis(values, np.maximum(last, 0), axis=1))
    since = np.where(last < 0, 1.0, (now - last) / steps)
    return torch.from_numpy(np.concatenate([carried, observed, since], axis=2, dtype=np.float32))
