"""The rules of a contract as Great Expectations runs them: its classes, and inside them the predicates of `rules`."""

from __future__ import annotations

import functools
import html
import logging
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedmed.data.rules import MEASURES, PREDICATES, Rule, Total, rules
from fedmed.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from fedmed.data.cohort import Cohort


def expectations(cohort: Cohort) -> dict[str, Expectation]:
    """The expectations that a hospital's partition must meet, by readable name, in the order of the declaration.

    Args:
        cohort: the declaration.

    Returns:
        Typed Great Expectations objects, one a rule; `meta["name"]` and the first words of `description` are the name.
    """
    return {rule.name: _expectation(rule) for rule in rules(cohort)}


def suite_of(name: str, named: Mapping[str, Expectation]) -> ExpectationSuite:
    """The suite of these expectations.

    Raises:
        ContractError: Great Expectations has dropped one that it finds invalid, which it does with a line in its log;
            that would admit too much.
    """
    from great_expectations.core import ExpectationSuite

    suite = ExpectationSuite(name=name, expectations=list(named.values()))
    if len(suite.expectations) != len(named):
        raise ContractError(f"contract of {name}: Great Expectations kept {len(suite.expectations)} of {len(named)}")
    return suite


def sealed(cohort: Cohort, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as Great Expectations may see them: text and numbers as they are, anything else shut."""
    shut = rows.copy(deep=False)
    for position, name in enumerate(rows.columns):  # one may stand twice
        cells, array = rows.iloc[:, position], name in cohort.arrays()
        if array or cells.dtype.kind == "O":
            each = [cell if _may_be_seen(cell, array=array) else _Sealed(cell) for cell in cells]
            shut.isetitem(position, pd.Series(each, dtype=object).to_numpy())
    return shut


def _may_be_seen(cell: Any, *, array: bool) -> bool:
    """Whether a cell is a plain value, which Great Expectations can hash; a picture or a series never is."""
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return True
    if isinstance(cell, int):
        return not array and -(1 << 63) <= cell < 1 << 63
    # A float of fewer bits is sealed too: beside a large number, hashing warns that it overflows.
    return not array and isinstance(cell, str | float | np.integer | np.bool_)


class _Sealed:
    """A cell that Great Expectations can only hand on to a predicate."""

    __slots__ = ("cell",)

    def __init__(self, cell: Any) -> None:
        self.cell = cell


def _opened(cells: pd.Series[Any]) -> pd.Series[Any]:
    """The cells as they were before they were sealed."""
    held = [cell.cell if isinstance(cell, _Sealed) else cell for cell in cells]
    return pd.Series(held, index=cells.index, dtype=cells.dtype)


def _expectation(rule: Rule | Total) -> Expectation:
    gx = _great_expectations()
    # GX puts a description into its page unescaped, and reads $ in it as a placeholder.
    says = html.escape(f"{rule.name} — {rule.says}", quote=False).replace("$", "&#36;")
    told: dict[str, Any] = {"description": says, "meta": {"name": rule.name}, "given": dict(rule.given)}
    made: Expectation
    if isinstance(rule, Total):
        limits = {"low": rule.low, "high": rule.high}
        of = {} if rule.column is None else {"column": rule.column}
        made = (gx.ColumnTotal if of else gx.TableTotal)(measure=rule.measure, **of, **limits, **told)
        return made
    # 1 - 0.7 is a little over 0.3, and GX compares without tolerance.
    told |= {"predicate": rule.predicate, "mostly": round(1 - rule.may_break, 12)}
    if len(rule.columns) == 2:
        made = gx.Pairs(column_A=rule.columns[0], column_B=rule.columns[1], **told)
    else:
        made = (gx.Present if rule.predicate == "present" else gx.Cells)(column=rule.columns[0], **told)
    return made


@functools.cache
def _great_expectations() -> SimpleNamespace:
    """The classes of expectations that ask a predicate or a measure of ours by its name.

    `Cells` of a column, `Present` of the same with the missing ones counted, `Pairs` of two columns; `ColumnTotal` and
    `TableTotal` of a measure.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports sre_constants
        from great_expectations.core.metric_domain_types import MetricDomainTypes
        from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
        from great_expectations.expectations.core.expect_column_values_to_not_be_null import (
            ExpectColumnValuesToNotBeNull,
        )
        from great_expectations.expectations.expectation import (
            BatchExpectation,
            ColumnAggregateExpectation,
            ColumnMapExpectation,
            ColumnPairMapExpectation,
        )
        from great_expectations.expectations.metrics import column_aggregate_metric_provider as aggregates
        from great_expectations.expectations.metrics import map_metric_provider
        from great_expectations.expectations.metrics.metric_provider import metric_value
        from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

    # It logs tracebacks, which may hold cells; that an expectation could not be computed is in the verdict.
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL + 1)
    maps: Any = map_metric_provider  # what it offers is not in its __all__
    engine = PandasExecutionEngine

    class CellsMetric(maps.ColumnMapMetricProvider):  # type: ignore[misc]
        condition_metric_name = "column_values.fedmed_rule"
        condition_value_keys = ("predicate", "given")
        filter_column_isnull = False  # a predicate says itself what it makes of a missing cell

        @maps.column_condition_partial(engine=engine)  # type: ignore[untyped-decorator]  # GX does not type it
        def _pandas(cls, column: pd.Series[Any], predicate: str, given: dict[str, Any], **_: Any) -> pd.Series[bool]:
            return pd.Series(PREDICATES[predicate](_opened(column), **given), index=column.index, dtype=bool)

    class PairsMetric(maps.ColumnPairMapMetricProvider):  # type: ignore[misc]
        condition_metric_name = "column_pair_values.fedmed_rule"
        condition_value_keys = ("predicate", "given")

        @maps.column_pair_condition_partial(engine=engine)  # type: ignore[untyped-decorator]  # as above
        def _pandas(
            cls,
            column_A: pd.Series[Any],
            column_B: pd.Series[Any],
            predicate: str,
            given: dict[str, Any],
            **_: Any,
        ) -> pd.Series[bool]:
            kept = PREDICATES[predicate](_opened(column_A), _opened(column_B), **given)
            return pd.Series(kept, index=column_A.index, dtype=bool)

    class ColumnMetric(aggregates.ColumnAggregateMetricProvider):
        metric_name = "column.fedmed_total"
        value_keys = ("measure", "given")

        @aggregates.column_aggregate_value(engine=engine)
        def _pandas(cls, column: pd.Series[Any], measure: str, given: dict[str, Any], **_: Any) -> float:
            return MEASURES[measure](_opened(column), **given)

    class TableMetric(TableMetricProvider):
        metric_name = "table.fedmed_total"
        value_keys = ("measure", "given")

        @metric_value(engine=engine)
        def _pandas(cls, execution_engine: Any, metric_domain_kwargs: Any, metric_value_kwargs: Any, **_: Any) -> float:
            table, *_rest = execution_engine.get_compute_domain(metric_domain_kwargs, MetricDomainTypes.TABLE)
            return MEASURES[metric_value_kwargs["measure"]](table, **metric_value_kwargs["given"])

    class ExpectColumnValuesToKeepRule(ColumnMapExpectation):
        predicate: str
        given: dict[str, Any]
        map_metric = CellsMetric.condition_metric_name
        success_keys = ("predicate", "given", "mostly")

    class ExpectColumnValuesToBePresent(ExpectColumnValuesToNotBeNull):  # of all cells, not of those that are there
        predicate: str
        given: dict[str, Any]
        map_metric = CellsMetric.condition_metric_name
        success_keys = ("predicate", "given", "mostly")

    class ExpectColumnPairValuesToKeepRule(ColumnPairMapExpectation):
        predicate: str
        given: dict[str, Any]
        ignore_row_if: str = "neither"
        map_metric = PairsMetric.condition_metric_name
        success_keys = ("predicate", "given", "ignore_row_if", "mostly")

    class ExpectColumnTotalToBeBetween(ColumnAggregateExpectation):
        measure: str
        given: dict[str, Any]
        low: float | None = None
        high: float | None = None
        metric_dependencies = (ColumnMetric.metric_name,)
        success_keys = ("measure", "given", "low", "high")

        def _validate(self, metrics: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            return _between(metrics[ColumnMetric.metric_name], self.low, self.high)

    class ExpectTableTotalToBeBetween(BatchExpectation):
        measure: str
        given: dict[str, Any]
        low: float | None = None
        high: float | None = None
        metric_dependencies = (TableMetric.metric_name,)
        success_keys = ("measure", "given", "low", "high")

        def _validate(self, metrics: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            return _between(metrics[TableMetric.metric_name], self.low, self.high)

    return SimpleNamespace(
        Cells=ExpectColumnValuesToKeepRule,
        Present=ExpectColumnValuesToBePresent,
        Pairs=ExpectColumnPairValuesToKeepRule,
        ColumnTotal=ExpectColumnTotalToBeBetween,
        TableTotal=ExpectTableTotalToBeBetween,
    )


def _between(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    kept = (low is None or value >= low) and (high is None or value <= high)
    return {"success": kept, "result": {"observed_value": value}}
