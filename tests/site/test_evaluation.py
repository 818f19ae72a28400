"""The evaluation at a hospital, for every kind of target: real partitions, trained models, figures fit to leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedmed.aggregation.grid import FixedPoint
from fedmed.data.cohort import Cohort, Column, Minimum
from fedmed.data.split import SplitOptions
from fedmed.evaluation import survival
from fedmed.exchange.memory import MemoryExchange
from fedmed.models.bundle import outputs, predictions
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions, initial_weights, network_for
from fedmed.seeds import torch_generator
from fedmed.site.agent import step
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome, add_records, partition_records
from fedmed.strategies.options import AggregationOptions
from fedmed.targets.table import KINDS
from fedmed.targets.target import Target
from fedmed.training import alone
from fedmed.training.alone import train_alone
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.weights import sha256, to_bytes
from fedmed.wire.messages import Plan, Question, Score, SiteEvaluation
from fedmed.wire.post import fetch, post, put_payload

TARGETS = {
    "binary": Target(name="ill", column="outcome", positive="> 0"),
    "multiclass": Target(
        name="stage", kind="multiclass", column="outcome", classes={"0": "none", "1": "early", "2": "late"}
    ),
    "survival": Target(name="death", kind="survival", time="days", event="died", unit="days", horizon=300.0),
}
CASES = [("binary", "cox"), ("multiclass", "cox"), ("survival", "cox"), ("survival", "discrete")]


def cohort_of(kind: str, subgroups: tuple[str, ...] = ("sex",)) -> Cohort:
    return Cohort(
        name=f"made_up_{kind}",
        target=TARGETS[kind],
        minimum=Minimum(rows=20),
        columns={
            "marker": Column(type="number", range=(-6.0, 6.0)),
            "age": Column(type="number", range=(0.0, 100.0)),
            "sex": Column(type="category", categories={"0": "female", "1": "male"}),
        },
        subgroups=subgroups,
    )


def records(kind: str, rows: int, women: int) -> pd.DataFrame:
    generator = np.random.default_rng(5)
    marker = generator.normal(size=rows)
    table: dict[str, Any] = {
        "marker": marker.round(6),
        "age": generator.uniform(20, 90, size=rows).round(6),
        "sex": np.where(generator.permutation(rows) < women, "0", "1"),
    }
    if kind == "survival":
        event, censored = generator.exponential(200 * np.exp(-marker)), generator.uniform(50, 600, size=rows)
        table |= {"days": np.minimum(event, censored).round(3) + 0.001, "died": (event <= censored).astype(int)}
    else:
        noisy = marker + generator.logistic(size=rows) / 2
        table["outcome"] = np.digitize(noisy, [0.0] if kind == "binary" else [-0.5, 0.5])
    return pd.DataFrame(table)


class Trial:
    """One hospital, a model trained on its rows as well as it can be, and what it says in a round and at the end."""

    def __init__(self, folder: Path, kind: str, curves: str, rows: int = 600, women: int = 300) -> None:
        self.cohort, self.home = cohort_of(kind), SiteHome(folder / "north")
        folder.mkdir(exist_ok=True)
        file = folder / "north.csv"
        records(kind, rows, women).to_csv(file, index=False)
        add_records(self.home, [file], self.cohort)
        fingerprint = partition_records(self.home, self.cohort, SplitOptions(train=0.5, validation=0.2))[0].fingerprint
        network = NetworkOptions(survival=curves, intervals=5)  # type: ignore[arg-type]  # one of the two
        start = to_bytes(initial_weights(network_for(self.cohort, network), torch_generator(1, "start")))
        self.plan = Plan(
            run="run-1",
            participants=("north",),
            rows={"north": rows // 2},
            weights={"north": rows // 2},
            fingerprints={"north": fingerprint},
            cohort=self.cohort,
            statistics=InputStatistics(mean={"marker": 0.0, "age": 55.0}, deviation={"marker": 1.0, "age": 20.0}),
            network=network,
            training=TrainingOptions(learning_rate=1.0, batch_size=300),
            aggregation=AggregationOptions(),
            personal=PersonalOptions(),
            grid=FixedPoint(bits=32, limit=16.0, weight=500),
            start=sha256(start),
        )
        self.exchange = MemoryExchange()
        agreed = put_payload(self.exchange, self.plan.encoded())
        self.desk = open_session(self.home).desk(self.plan)
        self.weights = dict(
            train_alone(
                self.desk.problem(),
                self.desk.examples["validation"],
                initial_weights(self.desk.network, torch_generator(1, "start")),
                torch_generator(1, "here"),
            ).state
        )
        self.question = Question(
            run="run-1",
            round=1,
            recipient="north",
            purpose="evaluate",
            minimum_cell=11,
            fingerprint=fingerprint,
            plan=agreed,
            models={"federated": put_payload(self.exchange, to_bytes(self.weights))},
            resamples=100,
        )

    def evaluation(self) -> SiteEvaluation:
        step(self.home, self.exchange, "run-1", post(self.exchange, self.question))
        return fetch(self.exchange, self.question.answer_address, SiteEvaluation)

    def score(self) -> Score:
        question = self.question.model_copy(update={"purpose": "score", "resamples": 0})
        step(self.home, self.exchange, "run-1", post(self.exchange, question))
        return fetch(self.exchange, question.answer_address, Score)

    def says(self, split: str) -> Any:
        told = outputs(self.desk.network, self.weights, self.desk.examples[split].features)
        return predictions(told, self.cohort.target, self.plan.network)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Models trained alone get 40 passes and one penalty: enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alone, "PENALTIES", (0.001,))
        patch.setattr(alone, "MOST_EPOCHS", 40)
        yield


@pytest.fixture(scope="module", params=CASES, ids=lambda case: " ".join(case))
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    kind, curves = request.param
    return Trial(tmp_path_factory.mktemp(kind), kind, curves)


def test_a_score_tells_loss_and_metrics_of_the_kind(trial: Trial) -> None:
    kind, told = trial.cohort.target.kind, trial.score()
    assert told.rows == 120
    assert told.loss is not None
    assert told.loss > 0
    assert tuple(told.metrics) == KINDS[kind].validated
    assert told.metrics[{"binary": "auroc", "multiclass": "macro_auroc", "survival": "c_index"}[kind]] > 0.65


def test_an_evaluation_has_every_figure_of_the_kind(trial: Trial) -> None:
    kind, found = trial.cohort.target.kind, trial.evaluation()
    is_cox = kind == "survival" and trial.plan.network.survival == "cox"  # it has no intercept to shift
    expected = {"federated", "own"} | (set() if is_cox else {"global"})
    assert set(found.measurements) == expected
    for measured in found.measurements.values():
        assert measured["rows"].value == 180
        assert all(measured[name].value is not None for name in KINDS[kind].headline)
    assert found.comparison.figures.keys() >= set(KINDS[kind].drawn) - {"balanced_accuracy"}
    assert found.comparison.verdict != "not estimable"
    drawn = found.curves.model_dump(exclude_none=True)
    assert set(drawn) == {"binary": {"roc", "calibration"}, "multiclass": set(), "survival": {"risk_groups"}}[kind]


def test_subgroups_are_told_with_every_figure(trial: Trial) -> None:
    found = trial.evaluation()
    women, men = found.subgroups["sex"]["0"], found.subgroups["sex"]["1"]
    assert (women["rows"].value or 0) + (men["rows"].value or 0) == 180
    assert tuple(women) == tuple(found.measurements["federated"])


def test_with_few_women_neither_sex_is_told(tmp_path: Path) -> None:
    few = Trial(tmp_path, "binary", "cox", women=40).evaluation()
    assert {entry.reason for of in few.subgroups["sex"].values() for entry in of.values()} == {"suppressed"}


def test_a_cox_model_is_measured_under_the_baseline_of_the_hospitals_own_training_rows(tmp_path: Path) -> None:
    this = Trial(tmp_path, "survival", "cox")
    examples = this.desk.examples
    said = survival.cox_forecast(
        this.says("test"), this.says("train"), examples["train"].labels.numpy(), survival.grid(300.0)
    )
    labels = examples["test"].labels.numpy()
    measured = this.evaluation().measurements["federated"]
    assert measured["integrated_brier"].value == pytest.approx(survival.integrated_brier(said, labels), abs=1e-4)
    assert measured["c_index"].value == pytest.approx(survival.c_index(this.says("test"), labels, 300.0), abs=1e-4)
    assert measured["events"].value == ((labels[:, 1] == 1) & (labels[:, 0] <= 300)).sum()


def test_a_cohort_without_subgroups_tells_of_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="category columns"):
        cohort_of("binary", ("age",))
    with pytest.raises(ValueError, match="each once"):
        cohort_of("binary", ("sex", "sex"))
    assert cohort_of("binary", ()).digest != cohort_of("binary").digest  # what leaves a hospital is declared
