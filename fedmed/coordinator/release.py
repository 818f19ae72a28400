"""Everything that goes into the registry with a model: parameters, rounds, evidence from every hospital, lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedmed.coordinator.admission import Admissions, digest_of
from fedmed.coordinator.evaluation import Evaluation, read_evaluation
from fedmed.coordinator.history import History, read_history
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.runs import read_admissions
from fedmed.errors import WorkspaceError
from fedmed.evaluation import plots
from fedmed.evaluation.comparison import REFERENCES
from fedmed.lineage import git_commit, locked
from fedmed.registry import Release
from fedmed.settings import Settings
from fedmed.targets.table import KINDS


def release_of(home: CoordinatorHome, settings: Settings, root: Path) -> Release:
    """Gather the release of the last training run.

    Args:
        home: the coordinator's.
        settings: the public parameters.
        root: the folder that git and DVC version.

    Raises:
        WorkspaceError: if training or evaluation is missing, or they are of different runs.
    """
    history, _ = read_history(home.training_folder)
    evaluation = read_evaluation(home.evaluation_folder)
    admissions = read_admissions(home)
    if (evaluation.run, evaluation.round) != (history.run, history.chosen):
        raise WorkspaceError(
            f"the evaluation is of run {evaluation.run}, round {evaluation.round}, the model of run {history.run},"
            f" round {history.chosen}; `fedmed run` tests it"
        )
    parameters = settings.model_dump(mode="json")
    rounds = [record.model_dump(mode="json") for record in history.rounds]
    table = evaluation_table(evaluation)
    figures = plots.draw(
        home.evaluation_folder / "plots",
        rounds=rounds,
        chosen=history.chosen,
        evaluation=table,
        curves={site: report.curves.model_dump() for site, report in evaluation.sites.items()},
        drawn=KINDS[evaluation.kind].drawn,
    )
    return Release(
        run=history.run,
        model_folder=home.training_folder / "model",
        parameters=parameters,
        rounds=rounds,
        admissions={site: message.model_dump(mode="json") for site, message in admissions.sites.items()},
        evaluation=table,
        headline=evaluation.headline,
        subgroups={site: report.subgroups for site, report in evaluation.sites.items() if report.subgroups},
        lineage=_lineage(root, history, admissions, digest_of(parameters)),
        plots=figures,
        findings=[report.comparison.sentence for report in evaluation.sites.values()],
    )


def evaluation_table(evaluation: Evaluation) -> dict[str, dict[str, dict[str, Any]]]:
    """Hospital → model → metric → measurement; what needs no model (`REFERENCES`) is among the models."""
    table = {}
    for site, report in evaluation.sites.items():
        figures = {model: dict(measured) for model, measured in report.measurements.items()}
        for metric, of_models in report.comparison.figures.items():
            for name in REFERENCES:
                if name in of_models:
                    figures.setdefault(name, {})[metric] = of_models[name]
        table[site] = {
            model: {metric: figure.model_dump() for metric, figure in of_model.items()}
            for model, of_model in figures.items()
        }
    return table


def _lineage(root: Path, history: History, admissions: Admissions, parameters: str) -> dict[str, Any]:
    hashes = locked(root)
    sites = {}
    for site in history.participants:
        entry = {"fingerprint": admissions.sites[site].fingerprint or ""}
        if md5 := hashes.get(f"sites/{site}/partition"):
            entry["dvc"] = md5
        sites[site] = entry
    return {
        "git_commit": git_commit(root),
        "parameters_hash": parameters,
        "plan": history.plan,
        "sites": sites,
        "participants": {str(record.round): list(record.participants) for record in history.rounds},
    }
