"""A release as names and numbers: curves over rounds, what was validated, what was tested. Nothing of MLflow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedmed.evaluation.fairness import Spread, spread
from fedmed.evaluation.measurement import Measurement
from fedmed.evaluation.names import COUNTS
from fedmed.registry.release import Release

FEDERATED = "federated"
GLOBAL = "global"


def flat(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"training": {"rounds": 50}}` → `training.rounds`, `50`."""
    for key, value in parameters.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def points(release: Release) -> Iterator[tuple[str, float, int]]:
    """Every figure of every round: `validation_loss` over all hospitals, `cleveland/validation_loss` of one."""
    for record in release.rounds:
        step = int(record["round"])
        yield "participants", float(len(record.get("participants", ()))), step
        yield from ((key, value, step) for key, value in _figures(record).items())
        for site, figures in record.get("sites", {}).items():
            yield from ((f"{site}/{key}", value, step) for key, value in _figures(figures).items())


def validated(release: Release, chosen: int) -> dict[str, float]:
    """`validation/cleveland/loss` of the round that was kept: MLflow's tables show the last of a curve."""
    told = {"validation/round": float(chosen)}
    for record in (record for record in release.rounds if int(record["round"]) == chosen):
        for place, figures in {"": record, **record.get("sites", {})}.items():
            for key, value in _figures(figures).items():
                if key.startswith("validation_"):
                    told["/".join(filter(None, ("validation", place, key.removeprefix("validation_"))))] = value
    return told


def tested(release: Release) -> dict[str, float]:
    """`test/cleveland/auroc` and `test/mean/auroc` of the federated model, `test own/mean/auroc` of another.

    Of the headline metrics also the worst hospital's value, the gap between best and worst and the standard deviation,
    `test/gap/auroc`, and what may be told of subgroups, `test/cleveland/sex/0/auroc`.
    Of the global model too every hospital's figures, `test global/cleveland/auroc`: it is the one that is registered.
    """
    told: dict[str, float] = {}
    for model in models_in(release):
        group = "test" if model == FEDERATED else f"test {model}"
        if model in (FEDERATED, GLOBAL):
            told |= {f"{group}/{site}/{metric}": value for site, metric, value in _values(release, model)}
        told |= {f"{group}/mean/{metric}": value for metric, value in means_of(release, model).items()}
    for metric, found in spreads(release).items():
        told |= {f"test/worst/{metric}": found.worst, f"test/gap/{metric}": found.gap}
        told[f"test/deviation/{metric}"] = found.deviation
    for site, column, category, measured in subgroups(release):
        for metric in release.headline:
            if metric in measured and (value := measurement(measured[metric]).value) is not None:
                told[f"test/{site}/{column}/{_key(category)}/{metric}"] = value
    return told


def spreads(release: Release) -> dict[str, Spread]:
    """Each headline metric's spread over the hospitals, of the federated model, where two of them tell it."""
    values: dict[str, dict[str, float]] = {metric: {} for metric in release.headline}
    for site, metric, value in _values(release, FEDERATED):
        if metric in values:
            values[metric][site] = value
    found = {metric: spread(metric, of_sites) for metric, of_sites in values.items()}
    return {metric: entry for metric, entry in found.items() if entry is not None}


def subgroups(release: Release) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Hospital, column, category and the federated model's measurements."""
    for site, columns in release.subgroups.items():
        for column, categories in columns.items():
            yield from ((site, column, category, measured) for category, measured in categories.items())


def _key(category: str) -> str:
    """A category as a part of a metric's name, in which MLflow admits no other signs."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", category)


def models_in(release: Release) -> list[str]:
    """Every model that was tested at any hospital, in the order of the reports."""
    return list(dict.fromkeys(model for of_models in release.evaluation.values() for model in of_models))


def means_of(release: Release, model: str) -> dict[str, float]:
    """Metric → its mean over hospitals, where all of them tell it: over some it would be of other patients."""
    by_metric: dict[str, list[float]] = {}
    for _, metric, value in _values(release, model):
        by_metric.setdefault(metric, []).append(value)
    for count in COUNTS:
        by_metric.pop(count, None)
    sites = len(release.evaluation)
    return {metric: math.fsum(values) / sites for metric, values in by_metric.items() if len(values) == sites}


def participants(release: Release) -> dict[str, list[str]]:
    """Round → the hospitals that took part in it."""
    return {str(record["round"]): list(record.get("participants", ())) for record in release.rounds}


def sites_of(release: Release) -> list[str]:
    """The hospitals that took part in any round."""
    return sorted({site for sites in participants(release).values() for site in sites})


def measurement(entry: Any) -> Measurement:
    """A measurement, or the one whose JSON this is."""
    return entry if isinstance(entry, Measurement) else Measurement.model_validate(entry)


def plain(content: Any) -> Any:
    """Records as JSON."""
    if hasattr(content, "model_dump"):
        return content.model_dump(mode="json")
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [plain(value) for value in content]
    return content if isinstance(content, str | int | float | bool | None) else str(content)


def _values(release: Release, model: str) -> Iterator[tuple[str, str, float]]:
    """Hospital, metric and value, where there is a value."""
    for site, of_models in release.evaluation.items():
        for metric, entry in of_models.get(model, {}).items():
            if (value := measurement(entry).value) is not None:
                yield site, metric, value


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record and its metrics, the round's own and booleans apart."""
    metrics = {f"validation_{name}": value for name, value in (record.get("metrics") or {}).items()}
    numbers = {k: value for k, value in {**record, **metrics}.items() if type(value) in (int, float) and k != "round"}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
