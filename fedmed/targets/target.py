"""What is predicted, and how it is read off a hospital's raw columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from fedmed.targets.kind import KindName, Number
from fedmed.targets.table import KINDS
from fedmed.typed_yaml import Code, Name, Record, Share, complain, rising

if TYPE_CHECKING:
    import pandas as pd


class Target(Record):
    """What is predicted, and how it is read off the raw columns.

    - `binary`: a row is positive where the rule `positive` holds for the number in `column`;
    - `multiclass`: `column` holds one of the codes of `classes`, which are numbered in declared order;
    - `survival`: `time` is the follow-up in `unit`, and `event` whether it ended with the event (1) or without (0);
      `horizon` is the follow-up that predictions and their measurement look at, `longest` the longest plausible one.

    `prevalence` is the plausible share of positive rows, or of events, at a hospital.
    """

    name: Name
    kind: KindName = "binary"
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
        kind, fields = KINDS[self.kind], type(self).model_fields
        given = [name for name in fields if getattr(self, name) != fields[name].default]
        own = {"name", "kind", *kind.needs, *kind.may}
        complain(
            f"a target of kind {self.kind}",
            [f"`{name}`" for name in kind.needs if getattr(self, name) is None],
            [f"`{name}`" for name in given if name not in own],
        )
        kind.check(self)
        rising("prevalence", self.prevalence)
        return self

    @property
    def columns(self) -> list[str]:
        """The raw columns that the label is read from."""
        return [name for name in (self.column, self.time, self.event) if name is not None]

    @property
    def label_columns(self) -> list[str]:
        """The columns that :meth:`label` makes."""
        return list(KINDS[self.kind].columns)

    @property
    def classes_count(self) -> int:
        """How many values the label can have: 2, or the number of declared classes."""
        return len(self.meanings)

    @property
    def meanings(self) -> dict[int, str]:
        """What each value of the label means, in order."""
        return KINDS[self.kind].meanings(self)

    @property
    def required(self) -> tuple[int, ...]:
        """The values of the label of which a hospital must have some rows."""
        return KINDS[self.kind].required(self)

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers that a label has beside its class: the follow-up, where there is one."""
        return KINDS[self.kind].numbers(self)

    @property
    def has_prevalence(self) -> bool:
        """Whether a plausible share of positive rows can be declared."""
        return "prevalence" in KINDS[self.kind].may

    def label(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The label of every row, on the frame's index.

        Args:
            frame: the raw columns, as :mod:`fedmed.sources.reading` cleans them: no value is missing; numbers are
                float64, the classes of a multiclass target text.

        Returns:
            `target`, int64: 0 or 1, or the number of the class, or whether the event came; -1 where the raw value is no
            declared class, or no 0 or 1 (the contract refuses it). For survival also `duration`, float64.

        >>> three = Target(name="stage", kind="multiclass", column="s", classes={"I": "early", "II": "", "III": "late"})
        >>> import pandas as pd
        >>> three.label(pd.DataFrame({"s": ["III", "I", "IV"]}))["target"].tolist()
        [2, 0, -1]
        """
        return KINDS[self.kind].label(self, frame)
