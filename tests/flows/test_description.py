"""`fedmed data describe`: a flow with a task a hospital, tables on Prefect's page, a document, and no row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import pytest
from workplace import SITES, Workplace

from fedmed.aggregation.summaries import Between, CategorySummary, NumberSummary, Quantile
from fedmed.coordinator.description import Described, FederatedDescription
from flows.cli.description import description_text
from flows.tables import category_rows, number_rows

AGE = NumberSummary(
    unit="years",
    hospitals=2,
    values=40,
    missing=Between.of(40, 0, 10),
    mean=53.456,
    variance=81.0,
    quantiles={"50 %": Quantile(value=54.0, at_least=53.5, at_most=55.5)},
    edges=(0.0, 50.0, 100.0),
    shares=(0.25, 0.75),
)


def test_a_number_is_a_row_of_figures() -> None:
    far = AGE.model_copy(update={"quantiles": {"50 %": Quantile(value=None, at_least=18, at_most=65)}})
    first, second = number_rows(Described(rows=40, minimum_cell=11, columns={"age": AGE, "far": far}), "ill")
    assert first["number"] == "age (years)"
    assert (first["missing"], first["mean"], first["deviation"]) == ("0.0–25.0 %", "53.46", "9")
    assert (first["median"], first["5 %"], second["median"]) == ("54", "untold", "18 to 65")
    assert first["distribution"] == "▃█"


def test_a_category_is_a_row_a_code() -> None:
    target = CategorySummary(
        meanings={"0": "", "1": "ill"},
        counts={"0": Between.of(40, 25, 25), "1": Between.of(40, 15, 15)},
        missing=Between.of(40, 0, 0),
    )
    sex = CategorySummary(meanings={"0": "female"}, counts={"0": Between.of(40, 0, 12)}, missing=Between.of(40, 0, 10))
    rows = category_rows(Described(rows=40, minimum_cell=11, columns={"target": target, "sex": sex}), "ill")
    assert [list(row.values()) for row in rows] == [
        ["ill", "0", "25", "62.5 %"],
        ["ill", "1 ill", "15", "37.5 %"],
        ["sex", "0 female", "at most 12", "0.0–30.0 %"],
        ["sex", "missing", "at most 10", "0.0–25.0 %"],
    ]


def test_the_text_has_tables_of_all_and_of_each_and_says_who_was_left_out() -> None:
    part = Described(rows=40, minimum_cell=11, columns={"age": AGE})
    description = FederatedDescription(
        run="d", cohort="heart", target="ill", overall=part, hospitals={"north": part}, failed={"south": "ValueError"}
    )
    text = description_text(description, hospitals=True)
    assert text.startswith("all hospitals (north): 40 training rows; counts under 11 are withheld")
    assert "\nnorth: 40 training rows" in text
    assert text.endswith("south was not described: ValueError")
    assert "\nnorth: " not in description_text(description, hospitals=False)


def describing(place: Workplace) -> dict[str, str]:
    with sqlite3.connect(place.root / ".prefect" / "prefect.db") as database:
        return dict(
            database.execute(
                "select task_run.name, task_run.state_type from task_run join flow_run"
                " on flow_run.id = task_run.flow_run_id where flow_run.name = 'describe data'"
            ).fetchall()
        )


@pytest.mark.slow
def test_four_hospitals_are_described_by_one_command(new_workspace: Callable[..., Workplace]) -> None:
    place = new_workspace()
    early = place.call("fedmed", "data", "describe", check=False)
    assert early.returncode == 2
    assert "no hospital has been validated yet; run `fedmed validate`" in early.stderr
    place.fedmed("validate")
    document = place.fedmed("data", "describe")
    assert document == json.loads((place.root / "coordinator" / "description.json").read_text())
    assert sorted(document["hospitals"]) == sorted(SITES)
    assert document["overall"]["rows"] == sum(part["rows"] for part in document["hospitals"].values())
    assert document["failed"] == {}
    names = {f"describe · {site}" for site in SITES} | {"pool descriptions"}
    assert describing(place) == dict.fromkeys(names, "COMPLETED")
    with sqlite3.connect(place.root / ".prefect" / "prefect.db") as database:
        tables = dict(database.execute("select key, data from artifact where key like 'data-%'").fetchall())
    assert set(tables) == {"data-numbers", "data-categories"}
    assert "suppressed" not in tables["data-numbers"]
    assert "oldpeak (mm)" in tables["data-numbers"]
