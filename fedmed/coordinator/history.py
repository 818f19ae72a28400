"""What a run leaves behind: the chosen model, the history of its rounds, and curves that DVC can plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from fedmed.coordinator.rounds import RoundRecord, weights_of
from fedmed.errors import WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.files import write_atomically, write_json
from fedmed.models.bundle import ModelBundle, ModelDescription, load_bundle
from fedmed.typed_yaml import Record
from fedmed.wire.messages import Plan


class History(Record):
    """A finished training run."""

    run: str
    plan: str
    participants: tuple[str, ...]
    chosen: int
    rounds: tuple[RoundRecord, ...]


def write_history(
    folder: Path, plan: Plan, rounds: Sequence[RoundRecord], chosen: RoundRecord, exchange: Exchange
) -> History:
    """Write model/, rounds.json, metrics.json and curves/ of a run into `folder`."""
    description = ModelDescription(
        cohort=plan.cohort,
        network=plan.network,
        statistics=plan.statistics,
        run=plan.run,
        round=chosen.round,
        weights=chosen.model.sha256,
    )
    ModelBundle(description, weights_of(plan, chosen.model, exchange)).save(folder / "model")
    history = History(
        run=plan.run, plan=plan.digest, participants=plan.participants, chosen=chosen.round, rounds=tuple(rounds)
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
