"""What a workspace's last run came to, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmed.coordinator.evaluation import Evaluation, read_evaluation
from fedmed.coordinator.history import History, read_history
from fedmed.coordinator.release import evaluation_table
from fedmed.coordinator.runs import read_admissions
from fedmed.errors import WorkspaceError
from fedmed.evaluation.measurement import Measurement, number
from fedmed.evaluation.names import in_words
from fedmed.registry import Registered
from fedmed.workspace import Workspace
from flows.cli.console import table

MODELS = {
    "federated": "federated",
    "global": "global",
    "own": "alone",
    "majority": "majority",
    "kaplan_meier": "Kaplan-Meier",
    "pooled": "pooled",
}


def summarise(workspace: Workspace) -> tuple[dict[str, Any], str]:
    """The state of a workspace: a document for scripts, and text for people. What is not there yet is said so."""
    document: dict[str, Any] = {"workspace": str(workspace.root)}
    lines: list[str] = []
    for part in (_hospitals, _training, _test, _registered):
        try:
            part(workspace, document, lines)
        except WorkspaceError as missing:
            lines.append(str(missing))
            break
    return document, "\n".join(lines)


def _hospitals(workspace: Workspace, document: dict[str, Any], lines: list[str]) -> None:
    admissions = read_admissions(workspace.coordinator)
    document["admitted"], document["quarantined"] = admissions.admitted, admissions.quarantined
    lines.append(f"Hospitals   {', '.join(admissions.admitted) or 'none'} admitted")
    lines += [f"            {site} quarantined: {', '.join(failed)}" for site, failed in admissions.quarantined.items()]


def _training(workspace: Workspace, document: dict[str, Any], lines: list[str]) -> None:
    history, _ = read_history(workspace.coordinator.training_folder)
    chosen = history.rounds[history.chosen - 1]
    document["run"], document["rounds"] = history.run, len(history.rounds)
    document["chosen"] = {
        "round": chosen.round,
        "validation_loss": chosen.validation_loss,
        "sha256": chosen.model.sha256,
    }
    loss = "untold" if chosen.validation_loss is None else f"{chosen.validation_loss:.4f}"
    lines.append(
        f"Run         {history.run}: {len(history.rounds)} rounds, round {chosen.round} chosen (validation loss {loss})"
    )
    if chosen.validation_loss is None:
        lines.append(
            "            the last round, for no hospital has enough validation rows to tell a loss (split.validation)"
        )
    elif chosen.round == len(history.rounds) > 1:
        lines.append("            the last round was the best: more rounds may be better still (training.rounds)")
    lines.append(f"Weights     {chosen.model.sha256[:16]}…  {_absences(history)}")


def _test(workspace: Workspace, document: dict[str, Any], lines: list[str]) -> None:
    evaluation = read_evaluation(workspace.coordinator.evaluation_folder)
    document["test"] = evaluation_table(evaluation)
    document["findings"] = {site: report.comparison.sentence for site, report in evaluation.sites.items()}
    metric = evaluation.headline[0]
    mean, hospitals = evaluation.mean("federated", metric)
    document["mean_test"] = {"metric": metric, "value": mean, "hospitals": hospitals}
    document["spread"] = {name: entry.model_dump() for name, entry in evaluation.spreads().items()}
    document["subgroups"] = {
        site: report.model_dump(include={"subgroups"})["subgroups"] for site, report in evaluation.sites.items()
    }
    lines += ["", f"Test {in_words(metric)}", _by_hospital(evaluation, metric), ""]
    if mean is not None:
        lines.append(
            f"  mean over {hospitals} of {len(evaluation.sites)} hospitals: {mean:.4f}{_apart(evaluation, metric)}"
        )
    lines += _subgroups(evaluation, metric)
    lines += [f"  {report.comparison.sentence}" for report in evaluation.sites.values()]
    lines += [f"  {site} was not evaluated: {reason}" for site, reason in evaluation.failed.items()]


def _registered(workspace: Workspace, document: dict[str, Any], lines: list[str]) -> None:
    try:
        answer = Registered.model_validate_json(workspace.coordinator.registered_file.read_bytes())
    except FileNotFoundError:
        raise WorkspaceError("no model has been registered here yet; run `fedmed run`") from None
    document["registered"] = answer.model_dump()
    lines += [
        "",
        f"Registered  {answer.model} version {answer.version} (then {', '.join(answer.aliases)})",
        f"            {answer.reason}",
    ]


def _by_hospital(evaluation: Evaluation, metric: str) -> str:
    """One metric of every model that has it, a line a hospital."""
    tables = evaluation_table(evaluation)
    present = [model for model in MODELS if any(metric in models.get(model, {}) for models in tables.values())]
    rows = [[site, *(_told(models.get(model, {}), metric) for model in present)] for site, models in tables.items()]
    return table(["hospital", *(MODELS[model] for model in present)], rows)


def _told(figures: Mapping[str, Any], metric: str) -> str:
    return Measurement.model_validate(figures[metric]).text() if metric in figures else "—"


def _apart(evaluation: Evaluation, metric: str) -> str:
    found = evaluation.spreads().get(metric)
    if found is None:
        return ""
    worst, gap, deviation = map(number, (found.worst, found.gap, found.deviation))
    return f"; worst {worst} ({found.worst_at}), gap to the best {gap}, deviation {deviation}"


def _subgroups(evaluation: Evaluation, metric: str) -> list[str]:
    """A line for each declared column: the metric in its subgroups, where hospitals may tell it."""
    told: dict[str, dict[str, list[str]]] = {column: {} for column in evaluation.subgroups}
    for site, column, meaning, figures in evaluation.by_subgroup():
        if (value := figures[metric].value) is not None:
            told.setdefault(column, {}).setdefault(site, []).append(f"{meaning} {number(value)}")
    return [
        f"  by {column}: "
        + ("; ".join(f"{site} {', '.join(each)}" for site, each in sites.items()) or "suppressed at every hospital")
        for column, sites in told.items()
    ]


def _absences(history: History) -> str:
    short = [record.round for record in history.rounds if len(record.participants) < len(history.participants)]
    if not short:
        return f"all {len(history.participants)} hospitals in every round"
    return f"fewer than {len(history.participants)} hospitals in {len(short)} rounds"
