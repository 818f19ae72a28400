"""What a cohort is: the typed declaration that every hospital's table is held against."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import Field, StringConstraints, model_validator

from fedmed import typed_yaml
from fedmed.errors import DeclarationError
from fedmed.typed_yaml import Record

PATIENT = "patient"
TARGET = "target"
DURATION = "duration"
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
Size = Annotated[int, Field(ge=1)]


Kind = Literal["binary", "multiclass", "survival"]
Modality = Literal["tabular", "image", "series"]
Range = tuple[float, float]

# What a column of each type must declare, and which of the keys that only some types know it may have besides.
_NEEDS: dict[str, tuple[str, ...]] = {
    "integer": ("range",),
    "number": ("range",),
    "category": ("categories",),
    "image": ("shape",),
    "series": ("steps", "step", "channels"),
}
_MAY: dict[str, tuple[str, ...]] = {
    "integer": ("missing", "missing_at_most", "missing_codes"),
    "number": ("missing", "missing_at_most", "missing_codes"),
    "category": ("missing", "missing_at_most", "missing_codes"),
    "image": (),
    "series": ("long",),
}
_OF_A_KIND: dict[Kind, tuple[str, ...]] = {
    "binary": ("column", "positive"),
    "multiclass": ("column", "classes"),
    "survival": ("time", "event", "unit", "horizon"),
}
_SERIES_ITEM = 4  # bytes of a float32
_LARGEST_ARRAY = 1 << 24  # bytes in one cell
_MANY_HORIZONS = 20


class Channel(Record):
    """One quantity of a series: its unit, what is plausible, and what becomes of a measurement that is not.

    A measurement outside `range` keeps a hospital out (`outside: refuse`), or counts as not observed (`outside: drop`)
    as long as at most the share `outside_at_most` of the hospital's observed steps is so. `missing_at_most` is the
    largest share of rows in which the channel was never observed.
    """

    title: str = ""
    unit: str = ""
    range: Range
    outside: Literal["refuse", "drop"] = "refuse"
    outside_at_most: Share = 0.05
    missing_at_most: Share = 1.0
    missing_codes: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _rising("range", self.range)
        if self.outside == "refuse" and self.outside_at_most != type(self).model_fields["outside_at_most"].default:
            raise ValueError("`outside_at_most` goes with `outside: drop`")
        return self


class LongForm(Record):
    """The columns of a table with one measurement a row; the patient stands in the cohort's `patient_id`."""

    time: Name
    parameter: Name
    value: Name


class Column(Record):
    """One input of the model: its type, unit, what is plausible, and what a missing value means.

    A cell of an `image` is the bytes of uint8 `shape`, in C order; a cell of a `series` the bytes of little-endian
    float32 `(steps, channels)`, NaN where nothing was observed in a step, else the last observation of the step.
    """

    type: Literal["integer", "number", "category", "image", "series"]
    title: str = ""
    unit: str = ""
    range: Range | None = None
    categories: dict[Code, str] | None = None
    shape: Annotated[tuple[Size, ...], Field(min_length=2, max_length=3)] | None = None
    steps: Size | None = None
    step: Annotated[float, Field(gt=0, description="minutes")] | None = None
    channels: Annotated[dict[Name, Channel], Field(min_length=1)] | None = None
    long: LongForm | None = None
    missing: Literal["refuse", "impute"] = "refuse"
    missing_at_most: Share = 1.0
    missing_codes: tuple[float | str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {
            name for name in type(self).model_fields if getattr(self, name) != type(self).model_fields[name].default
        }
        own = {"type", "title", "unit", *_NEEDS[self.type], *_MAY[self.type]}
        # An empty mapping is not given either.
        lacking = [f"`{name}`" for name in _NEEDS[self.type] if not getattr(self, name)]
        foreign = [f"`{name}`" for name in type(self).model_fields if name in given - own]
        _complain(f"a column of type {self.type}", lacking, foreign)
        if self.range is not None:
            _rising("range", self.range)
        if self.type in {"image", "series"} and self.cell_size > _LARGEST_ARRAY:
            raise ValueError(f"a cell would have {self.cell_size} bytes; expected at most {_LARGEST_ARRAY}")
        return self

    @property
    def largest_missing_share(self) -> float:
        """The largest share of missing values that the contract admits."""
        return 0.0 if self.missing == "refuse" else self.missing_at_most

    @property
    def array_shape(self) -> tuple[int, ...]:
        """The shape of a cell: `(channels, height, width)` of an image, `(steps, channels)` of a series, else `()`."""
        if self.shape is not None:
            return self.shape if len(self.shape) == 3 else (1, *self.shape)
        return () if self.steps is None or self.channels is None else (self.steps, len(self.channels))

    @property
    def cell_size(self) -> int:
        """Bytes in a cell of an image or a series; 0 for the other types."""
        size = math.prod(self.array_shape) if self.array_shape else 0
        return size * _SERIES_ITEM if self.type == "series" else size


class Target(Record):
    """What is predicted, and how it is read off the raw columns.

    - `binary`: a row is positive where the rule `positive` holds for the number in `column`;
    - `multiclass`: `column` holds one of the codes of `classes`, which are numbered in declared order;
    - `survival`: `time` is the follow-up in `unit`, and `event` whether it ended with the event (1) or without (0);
      `horizon` is the follow-up that predictions and their measurement look at, `longest` the longest plausible one.

    `prevalence` is the plausible share of positive rows, or of events, at a hospital.
    """

    name: Name
    kind: Kind = "binary"
    column: Name | None = None
    positive: str | None = None
    classes: Annotated[dict[Code, str], Field(min_length=2)] | None = None
    time: Name | None = None
    event: Name | None = None
    unit: str | None = None
    horizon: Annotated[float, Field(gt=0)] | None = None
    longest: Annotated[float, Field(gt=0)] | None = None
    prevalence: tuple[Share, Share] = (0.0, 1.0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        own = {*_OF_A_KIND[self.kind], *(["longest"] if self.kind == "survival" else [])}
        lacking = [f"`{name}`" for name in _OF_A_KIND[self.kind] if getattr(self, name) is None]
        special = [*{name: None for names in _OF_A_KIND.values() for name in names}, "longest"]
        foreign = [f"`{name}`" for name in special if name not in own and getattr(self, name) is not None]
        if self.kind == "multiclass" and self.prevalence != (0.0, 1.0):
            foreign.append("`prevalence`")
        _complain(f"a target of kind {self.kind}", lacking, foreign)
        if self.positive is not None and not _RULE.fullmatch(self.positive):
            raise ValueError(f"`positive` must read like '> 0' with one of {', '.join(_COMPARISONS)}")
        if self.longest is not None and self.horizon is not None and self.longest < self.horizon:
            raise ValueError("`longest` must be at least the `horizon`")
        _rising("prevalence", self.prevalence)
        return self

    @property
    def columns(self) -> list[str]:
        """The raw columns that the label is read from."""
        return [name for name in (self.column, self.time, self.event) if name is not None]

    @property
    def label_columns(self) -> list[str]:
        """The columns that :meth:`label` makes."""
        return [TARGET, DURATION] if self.kind == "survival" else [TARGET]

    @property
    def classes_count(self) -> int:
        """How many values the label can have: 2, or the number of declared classes."""
        return len(self.meanings)

    @property
    def meanings(self) -> dict[int, str]:
        """What each value of the label means, in order."""
        if self.classes is not None:
            return dict(enumerate(self.classes.values()))
        return {0: "censored" if self.kind == "survival" else "", 1: self.name}

    @property
    def longest_duration(self) -> float:
        """The longest plausible follow-up: `longest`, or twenty horizons if that is not declared; 0 if no survival."""
        return self.longest or _MANY_HORIZONS * (self.horizon or 0.0)

    def label(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The label of every row, on the frame's index.

        Args:
            frame: the raw columns, as :mod:`fedmed.sources.reading` cleans them: no value is missing; numbers are
                float64, the classes of a multiclass target text.

        Returns:
            `target`, int64: 0 or 1, or the number of the class, or whether the event came; -1 where the raw value is no
            declared class, or no 0 or 1 (the contract refuses it). For survival also `duration`, float64.

        >>> three = Target(name="stage", kind="multiclass", column="s", classes={"I": "early", "II": "", "III": "late"})
        >>> three.label(pd.DataFrame({"s": ["III", "I", "IV"]}))["target"].tolist()
        [2, 0, -1]
        """
        if self.kind == "survival":
            event = frame[self.event].where(frame[self.event].isin([0, 1]), -1)
            return pd.DataFrame({TARGET: event.astype("int64"), DURATION: frame[self.time].astype("float64")})
        if self.classes is not None:
            number = {code: place for place, code in enumerate(self.classes)}
            places = [number.get(code, -1) for code in frame[self.column]]
            return pd.DataFrame({TARGET: pd.Series(places, index=frame.index, dtype="int64")})
        match = _RULE.fullmatch(self.positive or "")
        if match is None:  # pragma: no cover  # the validator has refused it
            raise DeclarationError(f"target rule {self.positive!r} cannot be read")
        return pd.DataFrame({TARGET: _COMPARISONS[match[1]](frame[self.column], float(match[2])).astype("int64")})


class Minimum(Record):
    """The fewest rows, and the fewest of each class (of survival, events), with which a hospital is admitted."""

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
    subgroups: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [*self.columns, *self.target.columns, *filter(None, (self.site_column, self.patient_id))]
        own = {PATIENT, TARGET, DURATION, SPLIT}
        twice = {name for name in named if named.count(name) > 1} | (own & set(self.columns))
        if twice := twice | ({PATIENT} & set(self.target.columns)):
            raise ValueError(
                f"{', '.join(sorted(twice))}: a name may serve once, as an input, the target, the site or the patient;"
                f" {', '.join(sorted(own))} are FedMed's own"
            )
        for name in self.subgroups:
            if name not in self.columns or self.columns[name].type != "category" or self.subgroups.count(name) > 1:
                raise ValueError(f"`subgroups`: expected names of category columns, each once, got {name!r}")
        arrays = self.arrays()
        if len(arrays) > 1 or (self.modality == "image" and len(self.columns) > 1):
            raise ValueError(
                f"{', '.join(arrays)}: a cohort has columns of a table alone, or one image alone, or one series with or"
                " without columns of a table"
            )
        if self.modality == "series" and self.columns[arrays[0]].long is not None and self.patient_id is None:
            raise ValueError(f"{arrays[0]}: a series in long form needs the `patient_id` that both tables name")
        return self

    @property
    def modality(self) -> Modality:
        """What a row is: numbers and categories, one image, or a series with or without numbers and categories."""
        kinds = {column.type for column in self.columns.values()}
        return "image" if "image" in kinds else "series" if "series" in kinds else "tabular"

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the declaration that bears on data, contract or model (not titles or citations)."""
        told = self.model_dump(mode="json", exclude={"title", "source"})
        for column in told["columns"].values():
            del column["title"]
            for channel in (column["channels"] or {}).values():
                del channel["title"]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @property
    def table_columns(self) -> list[str]:
        """The columns that a hospital's file must have, in order; the site column may be left out of it."""
        return [*filter(None, (self.patient_id,)), *self.columns, *self.target.columns]

    def numbers(self) -> list[str]:
        """Names of the integer and number columns, in order."""
        return self._of("integer", "number")

    def tabular(self) -> list[str]:
        """Names of the integer, number and category columns, in order."""
        return self._of("integer", "number", "category")

    def arrays(self) -> list[str]:
        """Names of the image and series columns: none or one."""
        return self._of("image", "series")

    def _of(self, *types: str) -> list[str]:
        return [name for name, column in self.columns.items() if column.type in types]


def _complain(what: str, lacking: list[str], foreign: list[str]) -> None:
    words = [f"needs {' and '.join(lacking)}"] if lacking else []
    words += [f"has no {', no '.join(foreign)}"] if foreign else []
    if words:
        raise ValueError(f"{what} {' and '.join(words)}")


def _rising(name: str, limits: Iterable[float]) -> None:
    low, high = limits
    if low >= high:
        raise ValueError(f"`{name}` must be [low, high] with low < high")


def read_cohort(path: Path) -> Cohort:
    """The cohort declared in a YAML file.

    Raises:
        DeclarationError: naming each key that is wrong.
    """
    return typed_yaml.read(path, Cohort, DeclarationError, "cohort declaration")
