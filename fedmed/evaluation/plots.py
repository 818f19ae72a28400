"""A run in pictures: how it converged, each hospital's curves, and the models against each other.

They are drawn from what left the hospitals (JSON or records), so they can show no more than that. Every model has a
marker of its own beside its colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed.evaluation.measurement import SUPPRESSED, Measurement, number
from fedmed.evaluation.names import LOWER_IS_BETTER, title_of
from fedmed.evaluation.panels import BLUE, GREEN, GREY, INK, ORANGE, grid, points_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Model → colour, marker, name on the plot. A model that is not here is drawn in grey under its own name.
MODELS: dict[str, tuple[str, str, str]] = {
    "federated": (BLUE, "o", "federated"),
    "global": (BLUE, "P", "without own intercept"),
    "own": (ORANGE, "s", "trained alone"),
    "alone": (ORANGE, "s", "trained alone"),
    "pooled": (GREEN, "D", "all data pooled"),
    "majority": (GREY, "v", "majority class"),
    "kaplan_meier": (GREY, "v", "Kaplan-Meier"),
}
RISK_COLOURS = (BLUE, ORANGE, INK)


def draw(
    folder: Path,
    *,
    rounds: Sequence[Mapping[str, Any]],
    chosen: int,
    evaluation: Mapping[str, Mapping[str, Mapping[str, Any]]],
    curves: Mapping[str, Mapping[str, Any]],
    drawn: Sequence[str] = ("accuracy", "brier"),
) -> tuple[Path, ...]:
    """Draw all of them into `folder`.

    Args:
        folder: made if there is none.
        rounds: as in :func:`convergence`.
        chosen: the round that was kept.
        evaluation: hospital → model → metric → measurement, as in :func:`comparison`.
        curves: hospital → `roc`, `calibration` and `risk_groups` of the federated model, None where they may not be
            told. Panels then say why; where the metric beside a curve is not of this kind of target, it is not drawn.
        drawn: the metrics by which models are held against each other.

    Returns:
        `convergence.png`, then those of `roc.png`, `calibration.png` and `risk_groups.png` that there are, then one for
        each metric of `drawn`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    federated = {site: of_models.get("federated", {}) for site, of_models in evaluation.items()}
    convergence(folder / "convergence.png", rounds, chosen)
    names = ["convergence"]
    for name, (picture, metric) in _CURVES.items():
        if any(entry.get(name) for entry in curves.values()) or any(metric in told for told in federated.values()):
            picture(folder / f"{name}.png", {site: entry.get(name) for site, entry in curves.items()}, federated)
            names.append(name)
    for metric in drawn:
        comparison(folder / f"{metric}.png", evaluation, metric)
    return tuple(folder / f"{name}.png" for name in (*names, *drawn))


def convergence(path: Path, rounds: Sequence[Mapping[str, Any]], chosen: int) -> None:
    """The validation loss of all hospitals and of each, round by round.

    Args:
        path: the PNG to write.
        rounds: of each round `round`, `validation_loss` and `sites`: hospital → `validation_loss`, where it answered.
        chosen: the round that was kept; it is marked.
    """
    sites = list(dict.fromkeys(site for record in rounds for site in record.get("sites", {})))
    everyone = [(int(record["round"]), record.get("validation_loss")) for record in rounds]
    with grid(path, len(sites) + 1, "Loss on the validation rows, by round", sharey=True) as panels:
        for axes, site in zip(panels, ["", *sites], strict=True):
            own = [(int(r["round"]), r.get("sites", {}).get(site, {}).get("validation_loss")) for r in rounds]
            axes.set_title(site or "all hospitals")
            if site:
                axes.plot(*points_of(everyone), color=GREY, linewidth=1)
            _loss(axes, own if site else everyone, chosen)
            axes.set_xlabel("round" + ("" if site else f"; {chosen} was kept"))
        if sites:
            steps, losses = points_of(everyone)
            if steps:
                first = panels[1]
                first.annotate(
                    "all", (steps[0], losses[0]), xytext=(4, 4), textcoords="offset points", color="#666666", fontsize=8
                )
        panels[0].set_ylabel("loss")


def roc(path: Path, curves: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Each hospital's receiver operating characteristic on its test rows.

    Args:
        path: the PNG to write.
        curves: hospital → :class:`~fedmed.evaluation.curves.RocCurve` or its JSON; None where it may not be told.
        measured: hospital → metric → measurement; `auroc` is written beside the curve, or why there is none.
    """
    with grid(path, len(curves), "Receiver operating characteristic on the test rows", square=True) as panels:
        for axes, (site, curve) in zip(panels, curves.items(), strict=True):
            axes.set_title(site)
            axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            area = _measurement(measured.get(site, {}).get("auroc"))
            if curve is None:
                _say(axes, area)
                continue
            points = _plain(curve)
            axes.plot(points["false_positive_rate"], points["true_positive_rate"], color=BLUE, linewidth=1.8)
            axes.text(0.97, 0.05, f"AUROC\n{area}", ha="right", va="bottom", fontsize=9)
        for axes in panels:
            _unit(axes, "false positive rate", "true positive rate" if axes is panels[0] else "")


def calibration(path: Path, curves: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Each hospital's observed against predicted risk on its test rows; a dot's area is its number of rows.

    Args:
        path: the PNG to write.
        curves: hospital → a sequence of :class:`~fedmed.evaluation.curves.CalibrationBin` or their JSON, or None.
        measured: hospital → metric → measurement; `calibration_slope` is written beside the dots.
    """
    with grid(path, len(curves), "Observed against predicted risk on the test rows", square=True) as panels:
        for axes, (site, curve) in zip(panels, curves.items(), strict=True):
            axes.set_title(site)
            axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            slope = _measurement(measured.get(site, {}).get("calibration_slope"))
            if curve is None:
                _say(axes, slope)
                continue
            bins = [_plain(entry) for entry in curve]
            x, y = [entry["mean_prediction"] for entry in bins], [entry["observed_share"] for entry in bins]
            axes.plot(x, y, color=BLUE, linewidth=1)
            axes.scatter(x, y, s=[3 * entry["rows"] for entry in bins], color=BLUE, alpha=0.85, linewidths=0, zorder=3)
            for entry in bins:
                at = (entry["mean_prediction"], entry["observed_share"])
                away = 4 + math.sqrt(3 * entry["rows"]) / 2
                axes.annotate(
                    f"{entry['rows']}", at, xytext=(0, away), textcoords="offset points", ha="center", fontsize=8
                )
            axes.text(0.97, 0.05, f"slope\n{slope}", ha="right", va="bottom", fontsize=9)
        for axes in panels:
            _unit(axes, "predicted risk", "observed share (rows above the dot)" if axes is panels[0] else "")


def risk_groups(path: Path, curves: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> None:
    """What became of each hospital's test rows of low and of high predicted risk: points of their Kaplan-Meier curves.

    Args:
        path: the PNG to write.
        curves: hospital → a sequence of :class:`~fedmed.evaluation.curves.RiskGroup`, from low to high risk, or their
            JSON; None where they may not be told.
        measured: hospital → metric → measurement; `c_index` is written beside the curves, or why there are none.
    """
    with grid(path, len(curves), "Survival of the test rows by predicted risk", sharex=True, sharey=True) as panels:
        for axes, (site, told) in zip(panels, curves.items(), strict=True):
            axes.set_title(site)
            axes.set_ylim(-0.02, 1.05)
            index = _measurement(measured.get(site, {}).get("c_index"))
            if told is None:
                _say(axes, index)
                continue
            groups = [_plain(group) for group in told]
            for place, group in enumerate(groups):
                colour = RISK_COLOURS[place if place < len(groups) - 1 else -1] if len(groups) > 1 else BLUE
                axes.plot(group["times"], group["survival"], marker="o", markersize=3.5, color=colour, linewidth=1.2)
                at = (group["times"][-1], group["survival"][-1])
                name = "low" if place == 0 else "high" if place == len(groups) - 1 else "middle"
                axes.annotate(
                    f"{name}, {group['rows']} rows",
                    at,
                    xytext=(4, -13),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8,
                    color=colour,
                )
            axes.text(0.03, 0.05, f"C-index\n{index}", transform=axes.transAxes, va="bottom", fontsize=9)
            axes.set_xlabel("time")
        panels[0].set_ylabel("share without the event")


def comparison(path: Path, evaluation: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str) -> None:
    """One metric of every model at each hospital, with its 95 % interval.

    Args:
        path: the PNG to write.
        evaluation: hospital → model → metric → measurement, as a record or JSON.
        metric: which one.
    """
    models = [name for name in MODELS if any(name in of_models for of_models in evaluation.values())]
    models += sorted({name for of_models in evaluation.values() for name in of_models} - set(models))
    models = [name for name in models if any(metric in of_models.get(name, {}) for of_models in evaluation.values())]
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    title = f"{title_of(metric)} on the test rows, with 95 % intervals ({better} is better)"
    with grid(path, len(evaluation), title, sharex=True, sharey=True, height=0.9 + 0.34 * len(models)) as panels:
        for axes, (site, of_models) in zip(panels, evaluation.items(), strict=True):
            axes.set_title(site)
            axes.set_ylim(len(models) - 0.5, -0.6)
            axes.set_yticks(range(len(models)), [MODELS.get(name, ("", "", name))[2] for name in models])
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            for place, name in enumerate(models):
                colour, marker, _ = MODELS.get(name, (GREY, "o", name))
                _bar(axes, place, _measurement(of_models.get(name, {}).get(metric)), colour, marker)


def _bar(axes: Axes, place: int, measured: Measurement, colour: str, marker: str) -> None:
    if measured.value is None:
        known = [bound for bound in (measured.low, measured.high) if bound is not None]
        if known:
            axes.plot(known, [place], marker=5 if measured.low is not None else 4, color=colour, markersize=7)
            axes.annotate(str(measured), (known[0], place - 0.2), ha="center", va="bottom", fontsize=8)
        else:
            axes.text(0.02, place, measured.reason, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        return
    if measured.low is not None and measured.high is not None:
        axes.plot((measured.low, measured.high), (place, place), color=colour, linewidth=2, alpha=0.55)
    axes.plot(measured.value, place, marker=marker, color=colour, markersize=6.5)
    axes.annotate(number(measured.value), (measured.value, place - 0.2), ha="center", va="bottom", fontsize=8)


def _loss(axes: Axes, points: Sequence[tuple[int, float | None]], chosen: int) -> None:
    steps, losses = points_of(points)
    axes.plot(steps, losses, color=BLUE, linewidth=1.6)
    axes.axvline(chosen, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    if chosen in steps:
        kept = losses[steps.index(chosen)]
        axes.plot(chosen, kept, marker="o", color=BLUE, markersize=5.5)
        left = chosen > (steps[0] + steps[-1]) / 2
        axes.annotate(
            number(kept),
            (chosen, kept),
            xytext=(-5 if left else 5, 5),
            textcoords="offset points",
            ha="right" if left else "left",
            fontweight="bold",
            color=BLUE,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )


def _unit(axes: Axes, below: str, beside: str) -> None:
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), xlabel=below, ylabel=beside
    )


def _say(axes: Axes, why: Measurement) -> None:
    """A panel without a curve says why; a curve is withheld only where a class is small."""
    words = why.reason or SUPPRESSED.reason
    box = {"facecolor": "white", "edgecolor": "none"}
    said = f"{words}:\ntoo few patients\nof a class"
    axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", fontsize=9, bbox=box)


def _measurement(entry: Any) -> Measurement:
    if entry is None:
        return SUPPRESSED
    return entry if isinstance(entry, Measurement) else Measurement.model_validate(entry)


def _plain(entry: Any) -> Mapping[str, Any]:
    return dict(entry.model_dump()) if hasattr(entry, "model_dump") else dict(entry)


_CURVES: dict[str, tuple[Callable[[Path, Mapping[str, Any], Mapping[str, Mapping[str, Any]]], None], str]] = {
    "roc": (roc, "auroc"),
    "calibration": (calibration, "calibration_slope"),
    "risk_groups": (risk_groups, "c_index"),
}
"""Each curve with how it is drawn and the metric beside it; a target of another kind has neither."""
