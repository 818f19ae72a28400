"""The final test as the coordinator sees it: every hospital's report, and what may be said over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmed.coordinator.history import write_csv
from fedmed.coordinator.reports import check_report
from fedmed.coordinator.rounds import model_of
from fedmed.data.cohort import Kind
from fedmed.errors import ExchangeError, WorkspaceError
from fedmed.evaluation.fairness import Spread, spread
from fedmed.evaluation.kinds import KINDS
from fedmed.evaluation.measurement import Measurement
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.files import write_atomically, write_json
from fedmed.typed_yaml import Record
from fedmed.weights import Weights, to_bytes
from fedmed.wire.messages import COORDINATOR, EVERYONE, Address, GlobalModel, Payload, Plan, TestReport


class Evaluation(Record):
    """The reports of all hospitals on one model.

    `kind` is that of the target; `subgroups` names the declared columns, and what their categories mean.
    """

    run: str
    round: int
    kind: Kind
    subgroups: dict[str, dict[str, str]] = {}
    sites: dict[str, TestReport]
    failed: dict[str, str] = {}

    def value(self, site: str, model: str, metric: str) -> float | None:
        """A measured value, None where the hospital may not tell it."""
        figure = self.sites[site].measurements.get(model, {}).get(metric)
        return None if figure is None else figure.value

    def values(self, model: str, metric: str) -> dict[str, float]:
        """Hospital → value, where the hospital tells it."""
        return {site: value for site in self.sites if (value := self.value(site, model, metric)) is not None}

    def mean(self, model: str, metric: str) -> tuple[float | None, int]:
        """Mean over the hospitals that tell it, and how many those are."""
        told = list(self.values(model, metric).values())
        return (sum(told) / len(told) if told else None), len(told)

    def spreads(self) -> dict[str, Spread]:
        """Each headline metric's spread over the hospitals, of the federated model, where two of them tell it."""
        found = {metric: spread(metric, self.values("federated", metric)) for metric in self.headline}
        return {metric: entry for metric, entry in found.items() if entry is not None}

    def by_subgroup(self) -> Iterator[tuple[str, str, str, Mapping[str, Measurement]]]:
        """Hospital, column, the category's meaning, and the federated model's measurements."""
        for site, report in self.sites.items():
            for column, categories in report.subgroups.items():
                meanings = self.subgroups.get(column, {})
                yield from ((site, column, meanings.get(code) or code, told) for code, told in categories.items())

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics of the target's kind that people are shown, the foremost first."""
        return KINDS[self.kind].headline


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
    """The reports that were posted on the model of round `number`; what no test can have given is refused."""
    reports, refused = {}, dict(failed)
    cohort, tested = plan_of(run, exchange).cohort, model_of(run, number, exchange)
    for site in sorted(answered):
        try:
            report = fetch(exchange, Address(run, number, "report", site, COORDINATOR), TestReport)
            check_report(report, cohort, tested.payload.sha256)
            reports[site] = report
        except ExchangeError as problem:
            refused[site] = str(problem)
    return Evaluation(
        run=run,
        round=number,
        kind=cohort.target.kind,
        subgroups={name: dict(cohort.columns[name].categories or {}) for name in cohort.subgroups},
        sites=reports,
        failed=refused,
    )


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
    write_csv(
        folder / "curves" / "risk_groups.csv",
        ("site", "group", "time", "survival", "rows"),
        [
            (site, number, time, share, group.rows)
            for site, report in evaluation.sites.items()
            for number, group in enumerate(report.curves.risk_groups or (), 1)
            for time, share in zip(group.times, group.survival, strict=True)
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
    for metric in evaluation.headline:
        value, hospitals = evaluation.mean("federated", metric)
        if value is not None:
            mean[metric] = {"value": round(value, 4), "hospitals": hospitals}
    spreads = {metric: entry.model_dump() for metric, entry in evaluation.spreads().items()}
    return {
        "mean_over_hospitals": mean,
        "spread_over_hospitals": spreads,
        "sites": sites,
        "subgroups": _told(evaluation),
    }


def _told(evaluation: Evaluation) -> dict[str, Any]:
    """Hospital → column → category → metric → value, where there are any."""
    return {
        site: {
            column: {
                category: values
                for category, figures in of_column.items()
                if (values := {name: entry.value for name, entry in figures.items() if entry.value is not None})
            }
            for column, of_column in report.subgroups.items()
        }
        for site, report in evaluation.sites.items()
        if report.subgroups
    }
