"""What a run leaves behind: the chosen model, the history of its rounds, and curves that DVC can plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from fedmed.errors import WorkspaceError
from fedmed.files import write_atomically, write_json
from fedmed.models.bundle import ModelBundle, ModelDescription, load_bundle
from fedmed.typed_yaml import Record
from fedmed.weights import Weights
from fedmed.wire.messages import Payload, Plan


class SiteRound(Record):
    """One hospital in one round; `metrics` are of its validation rows, those that it may tell.

    `refused` says why its update does not count, or did not come; `silent` why it says nothing of the round's model.
    """

    train_loss: float | None = None
    rows: int | None = None
    validation_loss: float | None = None
    validation_rows: int | None = None
    metrics: dict[str, float] = {}
    refused: str = ""
    silent: str = ""


class RoundRecord(Record):
    """One round: its model, who took part, and what the hospitals said of it."""

    round: int
    model: Payload
    participants: tuple[str, ...]
    train_loss: float | None
    validation_loss: float | None
    sites: dict[str, SiteRound]


class History(Record):
    """A finished training run."""

    run: str
    plan: str
    participants: tuple[str, ...]
    chosen: int
    rounds: tuple[RoundRecord, ...]


def write_history(
    folder: Path, plan: Plan, rounds: Sequence[RoundRecord], chosen: RoundRecord, weights: Weights
) -> History:
    """Write model/, rounds.json, metrics.json and curves/ of a run into `folder`; `weights` are the chosen round's."""
    description = ModelDescription(
        cohort=plan.cohort,
        network=plan.network,
        statistics=plan.statistics,
        run=plan.run,
        round=chosen.round,
        weights=chosen.model.sha256,
    )
    ModelBundle(description, dict(weights)).save(folder / "model")
    history = History(
        run=plan.run, plan=plan.content, participants=plan.participants, chosen=chosen.round, rounds=tuple(rounds)
    )
    _write_curves(folder / "curves", rounds)
    write_json(
        folder / "metrics.json",
        {
            "rounds": len(rounds),
            "chosen_round": chosen.round,
            "validation_loss": chosen.validation_loss,
            "train_loss": chosen.train_loss,
        },
    )
    write_atomically(folder / "rounds.json", history.model_dump_json(indent=1).encode() + b"\n")
    return history


def read_history(folder: Path) -> tuple[History, ModelBundle]:
    """The history in `folder` and the model that it chose.

    Raises:
        WorkspaceError: if no run has been finished here, or its files are damaged.
    """
    try:
        history = History.model_validate_json((folder / "rounds.json").read_bytes())
    except FileNotFoundError:
        raise WorkspaceError(f"{folder}: no model has been trained here yet; `fedmed run` trains one") from None
    except ValidationError:
        raise WorkspaceError(
            f"{folder / 'rounds.json'}: not the history of a run; `fedmed run --force` writes it anew"
        ) from None
    return history, load_bundle(folder / "model")


def stalled(losses: Sequence[float | None], patience: int) -> bool:
    """Whether the validation loss has not fallen for `patience` rounds; never where patience is 0 or no loss is told.

    >>> stalled([3.0, 1.0, 2.0, 1.5], 2), stalled([3.0, 1.0, 2.0], 2), stalled([1.0, 1.0], 0)
    (True, False, False)
    """
    told = [(loss, number) for number, loss in enumerate(losses, 1) if loss is not None]
    return bool(patience and told) and len(losses) - min(told)[1] >= patience


def choose_round(rounds: Sequence[RoundRecord]) -> RoundRecord:
    """The round with the least validation loss, see :func:`comparable_losses`; the earliest of equals.

    Where no hospital may tell its validation loss, the last round is chosen.

    Raises:
        ValueError: if there are no rounds.
    """
    if not rounds:
        raise ValueError("expected at least one round, got none")
    losses = comparable_losses(rounds)
    told = [(loss, record.round, record) for loss, record in zip(losses, rounds, strict=True) if loss is not None]
    return min(told, key=lambda entry: entry[:2])[2] if told else rounds[-1]


def comparable_losses(rounds: Sequence[RoundRecord]) -> list[float | None]:
    """Each round's mean validation loss over the rows of the hospitals that tell theirs in every round.

    A small hospital may tell its loss in one round and not in the next, as disclosure rules go by the predictions; the
    mean over whoever tells would then move although no model did. Where no hospital tells in every round, the mean is
    over whoever tells in each.
    """
    always = [
        site
        for site in (rounds[0].sites if rounds else ())
        if all((entry := record.sites.get(site)) and entry.validation_loss is not None for record in rounds)
    ]
    if not always:
        return [record.validation_loss for record in rounds]
    entries = [[record.sites[site] for site in always] for record in rounds]
    return [mean_of([(entry.validation_loss, entry.validation_rows) for entry in round_]) for round_ in entries]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A CSV file with a header, whole or not at all; None becomes an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())


def _write_curves(folder: Path, rounds: Sequence[RoundRecord]) -> None:
    write_csv(
        folder / "rounds.csv",
        ("round", "validation_loss", "train_loss"),
        [(record.round, record.validation_loss, record.train_loss) for record in rounds],
    )
    metrics = list(dict.fromkeys(name for record in rounds for site in record.sites.values() for name in site.metrics))
    write_csv(
        folder / "sites.csv",
        ("round", "site", "validation_loss", "train_loss", *(f"validation_{name}" for name in metrics)),
        [
            (record.round, name, site.validation_loss, site.train_loss, *(site.metrics.get(key) for key in metrics))
            for record in rounds
            for name, site in record.sites.items()
        ],
    )


def mean_of(parts: Sequence[tuple[float | None, int | None]]) -> float | None:
    """The mean over rows of values of which some are not told; None if none is."""
    told = [(value, rows) for value, rows in parts if value is not None and rows]
    return sum(value * rows for value, rows in told) / sum(rows for _, rows in told) if told else None
