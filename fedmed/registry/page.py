"""A release for people: Markdown at the head of MLflow's pages, and a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedmed.evaluation.measurement import number, texts
from fedmed.evaluation.names import COUNTS, in_words
from fedmed.pages import filled
from fedmed.registry.figures import (
    FEDERATED,
    GLOBAL,
    means_of,
    measurement,
    models_in,
    sites_of,
    spreads,
    subgroups,
)
from fedmed.registry.release import Release
from fedmed.targets.table import KINDS

if TYPE_CHECKING:
    from fedmed.models.bundle import ModelBundle


def summary(release: Release, bundle: ModelBundle) -> str:
    """Run and version in Markdown; MLflow shows it at the head of both pages."""
    shown = (*sorted(COUNTS, reverse=True), *release.headline, "calibration_slope")
    parts = [
        _lead(release, bundle),
        "\n".join(f"- {sentence}" for sentence in release.findings),
        "**Test rows at each hospital**, with 95 % intervals; all metrics are in `evaluation.html`",
        _which_model(release),
        _markdown(*_table(release, [name for name in shown if name in _metrics(release)])),
        _markdown(*_spread(release)),
        _markdown(*_subgroups(release, bundle, release.headline)),
        "\n".join(f"- **{name}**: {value}" for name, value in _facts(release, bundle)),
    ]
    return "\n\n".join(part for part in parts if part)


def page(release: Release, bundle: ModelBundle) -> str:
    """The same as a page of its own."""
    every = _metrics(release)
    return filled(
        "registry/evaluation.html",
        run=release.run,
        lead=_lead(release, bundle),
        findings=release.findings,
        facts=_facts(release, bundle),
        which_model=_which_model(release),
        tables=[
            ("", *_table(release, every)),
            ("Spread of the federated model over hospitals", *_spread(release)),
            ("The federated model in subgroups", *_subgroups(release, bundle, every)),
        ],
    )


def _lead(release: Release, bundle: ModelBundle) -> str:
    """The run in two sentences: MLflow's lists show only the beginning of a description."""
    description, sites = bundle.description, sites_of(release)
    what = (
        f"A {description.network.name} model of {description.cohort.target.name}, learned by {len(sites)} hospitals"
        f" ({', '.join(sites)}); round {description.round} of {len(release.rounds)} was kept, by their validation rows."
    )
    means = {model: means_of(release, model) for model in models_in(release)}
    federated = means.pop(FEDERATED, {})
    told = []
    for metric in release.headline:
        if metric in federated:
            others = [f"{model} {number(figures[metric])}" for model, figures in means.items() if metric in figures]
            told.append(
                f"{in_words(metric)} {number(federated[metric])}" + (f" ({', '.join(others)})" if others else "")
            )
    return f"{what} Mean over hospitals, on test rows: {', '.join(told)}." if told else what


def _which_model(release: Release) -> str:
    """Which rows are of the registered model itself, and which of the model as a hospital uses it."""
    if GLOBAL not in models_in(release):
        return f"“{FEDERATED}” is the very model that is registered and served: no hospital has a shift of its own."
    return (
        f"“{FEDERATED}” is the model as each hospital uses it: with the hospital's own shift of the intercept, which is"
        f" kept there and not sent. “{GLOBAL}” is the very model that is registered, and served, without a hospital's"
        " shift."
    )


def _table(release: Release, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The evaluation for people: a head and a line for every hospital and model, a blank where nothing was measured."""
    lines = []
    for site, of_models in release.evaluation.items():
        for model, measured in of_models.items():
            told = texts({name: measurement(entry) for name, entry in measured.items()})
            lines.append([site, model, *(told.get(name, "") for name in metrics)])
    return ["hospital", "model", *(in_words(name) for name in metrics)], lines


def _spread(release: Release) -> tuple[list[str], list[list[str]]]:
    """How far apart the hospitals are: a line a headline metric that at least two of them tell."""
    lines = [
        [
            in_words(metric),
            f"{number(found.best)} ({found.best_at})",
            f"{number(found.worst)} ({found.worst_at})",
            number(found.gap),
            number(found.deviation),
            str(found.hospitals),
        ]
        for metric, found in spreads(release).items()
    ]
    return ["over hospitals", "best", "worst", "gap", "standard deviation", "told by"], lines


def _subgroups(release: Release, bundle: ModelBundle, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The federated model in the declared subgroups of each hospital's test rows."""
    lines, shown = [], [name for name in metrics if name not in COUNTS]
    for site, column, category, measured in subgroups(release):
        told = texts({name: measurement(entry) for name, entry in measured.items()})
        meaning = (bundle.description.cohort.columns[column].categories or {}).get(category) or category
        lines.append([site, f"{column}: {meaning}", *(told.get(name, "") for name in ("rows", *shown))])
    return ["hospital", "subgroup", "rows", *(in_words(name) for name in shown)], lines


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table) if lines else ""


def _facts(release: Release, bundle: ModelBundle) -> list[tuple[str, str]]:
    description = bundle.description
    quarantined = [
        f"{site} ({', '.join(entry.get('failed', ())) or 'no reason given'})"
        for site, entry in release.admissions.items()
        if not entry.get("admitted", True)
    ]
    target = description.cohort.target
    return [
        ("target", KINDS[target.kind].explained(target)),
        ("quarantined", ", ".join(quarantined) or "no hospital"),
        ("run", release.run),
        ("weights", f"SHA-256 {description.weights}"),
        ("git commit", str(release.lineage.get("git_commit") or "not recorded")),
    ]


def _metrics(release: Release) -> list[str]:
    """Every metric that was measured anywhere, in the order of the first that has them all."""
    every = [entry for of_models in release.evaluation.values() for entry in of_models.values()]
    entries = sorted(every, key=len, reverse=True)
    return list(dict.fromkeys(metric for entry in entries for metric in entry))
