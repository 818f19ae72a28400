"""A release for people: Markdown at the head of MLflow's pages, and a page of its own."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedmed.evaluation.measurement import number, texts
from fedmed.registry.figures import FEDERATED, GLOBAL, means_of, measurement, models_in, sites_of
from fedmed.registry.release import Release

if TYPE_CHECKING:
    from fedmed.models.bundle import ModelBundle

_HEADLINES = ("rows", "auroc", "accuracy", "brier", "calibration_slope")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1a1a1a}dt{font-weight:600}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dd{margin:0;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}"
)


def summary(release: Release, bundle: ModelBundle) -> str:
    """Run and version in Markdown; MLflow shows it at the head of both pages."""
    head, lines = _table(release, [name for name in _HEADLINES if name in _metrics(release)])
    table = [head, ["---"] * len(head), *lines]
    parts = [
        _lead(release, bundle),
        "\n".join(f"- {sentence}" for sentence in release.findings),
        "**Test rows at each hospital**, with 95 % intervals; all metrics are in `evaluation.html`",
        _which_model(release),
        "\n".join(f"| {' | '.join(line)} |" for line in table),
        "\n".join(f"- **{name}**: {value}" for name, value in _facts(release, bundle)),
    ]
    return "\n\n".join(part for part in parts if part)


def page(release: Release, bundle: ModelBundle) -> str:
    """The same as a page of its own, with nothing loaded from elsewhere."""
    head, lines = _table(release, _metrics(release))
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(fact)}</dd>" for key, fact in _facts(release, bundle))
    found = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in release.findings)
    title = f"Evaluation of {html.escape(release.run)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(_lead(release, bundle))}</p><ul>{found}</ul><dl>{facts}</dl>"
        "<p>Test rows at each hospital, with 95 % intervals. What is suppressed would tell of too few patients.</p>"
        f"<p>{html.escape(_which_model(release))}</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></html>\n"
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
    for metric in ("auroc", "accuracy", "brier"):
        if metric in federated:
            others = [f"{model} {number(figures[metric])}" for model, figures in means.items() if metric in figures]
            told.append(
                f"{_in_words(metric)} {number(federated[metric])}" + (f" ({', '.join(others)})" if others else "")
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
    return ["hospital", "model", *(_in_words(name) for name in metrics)], lines


def _facts(release: Release, bundle: ModelBundle) -> list[tuple[str, str]]:
    description = bundle.description
    quarantined = [
        f"{site} ({', '.join(entry.get('failed', ())) or 'no reason given'})"
        for site, entry in release.admissions.items()
        if not entry.get("admitted", True)
    ]
    target = description.cohort.target
    return [
        ("positive", f"{target.name}, that is {target.column} {target.positive}"),
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


def _in_words(metric: str) -> str:
    return {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier"}.get(metric, metric.replace("_", " "))
