"""The pictures of a run: drawn from JSON alike records, one panel a hospital, and silent about what is withheld."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed.evaluation import plots, strategy_plots
from fedmed.evaluation.curves import calibration_curve, roc_curve
from fedmed.evaluation.measurement import NOT_ESTIMABLE, SUPPRESSED, Measurement

SITES = ("cleveland", "switzerland")
AUROC = Measurement(value=0.9, low=0.8, high=0.95)


def rounds(sites: tuple[str, ...] = SITES) -> list[dict[str, Any]]:
    return [
        {"round": k, "validation_loss": 1 / k, "sites": {site: {"validation_loss": 1 / k} for site in sites}}
        for k in (1, 2, 3)
    ]


def evaluation() -> dict[str, dict[str, dict[str, Any]]]:
    told = {"auroc": AUROC, "accuracy": AUROC, "brier": AUROC, "calibration_slope": NOT_ESTIMABLE}
    withheld = {"auroc": SUPPRESSED, "accuracy": SUPPRESSED, "brier": SUPPRESSED, "calibration_slope": SUPPRESSED}
    bound = {"accuracy": {"value": None, "low": 0.65, "high": None, "reason": "suppressed"}}
    return {
        "cleveland": {"federated": told, "own": told, "majority": {"accuracy": AUROC}},
        "switzerland": {"federated": withheld, "own": withheld, "majority": bound},
    }


def curves() -> dict[str, dict[str, Any]]:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, size=200)
    probability = np.clip(label * 0.4 + generator.random(200) * 0.6, 0, 1)
    bins = calibration_curve(probability, label)
    return {
        "cleveland": {"roc": roc_curve(probability, label), "calibration": bins},
        "switzerland": {"roc": None, "calibration": None},
    }


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text of every figure that is written while the test runs."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    said: list[str] = []
    save = Figure.savefig

    def listen(figure: Figure, *args: Any, **kwargs: Any) -> None:
        save(figure, *args, **kwargs)
        said.extend(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))

    monkeypatch.setattr(Figure, "savefig", listen)
    return said


def test_all_are_drawn_and_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    given: dict[str, Any] = {"rounds": rounds(), "chosen": 2, "evaluation": evaluation(), "curves": curves()}
    first, second = plots.draw(tmp_path / "a", **given), plots.draw(tmp_path / "b", **given)
    names = ["convergence.png", "roc.png", "calibration.png", "accuracy.png", "brier.png"]
    assert [path.name for path in first] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in first)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_chosen_round_is_marked_with_its_loss(tmp_path: Path, words: list[str]) -> None:
    plots.convergence(tmp_path / "c.png", rounds(), chosen=2)
    assert "round; 2 was kept" in words
    assert words.count(".500") == 1 + len(SITES)
    assert {"all hospitals", *SITES} <= set(words)


def test_hospital_that_missed_rounds_is_drawn_where_it_answered(tmp_path: Path) -> None:
    records = [*rounds(("cleveland",)), {"round": 4, "validation_loss": None, "sites": {"switzerland": {}}}]
    plots.convergence(tmp_path / "c.png", records, chosen=3)
    plots.convergence(tmp_path / "none.png", [], chosen=0)
    assert (tmp_path / "none.png").exists()


def test_withheld_curve_is_said_to_be_withheld(tmp_path: Path, words: list[str]) -> None:
    told = curves()
    federated = {site: of_models["federated"] for site, of_models in evaluation().items()}
    plots.roc(tmp_path / "r.png", {site: entry["roc"] for site, entry in told.items()}, federated)
    assert words.count("suppressed:\ntoo few patients\nof a class") == 1
    assert "AUROC\n.900 (.800–.950)" in words
    plots.calibration(tmp_path / "k.png", {site: entry["calibration"] for site, entry in told.items()}, federated)
    assert words.count("suppressed:\ntoo few patients\nof a class") == 2
    assert "slope\nnot estimable" in words


def test_comparison_names_models_in_words_and_shows_a_bound_as_one(tmp_path: Path, words: list[str]) -> None:
    plots.comparison(tmp_path / "a.png", evaluation(), "accuracy")
    assert {"federated", "trained alone", "majority class", "≥ .65", "suppressed"} <= set(words)
    assert "Accuracy on the test rows, with 95 % intervals (higher is better)" in words
    assert "all data pooled" not in words


def test_survival_is_drawn_as_risk_groups_and_not_as_what_two_classes_have(tmp_path: Path, words: list[str]) -> None:
    index = {"c_index": AUROC, "integrated_brier": AUROC}
    groups = [
        {"rows": 40, "times": [0.0, 2.0, 6.0], "survival": [1.0, 0.9, 0.8]},
        {"rows": 41, "times": [0.0, 2.0], "survival": [1.0, 0.5]},
        {"rows": 42, "times": [0.0, 1.0, 2.0], "survival": [1.0, 0.5, 0.2]},
    ]
    withheld = {"c_index": SUPPRESSED, "integrated_brier": SUPPRESSED}
    paths = plots.draw(
        tmp_path,
        rounds=rounds(),
        chosen=1,
        evaluation={
            "cleveland": {"federated": index, "kaplan_meier": {"integrated_brier": AUROC}},
            "switzerland": {"federated": withheld},
        },
        curves={
            "cleveland": {"roc": None, "calibration": None, "risk_groups": groups},
            "switzerland": {"roc": None, "calibration": None, "risk_groups": None},
        },
        drawn=("c_index", "integrated_brier"),
    )
    assert [path.name for path in paths] == [
        "convergence.png",
        "risk_groups.png",
        "c_index.png",
        "integrated_brier.png",
    ]
    assert {"low, 40 rows", "middle, 41 rows", "high, 42 rows", "C-index\n.900 (.800–.950)"} <= set(words)
    assert "suppressed:\ntoo few patients\nof a class" in words
    assert "Integrated Brier score on the test rows, with 95 % intervals (lower is better)" in words
    assert "Kaplan-Meier" in words


def test_several_classes_have_no_curves_but_their_figures(tmp_path: Path) -> None:
    told = {"balanced_accuracy": AUROC, "brier": AUROC}
    paths = plots.draw(
        tmp_path,
        rounds=rounds(),
        chosen=1,
        evaluation={"cleveland": {"federated": told}},
        curves={"cleveland": {"roc": None, "calibration": None, "risk_groups": None}},
        drawn=("balanced_accuracy", "brier"),
    )
    assert [path.name for path in paths] == ["convergence.png", "balanced_accuracy.png", "brier.png"]


@pytest.mark.parametrize("hospitals", [1, 5, 16])
def test_any_number_of_hospitals_has_its_panels(tmp_path: Path, words: list[str], hospitals: int) -> None:
    names = tuple(f"h{number}" for number in range(hospitals))
    plots.convergence(tmp_path / "c.png", rounds(names), chosen=1)
    assert set(names) <= set(words)


def test_a_strategy_has_one_line_and_every_seed_a_thin_one(tmp_path: Path, words: list[str]) -> None:
    losses = {"fedavg": [(0.9, 0.5, 0.4), (0.9, 0.6)], "one_shot": [(0.7,), (0.8,)], "mean": [(None, None), (None,)]}
    strategy_plots.losses_of_strategies(tmp_path / "l.png", losses)
    assert {"fedavg", "one_shot", "mean", "loss"} <= set(words)
    strategy_plots.losses_of_strategies(tmp_path / "none.png", {"fedavg": []})
    assert (tmp_path / "none.png").exists()


def test_strategies_stand_at_their_bytes_in_their_own_order(tmp_path: Path, words: list[str]) -> None:
    points: dict[str, tuple[int, float, float | None, float | None]] = {
        "fedavg": (2000, 0.8, 0.7, 0.9),
        "scaffold": (4000, 0.9, None, None),
        "mean": (2000, 0.7, 0.6, 0.8),
    }
    strategy_plots.metrics_against_bytes(tmp_path / "b.png", {"c_index": points, "brier": {}}, 3)
    assert {"C-index ↑", "Brier score ↓", "Test figures by bytes, 95 % intervals over 3 seeds"} <= set(words)
    assert [word for word in words if word in points] == ["fedavg", "scaffold", "mean"]
    strategy_plots.metrics_against_bytes(tmp_path / "one.png", {"c_index": points}, 1)
    assert "Test figures by bytes, one seed" in words


def test_no_two_of_twenty_strategies_look_alike() -> None:
    assert len({strategy_plots._look(place) for place in range(20)}) == 20
