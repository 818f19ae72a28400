"""Strategies held against each other: figures by hand, the same hospitals for all, and what the files say."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from fedmed.comparison.compared import Compared, compare_results, in_markdown, short_table, write_comparison
from fedmed.comparison.traffic import Traffic
from fedmed.comparison.variants import Change, ComparisonRequest, VariantResult
from fedmed.settings import EvaluationOptions

SITES = ("north", "south")


def result(strategy: str, seed: int, north: float, south: float | None, **changes: Any) -> VariantResult:
    told = {"north": north} | ({} if south is None else {"south": south})
    content: dict[str, Any] = {
        "strategy": strategy,
        "seed": seed,
        "run": f"{strategy}{seed}",
        "evaluation": EvaluationOptions(),
        "kind": "binary",
        "headline": ("accuracy", "brier"),
        "hospitals": SITES,
        "chosen": 2,
        "losses": (0.9, 0.5),
        "values": {"federated": {"accuracy": told, "brier": {}}},
        "traffic": {1: Traffic(down=1000, up=100), 2: Traffic(down=1000, up=100)},
        **changes,
    }
    return VariantResult.model_validate(content)


def request(*strategies: str, seeds: tuple[int, ...] = (1, 2)) -> ComparisonRequest:
    changes = (Change("", "training.rounds", 2), Change("fedavg", "training.l2", 0.0))
    return ComparisonRequest.model_validate(
        {"name": "few", "strategies": strategies, "seeds": seeds, "changes": changes}
    )


@pytest.fixture
def compared() -> Compared:
    # fedavg: means .7 and .8; scaffold: .75 and .95. By hospital, fedavg: north .8, south .7.
    own = {"own": {"accuracy": {"north": 0.5, "south": 0.7}}}
    first = result("fedavg", 1, 0.8, 0.6)
    results = [
        first.model_copy(update={"values": {**first.values, **own}}),
        result("fedavg", 2, 0.8, 0.8),
        result("scaffold", 1, 0.8, 0.7),
        result("scaffold", 2, 1.0, 0.9, losses=(0.9, 0.7, 0.8), chosen=2),
    ]
    return compare_results(request("fedavg", "scaffold"), "heart", results, {})


def test_figures_by_hand(compared: Compared) -> None:
    fedavg, scaffold = (compared.strategies[name].metrics["accuracy"] for name in ("fedavg", "scaffold"))
    assert fedavg.value is not None
    assert scaffold.value is not None
    assert fedavg.value.mean == pytest.approx(0.75)
    assert fedavg.value.deviation == pytest.approx(0.05 * 2**0.5)
    assert scaffold.value.mean == pytest.approx(0.85)
    assert fedavg.difference is None
    assert scaffold.difference is not None
    assert scaffold.difference.mean == pytest.approx(0.1)  # of .05 and .15
    assert scaffold.difference.deviation == pytest.approx(0.05 * 2**0.5)
    assert fedavg.spread is not None
    assert (fedavg.spread.worst_at, round(fedavg.spread.worst, 6)) == ("south", 0.7)
    assert fedavg.spread.deviation == pytest.approx(0.05)


def test_bytes_are_of_a_run_and_of_a_round(compared: Compared) -> None:
    assert compared.strategies["fedavg"].traffic == Traffic(down=2000, up=200)
    assert compared.strategies["fedavg"].traffic_of_a_round == Traffic(down=1000, up=100)
    assert compared.strategies["scaffold"].rounds == (2, 3)
    assert compared.strategies["scaffold"].traffic_of_a_round == Traffic(down=800, up=80)  # 4000 in 5 rounds


def test_validation_loss_is_of_the_chosen_round(compared: Compared) -> None:
    loss = compared.strategies["scaffold"].validation_loss
    assert loss is not None
    assert loss.mean == pytest.approx(0.6)
    assert compared.strategies["scaffold"].chosen == (2, 2)


def test_what_hospitals_could_do_alone_stands_beside(compared: Compared) -> None:
    assert compared.references["own"]["accuracy"].mean == pytest.approx(0.6)
    assert list(compared.references) == ["own"]


def test_a_hospital_that_one_variant_suppresses_counts_in_none() -> None:
    results = [result("fedavg", 1, 0.8, 0.2), result("mean", 1, 0.8, None)]
    found = compare_results(request("fedavg", "mean", seeds=(1,)), "heart", results, {})
    assert found.hospitals == {"accuracy": ("north",), "brier": ()}
    value = found.strategies["fedavg"].metrics["accuracy"].value
    assert value is not None
    assert value.mean == 0.8
    assert found.strategies["fedavg"].metrics["accuracy"].spread is None
    assert found.strategies["fedavg"].metrics["brier"].value is None


def test_a_strategy_that_was_not_finished_is_left_out_and_named() -> None:
    failed = {"fedavg-1": "diverged", "fedavg-2": "diverged", "mean-2": "diverged"}
    found = compare_results(request("fedavg", "mean"), "heart", [result("mean", 1, 0.8, 0.7)], failed)
    assert list(found.strategies) == ["mean"]
    assert found.first == "mean"
    assert "- fedavg-1: diverged" in in_markdown(found)


def test_a_seed_that_one_strategy_lacks_is_in_no_difference() -> None:
    results = [result("fedavg", 1, 0.8, 0.8), result("mean", 1, 0.9, 0.9), result("mean", 2, 0.1, 0.1)]
    found = compare_results(request("fedavg", "mean"), "heart", results, {"fedavg-2": "diverged"})
    difference = found.strategies["mean"].metrics["accuracy"].difference
    assert difference is not None
    assert (difference.seeds, round(difference.mean, 6)) == (1, 0.1)


def test_without_a_result_nothing_is_compared() -> None:
    with pytest.raises(ValueError, match="at least one finished variant"):
        compare_results(request("fedavg"), "heart", [], {})


def test_the_page_has_every_figure(compared: Compared) -> None:
    page = in_markdown(compared)
    assert "fedavg, scaffold on heart at north, south; 2 seeds (1, 2)." in page
    assert "Changed: `training.rounds=2`, `fedavg:training.l2=0.0`." in page
    assert "Over 2 of 2 hospitals; higher is better." in page
    assert "| fedavg | .750 ± .071 | .115 to 1.385 | — | — | .700 (south) | .050 |" in page
    assert "| scaffold | .850 ± .141 | −.421 to 2.121 | .100 ± .071 | −.535 to .735 | .800 (south) | .050 |" in page
    assert "| (alone) | .600 | — |  |  |  |  |" in page
    assert "## Brier\n\nNo hospital may tell it under every variant." in page
    assert "| scaffold | .600 ± .141 | 2, 2 | 2–3 | 800 B | 80 B | 2.0 kB | 200 B |" in page


def test_the_terminal_gets_one_line_a_strategy(compared: Compared) -> None:
    header, rows = short_table(compared)
    assert [row[0] for row in rows] == ["fedavg", "scaffold", "(alone)"]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[1][-1] == "2.2 kB"


def test_files_are_written_and_the_same_again_are_the_same(compared: Compared, tmp_path: Path) -> None:
    drawn = write_comparison(tmp_path, compared)
    names = ["table.md", "table.csv", "results.json", "validation_loss.png", "bytes.png"]
    before = [(tmp_path / name).read_bytes() for name in names]
    assert [path.name for path in drawn] == names[3:]
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["strategy"], row["metric"]) for row in rows][:2] == [("fedavg", "accuracy"), ("fedavg", "brier")]
    assert rows[0]["difference"] == ""
    assert float(rows[2]["difference"]) == pytest.approx(0.1)
    assert rows[2]["bytes_down"] == "2000"
    assert Compared.model_validate_json((tmp_path / "results.json").read_bytes()) == compared
    write_comparison(tmp_path, compared)
    assert [(tmp_path / name).read_bytes() for name in names] == before
