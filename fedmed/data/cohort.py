"""What a cohort is: the typed declaration that every hospital's table is held against."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedmed import typed_yaml
from fedmed.errors import DeclarationError
from fedmed.targets.kind import DURATION, TARGET
from fedmed.targets.target import Target
from fedmed.typed_yaml import Code, Name, Record, Share, complain, rising

PATIENT = "patient"
SPLIT = "split"
Size = Annotated[int, Field(ge=1)]
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
_SERIES_ITEM = 4  # bytes of a float32
_LARGEST_ARRAY = 1 << 24  # bytes in one cell


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
        rising("range", self.range)
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
        complain(f"a column of type {self.type}", lacking, foreign)
        if self.range is not None:
            rising("range", self.range)
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


def read_cohort(path: Path) -> Cohort:
    """The cohort declared in a YAML file.

    Raises:
        DeclarationError: naming each key that is wrong.
    """
    return typed_yaml.read(path, Cohort, DeclarationError, "cohort declaration")
