"""What a model answers to a row that it is asked about: a probability, or the columns that keep it from giving one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedmed.data.arrays import as_cell
from fedmed.data.cells import clean
from fedmed.data.cohort import Cohort
from fedmed.data.rules import rows_outside
from fedmed.errors import RecordsError
from fedmed.models.bundle import ModelBundle
from fedmed.models.networks import NetworkOptions
from fedmed.targets.table import KINDS
from fedmed.targets.target import Target
from fedmed.training.personal import Personal

GREY = 128


def answer_columns(target: Target, network: NetworkOptions) -> list[str]:
    """The numbers that a model gives for a row, by name.

    Binary: the probability of the positive class. Multiclass: that of every class. Survival: by a Cox model the log of
    the hazard relative to a row with all inputs at their mean, in discrete time the probability of the event before
    the horizon.
    """
    return KINDS[target.kind].answers(target, network.form)


def predict(bundle: ModelBundle, rows: pd.DataFrame, own: Personal | None = None) -> pd.DataFrame:
    """What the model says of every row inside the contract, and for every other row the reason why it says nothing.

    Args:
        bundle: the model.
        rows: at least the columns that may not be missing; one that the model imputes may be left out, and others are
            not looked at. A cell means what it means in a hospital's own file (:mod:`fedmed.data.cells`): images and
            series are bytes or base64 text, and a declared missing code, NaN or None stands for a missing value.
        own: the hospital's own part of the model, where there is one.

    Returns:
        One line a row, in order, on a fresh index: `row` (from 1), the columns of :func:`answer_columns` (NaN where
        there is no answer), for classes `predicted` (binary: 1 from a probability of .5, else 0; multiclass: the code
        of the likeliest class; <NA> without) and `reason`, empty or such as "outside the contract: age, chol".

    Raises:
        RecordsError: a column that may not be missing is absent, or a column stands twice.

    Guarantees:
        - A row outside the contract is never scored, and does not change what the others get.
        - `reason` names columns, never a value.
    """
    cohort = bundle.description.cohort
    asked = as_declared(rows, cohort)
    outside = rows_outside(cohort, asked)
    inside = [position for position in range(len(asked)) if position not in outside]
    network, target = bundle.description.network, cohort.target
    names = answer_columns(target, network)
    given = np.full((len(asked), len(names)), np.nan)
    if inside:
        typed = asked.iloc[inside].astype(dict.fromkeys(cohort.numbers(), "float64"))  # objects, if one was no number
        said = bundle.predictions(typed, *((own.shift or 0.0, own.state) if own else ()))
        given[inside] = KINDS[target.kind].answer(said, network.form).reshape(len(inside), len(names))
    answers = pd.DataFrame(given, columns=names)
    answers.insert(0, "row", range(1, len(asked) + 1))
    if (decided := KINDS[target.kind].decided(target, given)) is not None:
        whole = "Int64" if decided.dtype.kind == "i" else None  # whole numbers, among which some may be <NA>
        answers["predicted"] = pd.Series(decided, dtype=whole).mask(answers[names[0]].isna())
    answers["reason"] = [
        f"outside the contract: {', '.join(outside[n])}" if n in outside else "" for n in range(len(asked))
    ]
    return answers


def as_declared(rows: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """The cohort's columns, cleaned, on a fresh index; nothing where a value is missing as declared, or its column out.

    Rows that :mod:`fedmed.sources.reading` has cleaned come out as they are. A cell that cannot be read stays, for the
    rules to refuse.

    Raises:
        RecordsError: a column that may not be missing is absent, or a column stands twice.
    """
    names = list(rows.columns)
    absent = [name for name, column in cohort.columns.items() if name not in names and column.missing == "refuse"]
    if absent:
        raise RecordsError(
            f"cohort {cohort.name}: expected each column that may not be missing; absent: {', '.join(absent)}"
        )
    if twice := [name for name in cohort.columns if names.count(name) > 1]:
        raise RecordsError(f"cohort {cohort.name}: expected each column once; twice: {', '.join(twice)}")
    fresh = rows.reset_index(drop=True)
    nothing = pd.Series([None] * len(fresh), dtype="object")
    return pd.DataFrame(
        {
            name: clean(fresh[name] if name in names else nothing, column).values
            for name, column in cohort.columns.items()
        }
    )


def example(cohort: Cohort) -> pd.DataFrame:
    """One made-up row: the middle of each range, whole where the column is, and the first category of each column.

    An image is of one grey; a series stands still at the middle of each channel's range.
    """
    row: dict[str, float | str | bytes] = {}
    for name, column in cohort.columns.items():
        if column.cell_size:
            middles = [sum(channel.range) / 2 for channel in (column.channels or {}).values()]
            row[name] = as_cell(np.broadcast_to(np.array(middles or GREY), column.array_shape), column)
        elif column.range is None:
            row[name] = next(iter(column.categories or {}))
        else:
            middle = sum(column.range) / 2
            row[name] = float(round(middle)) if column.type == "integer" else middle
    return pd.DataFrame([row])
