"""The evaluation of the chosen model as the coordinator sees it: what every hospital says, and what all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmed.coordinator.admission import digest_of
from fedmed.coordinator.asking import Asked
from fedmed.coordinator.history import write_csv
from fedmed.coordinator.reports import check_report
from fedmed.errors import ExchangeError, WorkspaceError
from fedmed.evaluation.fairness import Spread, spread
from fedmed.evaluation.measurement import Measurement
from fedmed.files import write_atomically, write_json
from fedmed.settings import Settings
from fedmed.targets.kind import KindName
from fedmed.targets.table import KINDS
from fedmed.typed_yaml import Record
from fedmed.wire.messages import Payload, Plan, Question, SiteEvaluation, bare
from fedmed.wire.post import reference


class Evaluation(Record):
    """What all hospitals say of one model.

    `kind` is that of the target; `subgroups` names the declared columns, and what their categories mean.
    """

    run: str
    round: int
    kind: KindName
    subgroups: dict[str, dict[str, str]] = {}
    sites: dict[str, SiteEvaluation]
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


def ask_to_evaluate(
    plan: Plan, number: int, attempt: int, models: dict[str, Payload], settings: Settings, counted: Mapping[str, str]
) -> list[Question]:
    """Ask every participant to measure models on its test rows.

    Args:
        plan: of the run.
        number: the chosen round.
        attempt: the present one.
        models: what is to be measured, by name.
        settings: the public parameters.
        counted: hospital → its last update that counted, up to the chosen round.

    What is measured is part of the address: a comparison that tries the parameters of the workspace has a run of the
    same name, and hospitals that were asked there already, perhaps about other models or with other resamples.
    """
    asked: dict[str, Any] = {
        "minimum_cell": settings.privacy.minimum_cell,
        "resamples": settings.evaluation.resamples,
        "own": settings.evaluation.own,
    }
    about = f"models.{digest_of({name: model.sha256 for name, model in models.items()}, asked)[:12]}"
    return [
        Question(
            run=plan.run,
            attempt=attempt,
            round=number,
            recipient=site,
            purpose="evaluate",
            about=about,
            fingerprint=plan.fingerprints[site],
            plan=reference(plan.encoded()),
            models=models,
            sites=plan.participants,
            counted=counted[site],
            **asked,
        )
        for site in plan.participants
    ]


def gather_evaluations(plan: Plan, number: int, model: Payload, asked: Asked) -> Evaluation:
    """What the hospitals made of the model of round `number`; what no evaluation can have given is refused."""
    reports, refused = {}, dict(asked.failed)
    for site, report in asked.answers.items():
        try:
            check_report(report, plan.cohort, model.sha256)
            reports[site] = bare(report)
        except ExchangeError as problem:
            refused[site] = str(problem)
    cohort = plan.cohort
    return Evaluation(
        run=plan.run,
        round=number,
        kind=cohort.target.kind,
        subgroups={name: dict(cohort.columns[name].categories or {}) for name in cohort.subgroups},
        sites=reports,
        failed=refused,
    )


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write evaluations.json, metrics.json and curves/ into `folder`."""
    write_atomically(folder / "evaluations.json", evaluation.model_dump_json(indent=1).encode() + b"\n")
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
        return Evaluation.model_validate_json((folder / "evaluations.json").read_bytes())
    except FileNotFoundError:
        raise WorkspaceError(f"{folder}: no model has been evaluated here yet; `fedmed run` evaluates one") from None
    except ValidationError:
        raise WorkspaceError(
            f"{folder / 'evaluations.json'}: not an evaluation; `fedmed run --force` writes it anew"
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
