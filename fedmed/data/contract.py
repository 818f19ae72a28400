"""The contract that admits a hospital's partition: derived from its cohort's declaration, run where the data lie."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from fedmed.data.cohort import Cohort
from fedmed.data.data_docs import page, strip
from fedmed.data.expectations import expectations, sealed, suite_of
from fedmed.data.rules import rules
from fedmed.errors import ContractError
from fedmed.files import write_atomically, write_json
from fedmed.typed_yaml import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from great_expectations.core import ExpectationSuite

    from fedmed.data.cohort import Cohort

# Raise it when `fedmed.data.rules` changes: a verdict that was given under another version does not count.
_VERSION = 3


class Verdict(Record):
    """What leaves a hospital after its data were examined: names of expectations, no value and no count of its rows."""

    admitted: bool
    failed: tuple[str, ...]
    expectations: int


def suite_digest(cohort: Cohort) -> str:
    """SHA-256 that names the contract: it changes with the declaration, and with the rules that follow from it.

    A partition that was examined under the same digest, and has not changed since, need not be examined again.
    """
    return hashlib.sha256(f"fedmed contract {_VERSION} {cohort.digest}".encode()).hexdigest()


def examine(cohort: Cohort, rows: pd.DataFrame, home: Path) -> Verdict:
    """Hold a hospital's partition against its cohort's contract.

    Args:
        cohort: the declaration.
        rows: one row an observation, columns `patient` (text), those of the cohort (numbers as float64, NaN where
            missing; categories as text, None or NaN where missing; images and series as bytes), what the target's
            :meth:`~fedmed.targets.target.Target.label` makes, and `split`. A frame that is not so fails by name; it
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
    suite = suite_of(cohort.name, named)
    try:
        result = _run(suite, sealed(cohort, rows))
    except Exception as problem:  # noqa: BLE001  # whatever it is, its text and its frames may hold cells
        stopped = f"Great Expectations stopped with {type(problem).__name__}; expected a table with one header"
        raise ContractError(f"contract of {cohort.name}: {stopped}") from None
    answers = {answer.expectation_config.meta["name"]: answer for answer in result.results}
    if lost := named.keys() - answers.keys():
        raise ContractError(f"contract of {cohort.name}: Great Expectations did not answer {', '.join(sorted(lost))}")
    failed = tuple(name for name in named if answers[name].success is not True)
    verdict = Verdict(admitted=not failed, failed=failed, expectations=len(named))
    strip(result, [answers[name] for name in named], rules(cohort), list(rows.columns))
    summary = {"contract": suite_digest(cohort), **verdict.model_dump(mode="json")}
    try:
        write_json(home / "result.json", {**summary, "result": result.to_json_dict()}, mode=0o600)
        write_atomically(
            home / "data_docs" / "index.html", page(cohort.title or cohort.name, failed, result).encode(), mode=0o600
        )
    except OSError as problem:
        raise ContractError(f"contract of {cohort.name}: cannot write under {home}: {problem.strerror}") from None
    return verdict


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
