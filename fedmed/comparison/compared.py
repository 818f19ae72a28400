"""What a comparison of strategies came to: figures over seeds and hospitals, bytes, and the files that show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedmed.comparison.traffic import Traffic
from fedmed.comparison.variants import REFERENCES, ComparisonRequest, VariantResult
from fedmed.evaluation import strategy_plots
from fedmed.evaluation.fairness import Spread, spread
from fedmed.evaluation.measurement import number
from fedmed.evaluation.names import LOWER_IS_BETTER, in_words
from fedmed.evaluation.repeats import Repeated, paired, repeated
from fedmed.files import write_atomically
from fedmed.targets.kind import KindName
from fedmed.typed_yaml import Record

REFERENCE_NAMES = {"own": "(alone)", "pooled": "(pooled)"}


class MetricFigures(Record):
    """One headline metric of one strategy: of each seed the mean over the hospitals, and these over the seeds.

    `difference` is paired by seed, minus the first strategy. `spread` is over the hospitals, of each one's mean over
    the seeds. All are absent where no hospital tells the metric under every variant.
    """

    value: Repeated | None = None
    difference: Repeated | None = None
    spread: Spread | None = None


class StrategyFigures(Record):
    """One strategy over its seeds; `traffic` is of a whole run and of a round, the mean over seeds, in whole bytes."""

    seeds: tuple[int, ...]
    metrics: dict[str, MetricFigures]
    validation_loss: Repeated | None
    chosen: tuple[int, ...]
    rounds: tuple[int, ...]
    traffic: Traffic
    traffic_of_a_round: Traffic


class Compared(Record):
    """A finished comparison.

    `hospitals` is keyed by metric: those that tell it under every variant, over which alone means are taken, so that
    strategies are held against each other on the same patients. `references` is keyed by what no strategy decides (each
    hospital's own model, the pooled one) and by metric.
    """

    name: str
    cohort: str
    kind: KindName
    headline: tuple[str, ...]
    sites: tuple[str, ...]
    hospitals: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    changes: tuple[str, ...]
    strategies: dict[str, StrategyFigures]
    references: dict[str, dict[str, Repeated]]
    variants: tuple[VariantResult, ...]
    failed: dict[str, str] = {}

    @property
    def first(self) -> str:
        """The strategy that the others are held against."""
        return next(iter(self.strategies))


def compare_results(
    request: ComparisonRequest, cohort: str, results: Sequence[VariantResult], failed: Mapping[str, str]
) -> Compared:
    """Hold the strategies against each other.

    Args:
        request: what was asked for.
        cohort: its name, for the heading.
        results: of the variants that were finished, at least one.
        failed: variant → why it was not finished.

    Raises:
        ValueError: if there is no result.
    """
    if not results:
        raise ValueError("expected at least one finished variant, got none")
    headline = results[0].headline
    hospitals = {
        metric: tuple(
            site
            for site in results[0].hospitals
            if all(site in result.values["federated"][metric] for result in results)
        )
        for metric in headline
    }
    of_strategy = {
        strategy: found
        for strategy in request.strategies
        if (found := [result for result in results if result.strategy == strategy])
    }
    first = next(iter(of_strategy.values()))
    references = {
        model: {
            metric: value
            for metric in headline
            if (value := repeated(list(_means(first, model, metric, hospitals[metric]).values()))) is not None
        }
        for model in REFERENCES
    }
    return Compared(
        name=request.name,
        cohort=cohort,
        kind=results[0].kind,
        headline=headline,
        sites=results[0].hospitals,
        hospitals=hospitals,
        seeds=request.seeds,
        changes=tuple(
            f"{f'{change.strategy}:' if change.strategy else ''}{change.key}={change.value}"
            for change in request.changes
        ),
        strategies={strategy: _figures(found, first, hospitals) for strategy, found in of_strategy.items()},
        references={model: figures for model, figures in references.items() if figures},
        variants=tuple(results),
        failed=dict(failed),
    )


def _figures(
    results: Sequence[VariantResult], first: Sequence[VariantResult], hospitals: Mapping[str, tuple[str, ...]]
) -> StrategyFigures:
    metrics = {}
    for metric, sites in hospitals.items():
        values, reference = (_means(of, "federated", metric, sites) for of in (results, first))
        by_hospital = {
            site: sum(result.values["federated"][metric][site] for result in results) / len(results) for site in sites
        }
        metrics[metric] = MetricFigures(
            value=repeated(list(values.values())),
            difference=None if results is first else paired(values, reference),
            spread=spread(metric, by_hospital),
        )
    moved = sum((result.moved for result in results), Traffic())
    rounds = tuple(len(result.losses) for result in results)
    return StrategyFigures(
        seeds=tuple(result.seed for result in results),
        metrics=metrics,
        validation_loss=repeated([loss for result in results if (loss := result.validation_loss) is not None]),
        chosen=tuple(result.chosen for result in results),
        rounds=rounds,
        traffic=_divided(moved, len(results)),
        traffic_of_a_round=_divided(moved, sum(rounds)),
    )


def _means(results: Sequence[VariantResult], model: str, metric: str, sites: Sequence[str]) -> dict[int, float]:
    """Seed → the mean over these hospitals, where all of them tell it."""
    means = {}
    for result in results:
        told = result.values.get(model, {}).get(metric, {})
        if sites and all(site in told for site in sites):
            means[result.seed] = sum(told[site] for site in sites) / len(sites)
    return means


def _divided(moved: Traffic, parts: int) -> Traffic:
    return Traffic(down=round(moved.down / parts), up=round(moved.up / parts))


def write_comparison(folder: Path, compared: Compared) -> tuple[Path, ...]:
    """Write `table.md`, `table.csv`, `results.json` and the plots.

    Returns:
        The plots.
    """
    write_atomically(folder / "table.md", in_markdown(compared).encode())
    write_atomically(folder / "table.csv", _csv(compared).encode())
    write_atomically(folder / "results.json", compared.model_dump_json(indent=1).encode() + b"\n")
    losses = {
        strategy: [result.losses for result in compared.variants if result.strategy == strategy]
        for strategy in compared.strategies
    }
    against = {
        metric: {
            strategy: (figures.traffic.both, value.mean, value.low, value.high)
            for strategy, figures in compared.strategies.items()
            if (value := figures.metrics[metric].value) is not None
        }
        for metric in compared.headline
    }
    drawn = (folder / "validation_loss.png", folder / "bytes.png")
    strategy_plots.losses_of_strategies(drawn[0], losses)
    strategy_plots.metrics_against_bytes(drawn[1], against, len(compared.seeds))
    return drawn


def in_markdown(compared: Compared) -> str:
    """The comparison as a page."""
    seeds = f"{len(compared.seeds)} seed{'s' if len(compared.seeds) > 1 else ''}"
    page = [
        f"# Comparison {compared.name}",
        "",
        f"{', '.join(compared.strategies)} on {compared.cohort} at {', '.join(compared.sites)};"
        f" {seeds} ({', '.join(map(str, compared.seeds))})."
        + (f" Changed: {', '.join(f'`{change}`' for change in compared.changes)}." if compared.changes else ""),
        "",
        "A figure is the mean over hospitals of the federated model's test figure, as the mean ± standard deviation"
        " over seeds, with the 95 % interval of that mean (Student's t). Seeds change where training starts and its"
        " order of rows; the patients stay, so an interval says nothing of other patients. Differences are paired by"
        " seed. Choose a strategy by its validation loss: one chosen by these test figures will not keep them.",
    ]
    for metric in compared.headline:
        told, better = compared.hospitals[metric], "lower" if metric in LOWER_IS_BETTER else "higher"
        if not told:
            page += ["", f"## {_title(metric)}", "", "No hospital may tell it under every variant."]
            continue
        page += [
            "",
            f"## {_title(metric)}",
            "",
            f"Over {len(told)} of {len(compared.sites)} hospitals; {better} is better.",
            "",
            *_markdown(*_metric_table(compared, metric)),
        ]
    page += ["", "## Rounds and bytes", "", *_markdown(*_cost_table(compared)), ""]
    page += [
        "Bytes are of payloads: down, models and shared memory to every hospital that was invited to train or to"
        " evaluate; up, updates."
    ]
    if compared.failed:
        page += ["", "## Not finished", "", *(f"- {name}: {reason}" for name, reason in compared.failed.items())]
    untested = [(result.name, result.untested) for result in compared.variants if result.untested]
    if untested:
        page += ["", "## Not tested", ""]
        page += [f"- {name}: {site}: {reason}" for name, sites in untested for site, reason in sites.items()]
    return "\n".join(page) + "\n"


def short_table(compared: Compared) -> tuple[list[str], list[list[str]]]:
    """One line a strategy, for a terminal: every headline metric, the difference of the foremost, the worst, bytes."""
    foremost = compared.headline[0]
    header = [
        "strategy",
        *(in_words(metric) for metric in compared.headline),
        f"{in_words(foremost)} − {compared.first}",
        "worst hospital",
        "validation loss",
        "rounds",
        "bytes",
    ]
    rows = []
    for strategy, figures in compared.strategies.items():
        first = figures.metrics[foremost]
        rows.append(
            [
                strategy,
                *(_text(figures.metrics[metric].value) for metric in compared.headline),
                _text(first.difference),
                _worst(first.spread),
                _text(figures.validation_loss),
                _span(figures.rounds),
                bytes_text(figures.traffic.both),
            ]
        )
    for model, metrics in compared.references.items():
        told = [_text(metrics.get(metric)) for metric in compared.headline]
        rows.append([REFERENCE_NAMES[model], *told, *[""] * (len(header) - 1 - len(told))])
    return header, rows


def bytes_text(size: float) -> str:
    """Bytes for people, in powers of 1000.

    >>> bytes_text(950), bytes_text(12_340), bytes_text(5_600_000)
    ('950 B', '12.3 kB', '5.6 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _metric_table(compared: Compared, metric: str) -> tuple[list[str], list[list[str]]]:
    header = ["strategy", "mean ± sd", "95 %", f"minus {compared.first}", "95 %", "worst hospital", "sd over hospitals"]
    rows = []
    for strategy, of in compared.strategies.items():
        value, difference, apart = (found := of.metrics[metric]).value, found.difference, found.spread
        rows.append(
            [
                strategy,
                _text(value),
                value.interval_text() if value else "—",
                _text(difference),
                difference.interval_text() if difference else "—",
                _worst(apart),
                number(apart.deviation) if apart else "—",
            ]
        )
    for model, metrics in compared.references.items():
        if metric in metrics:
            value = metrics[metric]
            rows.append([REFERENCE_NAMES[model], _text(value), value.interval_text(), "", "", "", ""])
    return header, rows


def _cost_table(compared: Compared) -> tuple[list[str], list[list[str]]]:
    header = ["strategy", "validation loss", "chosen round", "rounds", "down a round", "up a round", "down", "up"]
    return header, [
        [
            strategy,
            _text(figures.validation_loss),
            ", ".join(map(str, figures.chosen)),
            _span(figures.rounds),
            *(bytes_text(size) for size in (figures.traffic_of_a_round.down, figures.traffic_of_a_round.up)),
            *(bytes_text(size) for size in (figures.traffic.down, figures.traffic.up)),
        ]
        for strategy, figures in compared.strategies.items()
    ]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|---{'|--:' * (len(header) - 1)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _csv(compared: Compared) -> str:
    header = (
        "strategy,metric,hospitals,seeds,mean,sd_over_seeds,low,high,difference,difference_low,difference_high,"
        "worst,worst_at,sd_over_hospitals,validation_loss,rounds,chosen,bytes_down,bytes_up"
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header.split(","))
    for strategy, figures in compared.strategies.items():
        for metric, found in figures.metrics.items():
            value, difference, apart = found.value, found.difference, found.spread
            loss = figures.validation_loss
            writer.writerow(
                [
                    strategy,
                    metric,
                    len(compared.hospitals[metric]),
                    len(figures.seeds),
                    *((value.mean, value.deviation, value.low, value.high) if value else (None,) * 4),
                    *((difference.mean, difference.low, difference.high) if difference else (None,) * 3),
                    *((apart.worst, apart.worst_at, apart.deviation) if apart else (None,) * 3),
                    loss.mean if loss else None,
                    " ".join(map(str, figures.rounds)),
                    " ".join(map(str, figures.chosen)),
                    figures.traffic.down,
                    figures.traffic.up,
                ]
            )
    return buffer.getvalue()


def _title(metric: str) -> str:
    words = in_words(metric)
    return words[0].upper() + words[1:]


def _text(value: Repeated | None) -> str:
    return "—" if value is None else value.text()


def _worst(apart: Spread | None) -> str:
    return "—" if apart is None else f"{number(apart.worst)} ({apart.worst_at})"


def _span(rounds: Sequence[int]) -> str:
    return str(rounds[0]) if len(set(rounds)) == 1 else f"{min(rounds)}–{max(rounds)}"
