"""What a flow shows on Prefect's pages beside its tasks: tables, progress, and the way to the MLflow run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from fedmed.comparison.compared import Compared, in_markdown
from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.description import FederatedDescription
from fedmed.coordinator.evaluation import Evaluation
from fedmed.coordinator.history import History
from fedmed.coordinator.release import evaluation_table
from fedmed.evaluation.measurement import Measurement, texts
from fedmed.evaluation.names import in_words
from flows.tables import category_rows, number_rows

MLFLOW_PAGES = "http://127.0.0.1:5001"


def mlflow_pages() -> str:
    """Where the consortium's MLflow pages are: FEDMED_MLFLOW_PAGES, or where `fedmed ui` starts them."""
    return os.environ.get("FEDMED_MLFLOW_PAGES", MLFLOW_PAGES)


def show_admissions(admissions: Admissions) -> None:
    """A table of who was admitted, and which expectations the others failed."""
    create_table_artifact(
        key="admissions",
        description="Which hospitals' data keep the contract. Counts that are too small are suppressed.",
        table=[
            {
                "hospital": site,
                "verdict": "admitted" if message.admitted else "quarantined",
                "failed expectations": ", ".join(message.failed) or "none",
                **{f"{split} rows": _told(message.rows.get(split)) for split in ("train", "validation", "test")},
            }
            for site, message in admissions.sites.items()
        ],
    )


def show_description(description: FederatedDescription) -> None:
    """Two tables of the training rows, over all hospitals and of each: numbers, and categories with the target."""
    of = (
        f"Training rows of {len(description.hospitals)} hospitals. Small counts are withheld; figures have bounds then."
    )
    scopes = {"all": description.overall, **description.hospitals}
    for key, rows_of in (("data-numbers", number_rows), ("data-categories", category_rows)):
        rows = [
            {"hospital": scope, **row} for scope, part in scopes.items() for row in rows_of(part, description.target)
        ]
        create_table_artifact(key=key, description=of, table=rows)


@contextmanager
def show_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over the rounds; each call says how many are done, and about twenty of them reach the page."""
    artifact = create_progress_artifact(progress=0.0, key="rounds-done", description=description)

    def done(number: int, of: int) -> None:
        step = max(1, of // 20)
        if number % step == 0 or number == of:
            update_progress_artifact(
                _identifier(artifact), progress=100 * number / of, description=f"round {number} of {of}"
            )

    yield done


def show_rounds(history: History) -> None:
    """A table of every round: who took part, and the losses."""
    create_table_artifact(
        key="rounds",
        description=f"Run {history.run}. Round {history.chosen} was chosen by validation.",
        table=[
            {
                "round": record.round,
                "chosen": "✓" if record.round == history.chosen else "",
                "hospitals": len(record.participants),
                "train loss": None if record.train_loss is None else round(record.train_loss, 4),
                "validation loss": None if record.validation_loss is None else round(record.validation_loss, 4),
                **{site: _loss(entry.validation_loss, entry.refused) for site, entry in record.sites.items()},
            }
            for record in history.rounds
        ],
    )


def show_evaluation(evaluation: Evaluation) -> None:
    """The evaluation at every hospital, and whether federating helped it."""
    shown = ("rows", "events", *evaluation.headline, "calibration_slope")

    def told(figures: Mapping[str, Any]) -> dict[str, str]:
        return texts({metric: Measurement.model_validate(figures[metric]) for metric in shown if metric in figures})

    rows = [
        {"hospital": site, "model": model, **told(figures)}
        for site, models in evaluation_table(evaluation).items()
        for model, figures in models.items()
    ]
    create_table_artifact(key="evaluation", description="Every model on each hospital's test rows.", table=rows)
    spreads = [{"metric": in_words(metric), **entry.model_dump()} for metric, entry in evaluation.spreads().items()]
    if spreads:
        create_table_artifact(
            key="spread", description="The federated model's best and worst hospital, and the gap.", table=spreads
        )
    subgroups = [
        {"hospital": site, "subgroup": f"{column}: {meaning}", **told(figures)}
        for site, column, meaning, figures in evaluation.by_subgroup()
    ]
    if subgroups:
        create_table_artifact(
            key="subgroups",
            description="The federated model in subgroups of each hospital's test rows.",
            table=subgroups,
        )
    sentences = [f"- {report.comparison.sentence}" for report in evaluation.sites.values()]
    create_markdown_artifact(
        key="did-federating-help", markdown="\n".join(["## Did federating help?", *sentences]), description="In words"
    )


def show_registered(answer: dict[str, Any]) -> None:
    """A link to the run in MLflow."""
    page = f"{mlflow_pages()}/#/experiments/{answer['experiment_id']}/runs/{answer['mlflow_run_id']}"
    text = f"{answer['model']} version {answer['version']} in MLflow"
    create_link_artifact(key="mlflow-run", link=page, link_text=text, description=answer["reason"])


def show_comparison(compared: Compared, registered: dict[str, Any]) -> None:
    """The tables of a comparison of strategies, and a link to its run in MLflow."""
    create_markdown_artifact(
        key="comparison", markdown=in_markdown(compared), description=f"Comparison {compared.name}"
    )
    page = f"{mlflow_pages()}/#/experiments/{registered['experiment_id']}/runs/{registered['mlflow_run_id']}"
    create_link_artifact(
        key="comparison-in-mlflow", link=page, link_text=f"compare {compared.name} in MLflow", description="Its runs"
    )


def _told(count: int | None) -> int | str:
    return "suppressed" if count is None else count


def _loss(loss: float | None, refused: str) -> float | str:
    if refused:
        return "refused"
    return "suppressed" if loss is None else round(loss, 4)


def _identifier(artifact: Any) -> UUID:
    return artifact if isinstance(artifact, UUID) else UUID(str(artifact))
