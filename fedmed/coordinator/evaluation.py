"""The final test as the coordinator sees it: every hospital's report, and what may be said over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmed.coordinator.history import write_csv
from fedmed.errors import ExchangeError, MessageRefused, WorkspaceError
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.exchange.messages import COORDINATOR, EVERYONE, Address, GlobalModel, Payload, Plan, TestReport
from fedmed.files import write_atomically, write_json
from fedmed.typed_yaml import Record
from fedmed.weights import Weights, to_bytes

TEST_METRICS = ("accuracy", "brier", "log_loss", "auroc")


class Evaluation(Record):
    """The reports of all hospitals on one model."""

    run: str
    round: int
    sites: dict[str, TestReport]
    failed: dict[str, str] = {}

    def value(self, site: str, model: str, metric: str) -> float | None:
        """A measured value, None where the hospital may not tell it."""
        figure = self.sites[site].measurements.get(model, {}).get(metric)
        return None if figure is None else figure.value

    def mean(self, model: str, metric: str) -> tuple[float | None, int]:
        """Mean over the hospitals that tell it, and how many those are."""
        told = [value for site in self.sites if (value := self.value(site, model, metric)) is not None]
        return (sum(told) / len(told) if told else None), len(told)


def plan_of(run: str, exchange: Exchange) -> Plan:
    """The plan that was posted for a run."""
    return fetch(exchange, Address(run, 0, "plan", COORDINATOR, EVERYONE), Plan)


def post_model(plan: Plan, weights: Weights, recipient: str, number: int, exchange: Exchange) -> Payload:
    """Post weights that are not a round's own, such as the pooled model's, for a test."""
    data = to_bytes(weights)
    message = GlobalModel(run=plan.run, round=number, recipient=recipient, payload=reference(data))
    exchange.post(message, data)
    return message.payload


def gather_reports(
    run: str, number: int, answered: Iterable[str], failed: Mapping[str, str], exchange: Exchange
) -> Evaluation:
    """The reports that were posted on the model of round `number`."""
    reports, refused = {}, dict(failed)
    for site in sorted(answered):
        try:
            report = fetch(exchange, Address(run, number, "report", site, COORDINATOR), TestReport)
            if "federated" not in report.measurements:
                raise MessageRefused(f"{site}: the report has no measurements of the federated model")
            reports[site] = report
        except ExchangeError as problem:
            refused[site] = str(problem)
    return Evaluation(run=run, round=number, sites=reports, failed=refused)


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write reports.json, metrics.json and curves/ into `folder`."""
    write_atomically(folder / "reports.json", evaluation.model_dump_json(indent=1).encode() + b"\n")
    write_json(folder / "metrics.json", _metrics(evaluation))
    write_csv(
        folder / "curves" / "roc.csv",
        ("site", "false_positive_rate", "true_positive_rate"),
        [
            (site, x, y)
            for site, report in evaluation.sites.items()
            if (curve := report.curves.roc)
            for x, y in zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
        ],
    )
    write_csv(
        folder / "curves" / "calibration.csv",
        ("site", "mean_prediction", "observed_share", "rows"),
        [
            (site, entry.mean_prediction, entry.observed_share, entry.rows)
            for site, report in evaluation.sites.items()
            for entry in report.curves.calibration or ()
        ],
    )


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation in `folder`.

    Raises:
        WorkspaceError: if there is none, or its file is damaged.
    """
    try:
        return Evaluation.model_validate_json((folder / "reports.json").read_bytes())
    except FileNotFoundError:
        raise WorkspaceError(f"{folder}: no model has been tested here yet; `fedmed run` tests one") from None
    except ValidationError:
        raise WorkspaceError(
            f"{folder / 'reports.json'}: not an evaluation; `fedmed run --force` writes it anew"
        ) from None


def _metrics(evaluation: Evaluation) -> dict[str, Any]:
    sites = {
        site: {
            metric: value
            for metric in report.measurements["federated"]
            if (value := evaluation.value(site, "federated", metric)) is not None
        }
        for site, report in evaluation.sites.items()
    }
    mean: dict[str, Any] = {}
    for metric in TEST_METRICS:
        value, hospitals = evaluation.mean("federated", metric)
        if value is not None:
            mean[metric] = {"value": round(value, 4), "hospitals": hospitals}
    return {"mean_over_hospitals": mean, "sites": sites}
