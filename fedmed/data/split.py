"""Split a hospital's rows into training, validation and test by patient: seeded, stratified, stable under growth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from fedmed.data.cohort import PATIENT
from fedmed.seeds import derive
from fedmed.targets.kind import TARGET
from fedmed.typed_yaml import Record

SPLITS = ("train", "validation", "test")


class SplitOptions(Record):
    """The share of a hospital's patients in each split; what is left of training and validation is for the test."""

    train: float = Field(0.60, gt=0, lt=1, description="share of a hospital's patients that trains the model")
    validation: float = Field(0.15, gt=0, lt=1, description="share that chooses the round and the regularisation")
    seed: int = Field(2026, ge=0, description="seed of the split; the same seed gives the same split everywhere")

    @model_validator(mode="after")
    def _leave_a_test(self) -> Self:
        if self.train + self.validation >= 1:
            raise ValueError("train + validation must leave a share for the test")
        return self


def assign(patients: Sequence[str], labels: Sequence[int], options: SplitOptions, site: str) -> np.ndarray:
    """The split of every row.

    Patients are ordered, within their class, by a hash of (seed, site, patient), and cut at the declared shares. A
    patient's class is the highest of their rows'. A patient who is added moves at most a neighbour across a cut.

    Args:
        patients: one identity a row; rows of the same identity stay together.
        labels: the class, one a row; of a survival target, whether the event came.
        options: shares and seed.
        site: the hospital's name.

    Returns:
        Array of shape `(rows,)` with a name of :data:`SPLITS` for every row.

    Guarantees:
        No patient is in two splits. The order of the rows does not matter.

    >>> halves = SplitOptions(train=0.5, validation=0.25)
    >>> [str(name) for name in assign(["a", "b", "c", "d"], [0, 0, 0, 0], halves, "x")]
    ['train', 'train', 'test', 'validation']
    """
    highest: dict[str, int] = {}
    for patient, label in zip(patients, labels, strict=True):
        highest[patient] = max(label, highest.get(patient, label))
    ordered = sorted(highest, key=lambda patient: (derive(options.seed, site, patient), patient))
    split_of: dict[str, str] = {}
    for label in set(highest.values()):
        order = [patient for patient in ordered if highest[patient] == label]
        first = round(options.train * len(order))
        second = max(first, round((options.train + options.validation) * len(order)))
        for position, patient in enumerate(order):
            split_of[patient] = SPLITS[int(position >= first) + int(position >= second)]
    return np.array([split_of[patient] for patient in patients], dtype=object)


def split(records: pd.DataFrame, labels: pd.DataFrame, options: SplitOptions, site: str) -> dict[str, pd.DataFrame]:
    """One hospital's three partitions, with the columns of `labels`; the order of the rows does not matter.

    Args:
        records: `patient` and the inputs.
        labels: what :meth:`fedmed.targets.target.Target.label` made of the same rows.
        options: shares and seed.
        site: the hospital's name.
    """
    names = assign(list(records[PATIENT]), list(labels[TARGET]), options, site)
    labelled = pd.concat([records, labels], axis=1)
    ordered = labelled.assign(_split=names).sort_values([PATIENT, *labelled.columns.drop(PATIENT)], kind="stable")
    return {name: ordered[ordered["_split"] == name].drop(columns="_split").reset_index(drop=True) for name in SPLITS}
