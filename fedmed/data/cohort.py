"""What a cohort is: the typed declaration that every hospital's table is held against."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fedmed import typed_yaml
from fedmed.errors import DeclarationError
from fedmed.typed_yaml import Record

if TYPE_CHECKING:
    import pandas as pd

PATIENT = "patient"
TARGET = "target"
SPLIT = "split"
_COMPARISONS: dict[str, Callable[[pd.Series, float], pd.Series]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_RULE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(-?\d+(?:\.\d+)?)\s*")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$")]
Code = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Share = Annotated[float, Field(ge=0, le=1)]


class Column(Record):
    """One input of the model: its type, unit, what is plausible, and what a missing value means."""

    type: Literal["integer", "number", "category"]
    title: str = ""
    unit: str = ""
    range: tuple[float, float] | None = None
    categories: dict[Code, str] | None = None
    missing: Literal["refuse", "impute"] = "refuse"
    missing_at_most: Share = 1.0
    missing_codes: tuple[float | str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.type == "category":
            if not self.categories or self.range is not None:
                raise ValueError("a category needs `categories` and no `range`")
        elif self.range is None or self.categories is not None:
            raise ValueError(f"a column of type {self.type} needs `range: [low, high]` and no `categories`")
        elif self.range[0] >= self.range[1]:
            raise ValueError("`range` must be [low, high] with low < high")
        return self

    @property
    def largest_missing_share(self) -> float:
        """The largest share of missing values that the contract admits."""
        return 0.0 if self.missing == "refuse" else self.missing_at_most


class Target(Record):
    """What is predicted: the column it is read from, the rule that makes a row positive, the plausible prevalence."""

    name: Name
    column: Name
    positive: str
    prevalence: tuple[Share, Share] = (0.0, 1.0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not _RULE.fullmatch(self.positive):
            raise ValueError(f"`positive` must read like '> 0' with one of {', '.join(_COMPARISONS)}")
        if self.prevalence[0] >= self.prevalence[1]:
            raise ValueError("`prevalence` must be [low, high] with low < high")
        return self

    def label(self, values: pd.Series) -> pd.Series:
        """1 where the rule holds, 0 where it does not, for a numeric column without missing values."""
        match = _RULE.fullmatch(self.positive)
        if match is None:  # pragma: no cover  # the validator has refused it
            raise DeclarationError(f"target rule {self.positive!r} cannot be read")
        return _COMPARISONS[match[1]](values, float(match[2])).astype("int64")


class Minimum(Record):
    """The fewest rows, and the fewest of either class, with which a hospital is admitted."""

    rows: int = Field(50, ge=1)
    per_class: int = Field(5, ge=0)


class Source(Record):
    """Where the data come from and under which licence."""

    citation: str = ""
    licence: str = ""
    url: str = ""


class Cohort(Record):
    """The declaration of a cohort; see `cohorts/heart_disease.yaml` for every key with its meaning."""

    name: Name
    title: str = ""
    source: Source = Source()
    embedded: Name | None = None
    site_column: Name | None = None
    patient_id: Name | None = None
    target: Target
    minimum: Minimum = Minimum()
    columns: dict[Name, Column] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [*self.columns, self.target.column, *filter(None, (self.site_column, self.patient_id))]
        twice = sorted(
            {name for name in named if named.count(name) > 1} | ({PATIENT, TARGET, SPLIT} & set(self.columns))
        )
        if twice:
            raise ValueError(
                f"{', '.join(twice)}: a name may serve once, as an input, the target, the site or the patient;"
                f" {PATIENT!r}, {TARGET!r} and {SPLIT!r} are FedMed's own"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the declaration that bears on data, contract or model (not titles or citations)."""
        told = self.model_dump(mode="json", exclude={"title", "source"})
        for column in told["columns"].values():
            del column["title"]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @property
    def table_columns(self) -> list[str]:
        """The columns that a hospital's file must have, in order; the site column may be left out of it."""
        return [*filter(None, (self.patient_id,)), *self.columns, self.target.column]

    def numbers(self) -> list[str]:
        """Names of the integer and number columns, in order."""
        return [name for name, column in self.columns.items() if column.type != "category"]


def read_cohort(path: Path) -> Cohort:
    """The cohort declared in a YAML file.

    Raises:
        DeclarationError: naming each key that is wrong.
    """
    return typed_yaml.read(path, Cohort, DeclarationError, "cohort declaration")
