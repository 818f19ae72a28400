"""The contract that admits a hospital's partition: derived from its cohort's declaration, run where the data lie."""

from __future__ import annotations

import functools
import hashlib
import html
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmed.data.arrays import beyond, channel_of, is_cell
from fedmed.data.cohort import DURATION, PATIENT, SPLIT, TARGET, Cohort, Column
from fedmed.data.split import SPLITS
from fedmed.errors import ContractError, RecordsError
from fedmed.files import write_atomically, write_json
from fedmed.typed_yaml import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd
    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

# Raise it when `expectations` changes: a verdict that was given under another version does not count.
_VERSION = 2

# What may be written of an answer of Great Expectations: how many cells, never which.
_COUNTS = (
    "element_count",
    "missing_count",
    "missing_percent",
    "unexpected_count",
    "unexpected_percent",
    "unexpected_percent_total",
    "unexpected_percent_nonmissing",
)


class Verdict(Record):
    """What leaves a hospital after its data were examined: names of expectations, no value and no count of its rows."""

    admitted: bool
    failed: tuple[str, ...]
    expectations: int


def suite_digest(cohort: Cohort) -> str:
    """SHA-256 that names the contract: it changes with the declaration, and with the rules that this module derives.

    A partition that was examined under the same digest, and has not changed since, need not be examined again.
    """
    return hashlib.sha256(f"fedmed contract {_VERSION} {cohort.digest}".encode()).hexdigest()


def expectations(cohort: Cohort) -> dict[str, Expectation]:
    """The expectations that a hospital's partition must meet, by readable name, in the order of the declaration.

    Args:
        cohort: the declaration.

    Returns:
        Typed Great Expectations objects; `meta["name"]` and the first words of `description` are the name.

    Raises:
        ContractError: two expectations would share a name, because an input is called `split`.
    """
    gx = _great_expectations()
    named: dict[str, Expectation] = {}

    def percent(share: float) -> str:
        return f"{100 * share:.12g} %"

    def mostly(share: float) -> float:
        return round(1 - share, 12)  # 1 - 0.7 is a little over 0.3, and GX compares without tolerance

    def expect(name: str, kind: Any, says: str, **kwargs: Any) -> None:
        # GX puts a description into its page unescaped, and reads $ in it as a placeholder.
        says = html.escape(f"{name} — {says}", quote=False).replace("$", "&#36;")
        named[name] = kind(description=says, meta={"name": name}, **kwargs)

    def rows(name: str, least: int, where: Any = None) -> None:
        kind = gx.rules.ExpectTableRowCountToBeBetween
        expect(f"table: rows{name}", kind, f"at least {least}", min_value=least, row_condition=where)

    def among(name: str, values: Mapping[Any, str]) -> None:
        says = "one of " + ", ".join(f"{value} ({means})" if means else str(value) for value, means in values.items())
        expect(f"{name}: categories", gx.rules.ExpectColumnValuesToBeInSet, says, column=name, value_set=list(values))

    def missing(name: str, share: float = 0.0) -> None:
        kind, says = gx.rules.ExpectColumnValuesToNotBeNull, f"in at most {percent(share)} of the rows"
        expect(f"{name}: missing", kind, says, column=name, mostly=mostly(share))

    def text_of(low: float, high: float, unit: str) -> str:
        return f"from {low:.12g} to {high:.12g} {unit}".strip()

    def channels(name: str, column: Column) -> None:
        for place, (channel, its) in enumerate((column.channels or {}).items()):
            low, high = its.range
            of_it = {"column": name, "place": place, "channels": len(column.channels or {})}
            limits, says = {"low": low, "high": high}, text_of(low, high, its.unit)
            if its.outside == "refuse":
                expect(f"{name}.{channel}: range", gx.Within, says, **of_it, **limits)
            else:
                says = f"at most {percent(its.outside_at_most)} of the observed steps not {says}"
                expect(f"{name}.{channel}: outside", gx.Outside, says, **of_it, **limits, at_most=its.outside_at_most)
            if (share := its.missing_at_most) < 1:
                says = f"never observed in at most {percent(share)} of the rows"
                expect(f"{name}.{channel}: missing", gx.Observed, says, **of_it, mostly=mostly(share))

    def duration(longest: float) -> None:
        expect(f"{DURATION}: type", gx.Number, "numbers", column=DURATION)
        kind, says = gx.rules.ExpectColumnValuesToBeBetween, f"over 0, and at most {longest:.12g} {cohort.target.unit}"
        limits = {"min_value": 0, "strict_min": True, "max_value": longest}
        expect(f"{DURATION}: range", kind, says, column=DURATION, **limits)
        missing(DURATION)

    declared = [PATIENT, *cohort.columns, *cohort.target.label_columns, SPLIT]
    kind, says = gx.rules.ExpectTableColumnsToMatchSet, f"the {len(declared)} that are declared"
    expect("table: columns", kind, says, column_set=declared, exact_match=True)
    rows("", cohort.minimum.rows)
    # A hospital where nobody was lost before the event may take part; one without events has nothing to tell.
    for label in [1] if cohort.target.kind == "survival" else cohort.target.meanings:
        rows(f" of class {label}", cohort.minimum.per_class, gx.Column(TARGET) == label)
    for name in SPLITS:
        rows(f" in {name}", 1, gx.Column(SPLIT) == name)
    for name, column in cohort.columns.items():
        if column.cell_size:
            says = f"{column.cell_size} bytes, {' × '.join(map(str, column.array_shape))}"
            expect(f"{name}: type", gx.Cell, says, column=name, size=column.cell_size)
            channels(name, column)
        elif column.range is None:
            expect(f"{name}: type", gx.Text, "text", column=name)
            among(name, column.categories or {})
        else:
            low, high = column.range
            expect(f"{name}: type", gx.Number, "numbers", column=name)
            kind, says = gx.rules.ExpectColumnValuesToBeBetween, text_of(low, high, column.unit)
            expect(f"{name}: range", kind, says, column=name, min_value=low, max_value=high)
        if column.type == "integer":
            expect(f"{name}: whole numbers", gx.Whole, "no fractions", column=name)
        missing(name, column.largest_missing_share)
    expect(f"{PATIENT}: type", gx.Text, "text", column=PATIENT)
    missing(PATIENT)
    says = "all rows of a patient are in the same split"
    expect(f"{PATIENT}: in one split only", gx.OneSplit, says, column_A=PATIENT, column_B=SPLIT)
    expect(f"{TARGET}: type", gx.Number, "numbers", column=TARGET)
    among(TARGET, cohort.target.meanings)
    missing(TARGET)
    if cohort.target.kind != "multiclass":
        low, high = cohort.target.prevalence
        says = f"share of class 1 from {low:.12g} to {high:.12g}; see the rows of each class"
        kind = gx.rules.ExpectColumnMeanToBeBetween
        expect(f"{TARGET}: prevalence", kind, says, column=TARGET, min_value=low, max_value=high)
    if cohort.target.kind == "survival":
        duration(cohort.target.longest_duration)
    among(SPLIT, dict.fromkeys(SPLITS, ""))
    missing(SPLIT)
    return named


def examine(cohort: Cohort, rows: pd.DataFrame, home: Path) -> Verdict:
    """Hold a hospital's partition against its cohort's contract.

    Args:
        cohort: the declaration.
        rows: one row an observation, columns `patient` (text), those of the cohort (numbers as float64, NaN where
            missing; categories as text, None or NaN where missing; images and series as bytes), what the target's
            :meth:`~fedmed.data.cohort.Target.label` makes, and `split`. A frame that is not so fails by name; it
            raises nothing.
        home: folder at the hospital for `result.json` and `data_docs/index.html`; both are overwritten.

    Returns:
        The verdict, `failed` in the order of `expectations`. An expectation that could not be computed has failed.

    Raises:
        ContractError: Great Expectations did not take or answer every expectation, or `home` cannot be written.

    Guarantees:
        No cell of `rows`, and no column name that the cohort does not declare, is written to the disk, to the
        console, into the verdict or into a message. Nothing is written outside `home`.
    """
    named = expectations(cohort)
    suite = _suite(cohort.name, named)
    try:
        result = _run(suite, _sealed(cohort, rows))
    except Exception as problem:  # noqa: BLE001  # whatever it is, its text and its frames may hold cells
        stopped = f"Great Expectations stopped with {type(problem).__name__}; expected a table with one header"
        raise ContractError(f"contract of {cohort.name}: {stopped}") from None
    answers = {answer.expectation_config.meta["name"]: answer for answer in result.results}
    if lost := named.keys() - answers.keys():
        raise ContractError(f"contract of {cohort.name}: Great Expectations did not answer {', '.join(sorted(lost))}")
    failed = tuple(name for name in named if answers[name].success is not True)
    verdict = Verdict(admitted=not failed, failed=failed, expectations=len(named))
    _strip(result, [answers[name] for name in named], rows)
    summary = {"contract": suite_digest(cohort), **verdict.model_dump(mode="json")}
    try:
        write_json(home / "result.json", {**summary, "result": result.to_json_dict()}, mode=0o600)
        write_atomically(home / "data_docs" / "index.html", _page(cohort, verdict, result).encode(), mode=0o600)
    except OSError as problem:
        raise ContractError(f"contract of {cohort.name}: cannot write under {home}: {problem.strerror}") from None
    return verdict


def rows_outside(cohort: Cohort, rows: pd.DataFrame) -> dict[int, tuple[str, ...]]:
    """The rows that a model of this cohort must not be asked about, by the contract's own rules for a single cell.

    Args:
        cohort: the declaration.
        rows: a frame with at least the cohort's columns; others are not looked at.

    Returns:
        For the position of each such row (from 0, whatever the index) the columns with a value of the wrong type or
        size, outside the range or the categories, or missing where the declaration refuses that; in declared order. A
        series is outside if a channel that refuses it was observed outside its range.

    Raises:
        RecordsError: a column of the cohort is absent, or stands twice.
    """
    if wrong := [name for name in cohort.columns if list(rows.columns).count(name) != 1]:
        raise RecordsError(f"cohort {cohort.name}: expected each column once; absent or twice: {', '.join(wrong)}")
    outside: dict[int, tuple[str, ...]] = {}
    for name, column in cohort.columns.items():
        for position, (cell, missing) in enumerate(zip(rows[name], rows[name].isna(), strict=True)):
            if column.missing == "refuse" if missing else not _fits(cell, column):
                outside[position] = (*outside.get(position, ()), name)
    return dict(sorted(outside.items()))


def _fits(cell: Any, column: Column) -> bool:
    if column.cell_size:
        return is_cell(cell, column.cell_size) and all(
            _is_within(cell, place, len(column.channels or {}), *channel.range)
            for place, channel in enumerate((column.channels or {}).values())
            if channel.outside == "refuse"
        )
    if column.range is None:
        return _is_text(cell) and cell in (column.categories or {})
    low, high = column.range
    return _is_number(cell) and low <= cell <= high and (column.type != "integer" or _is_whole(cell))


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float | np.integer | np.floating) and not isinstance(cell, bool)


def _is_whole(cell: Any) -> bool:
    return _is_number(cell) and bool(cell % 1 == 0)


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


# A cell that is no series fails by its type alone.


def _is_within(cell: Any, place: int, channels: int, low: float, high: float) -> bool:
    return not _is_series(cell, channels) or not beyond(channel_of(cell, place, channels), low, high).any()


def _is_observed(cell: Any, place: int, channels: int) -> bool:
    return not _is_series(cell, channels) or not bool(np.isnan(channel_of(cell, place, channels)).all())


def _share_outside(cells: pd.Series[Any], place: int, channels: int, low: float, high: float) -> float:
    """The share of a channel's observed steps, over all rows, that lie outside its range; 0 of none."""
    opened = map(_opened, cells)
    values = [channel_of(cell, place, channels) for cell in opened if _is_series(cell, channels)]
    joined = np.concatenate(values) if values else np.empty(0, dtype=np.float32)
    observed = int((~np.isnan(joined)).sum())
    return int(beyond(joined, low, high).sum()) / observed if observed else 0.0


def _is_series(cell: Any, channels: int) -> bool:
    return isinstance(cell, bytes) and len(cell) % (4 * channels) == 0


class _Sealed:
    """The cell of an image or a series as Great Expectations sees it: an object that cannot be shown or decoded."""

    __slots__ = ("cell",)

    def __init__(self, cell: Any) -> None:
        self.cell = cell


def _opened(cell: Any) -> Any:
    return cell.cell if isinstance(cell, _Sealed) else cell


def _sealed(cohort: Cohort, rows: pd.DataFrame) -> pd.DataFrame:
    sealed = rows.copy(deep=False)
    for position, name in enumerate(rows.columns):
        if name in cohort.arrays():  # it may stand twice
            cells = rows.iloc[:, position].astype(object)
            sealed.isetitem(position, cells.map(_Sealed, na_action="ignore").to_numpy(dtype=object))
    return sealed


@functools.cache
def _great_expectations() -> SimpleNamespace:
    """GX's own rules, and those that it lacks.

    `Number`, `Whole`, `Text` and `Cell` of a column; `Within`, `Observed` and `Outside` of a channel of a series;
    `OneSplit` of two columns.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports sre_constants
        import great_expectations.expectations as rules
        from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
        from great_expectations.expectations.expectation import (
            ColumnAggregateExpectation,
            ColumnMapExpectation,
            ColumnPairMapExpectation,
        )
        from great_expectations.expectations.metrics import column_aggregate_metric_provider as aggregates
        from great_expectations.expectations.metrics import map_metric_provider as metrics
        from great_expectations.expectations.row_conditions import Column as ColumnOfRows

    # It logs tracebacks, which may hold cells; that an expectation could not be computed is in the verdict.
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL + 1)

    def rule(name: str, holds: Callable[..., bool], **parameters: type) -> Any:
        class Metric(metrics.ColumnMapMetricProvider):  # type: ignore[misc,name-defined]  # not in GX's __all__
            condition_metric_name = f"column_values.fedmed_{name.lower()}"
            condition_value_keys = tuple(parameters)

            @metrics.column_condition_partial(engine=PandasExecutionEngine)  # type: ignore[attr-defined]  # as above
            def _pandas(cls, column: pd.Series[Any], **given: Any) -> pd.Series[bool]:
                chosen = {key: given[key] for key in parameters}
                return column.map(lambda cell: holds(_opened(cell), **chosen)).astype(bool)

        metaclass: Any = type(ColumnMapExpectation)  # it registers the class under its name
        body = {
            "map_metric": Metric.condition_metric_name,
            "success_keys": (*parameters, "mostly"),
            "__annotations__": parameters,
            "__module__": __name__,
        }
        return metaclass(f"ExpectColumnValuesToBe{name}", (ColumnMapExpectation,), body)

    class OutsideMetric(aggregates.ColumnAggregateMetricProvider):
        metric_name = "column.fedmed_share_outside"
        value_keys = ("place", "channels", "low", "high")

        @aggregates.column_aggregate_value(engine=PandasExecutionEngine)
        def _pandas(cls, column: pd.Series[Any], place: int, channels: int, low: float, high: float, **_: Any) -> float:
            return _share_outside(column, place, channels, low, high)

    class ExpectChannelSeldomOutside(ColumnAggregateExpectation):
        place: int
        channels: int
        low: float
        high: float
        at_most: float
        metric_dependencies = (OutsideMetric.metric_name,)
        success_keys = ("place", "channels", "low", "high", "at_most")

        def _validate(self, metrics: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            share = metrics[OutsideMetric.metric_name]
            return {"success": share <= self.at_most, "result": {"observed_value": share}}

    of_two: Any = metrics.column_pair_condition_partial  # type: ignore[attr-defined]  # as above

    class OneSplitMetric(metrics.ColumnPairMapMetricProvider):  # type: ignore[misc,name-defined]  # as above
        condition_metric_name = "column_pair_values.fedmed_one_split"

        @of_two(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]  # GX does not type it
        def _pandas(cls, column_A: pd.Series[Any], column_B: pd.Series[Any], **_: Any) -> pd.Series[bool]:
            return column_B.groupby(column_A).transform("nunique") == 1

    class ExpectEachPatientInOneSplit(ColumnPairMapExpectation):
        map_metric = OneSplitMetric.condition_metric_name
        ignore_row_if: str = "neither"
        success_keys = ("ignore_row_if", "mostly")

    return SimpleNamespace(
        rules=rules,
        Column=ColumnOfRows,
        Number=rule("Number", _is_number),
        Whole=rule("Whole", _is_whole),
        Text=rule("Text", _is_text),
        Cell=rule("Cell", is_cell, size=int),
        Within=rule("Within", _is_within, place=int, channels=int, low=float, high=float),
        Observed=rule("Observed", _is_observed, place=int, channels=int),
        Outside=ExpectChannelSeldomOutside,
        OneSplit=ExpectEachPatientInOneSplit,
    )


def _suite(name: str, named: Mapping[str, Expectation]) -> ExpectationSuite:
    """The suite of these expectations; GX logs and drops one that it finds invalid, which would admit too much."""
    from great_expectations.core import ExpectationSuite

    suite = ExpectationSuite(name=name, expectations=list(named.values()))
    if len(suite.expectations) != len(named):
        raise ContractError(f"contract of {name}: Great Expectations kept {len(suite.expectations)} of {len(named)}")
    return suite


def _run(suite: ExpectationSuite, rows: pd.DataFrame) -> Any:
    """GX's result, with counts for the cells that fail."""
    import great_expectations as gx
    from great_expectations.data_context.types import base as config

    # Without an explicit configuration GX would make a folder in /tmp for its documents.
    stores = config.InMemoryStoreBackendDefaults()
    silent = config.ProgressBarsConfig(globally=False)
    project = config.DataContextConfig(store_backend_defaults=stores, analytics_enabled=False, progress_bars=silent)
    context = gx.get_context(mode="ephemeral", project_config=project)
    try:
        asset = context.data_sources.add_pandas("hospital").add_dataframe_asset("partition")
        batch = asset.add_batch_definition_whole_dataframe("all rows").get_batch({"dataframe": rows})
        return batch.validate(suite, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    finally:
        context.data_sources.delete("hospital")  # or GX's global context keeps the patients in memory


def _strip(result: Any, answers: list[Any], rows: pd.DataFrame) -> None:
    """Leave of a result only what may be written: an observed value, or an exception's text, can be a patient's own."""
    result.results = answers
    result.meta = {"great_expectations_version": result.meta["great_expectations_version"]}
    for answer in answers:
        kind, kwargs, observed = answer.expectation_config.type, answer.expectation_config.kwargs, answer.result
        answer.result = {key: observed[key] for key in _COUNTS if key in observed}
        if answer.exception_info.get("raised_exception") is not False:
            answer.result = {"observed_value": "could not be computed"}
        elif kind == "expect_table_row_count_to_be_between":
            answer.result["observed_value"] = int(observed["observed_value"])
        elif kind == "expect_channel_seldom_outside":
            answer.result["observed_value"] = f"{100 * float(observed['observed_value']):.3g} % of the observed steps"
        elif kind == "expect_table_columns_to_match_set":
            # The header of a table without one is a patient: only declared names may be repeated.
            absent = ", ".join(name for name in kwargs["column_set"] if name not in rows.columns)
            others = sum(name not in kwargs["column_set"] for name in rows.columns)
            answer.result["observed_value"] = f"absent: {absent or 'none'}; not declared: {others}"
        answer.exception_info = {}


def _page(cohort: Cohort, verdict: Verdict, result: Any) -> str:
    """GX's Data Docs of a result, as one page that needs no other file and no other host.

    GX's own page fetches a dozen styles and scripts from other hosts and links to pages that are not written here.
    """
    import jinja2
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    from fedmed.pages import TEMPLATES

    view: Any = DefaultJinjaPageView()
    view.env.loader = jinja2.ChoiceLoader([TEMPLATES, view.env.loader])  # GX escapes in templates named .html
    document = ValidationResultsPageRenderer().render(result)
    document.sections = document.sections[1:]  # the first is an overview with dead links
    word = "admitted" if verdict.admitted else "quarantined"
    met = verdict.expectations - len(verdict.failed)
    facts = {"title": cohort.title or cohort.name, "word": word, "met": met, "all": verdict.expectations}
    return str(view.render(document, template="data/contract.html", failed=verdict.failed, **facts))
