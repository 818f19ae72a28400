"""The coordinator's folder: where its records lie, and how often a run was begun or gone on with.

partitions/<site>.json  admission.json  description.json  registered.json
runs/<run>/attempts.json        which attempts there were, and which of them is open
runs/<run>/<attempt>/           the plan of a run that was begun in this attempt, and all that it came to
training/  evaluation/          the chosen model, and what the hospitals make of it
mlflow/                         the registry
exchange/                       on one machine, where coordinator and hospitals meet
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import ValidationError

from fedmed.data.partition import PartitionReceipt
from fedmed.errors import WorkspaceError
from fedmed.files import write_atomically, write_json
from fedmed.journal import Journal
from fedmed.typed_yaml import Record


class Attempts(Record):
    """How often hospitals were asked under the name of a run.

    Args:
        last: the number of the last attempt.
        begun: that in which training was begun from nothing; 0 before it was.
        open: what is going on → its attempt; what a crash cut short is gone on with under the same number.
        finished: whether training came to its end.
    """

    last: int = 0
    begun: int = 0
    open: dict[str, int] = {}
    finished: bool = False


class CoordinatorHome:
    """Paths and records of the coordinator's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def journal(self) -> Journal:
        """What the present or last run has done."""
        return Journal(self.path / "journal.jsonl")

    def keep_receipt(self, receipt: PartitionReceipt) -> None:
        """Write what a hospital says of its partition."""
        write_json(self.receipts / f"{receipt.site}.json", receipt.model_dump())

    @property
    def receipts(self) -> Path:
        """One receipt a partition: what the coordinator knows of a hospital's data."""
        return self.path / "partitions"

    @property
    def admission_file(self) -> Path:
        """Who is admitted, and who is not and why."""
        return self.path / "admission.json"

    @property
    def description_file(self) -> Path:
        """What the hospitals' training rows look like."""
        return self.path / "description.json"

    @property
    def training_folder(self) -> Path:
        """The chosen model and the history of its rounds."""
        return self.path / "training"

    @property
    def evaluation_folder(self) -> Path:
        """Every hospital's evaluation, metrics and plots."""
        return self.path / "evaluation"

    @property
    def registered_file(self) -> Path:
        """What the registry answered."""
        return self.path / "registered.json"

    @property
    def tracking(self) -> Path:
        """MLflow's database and artifacts."""
        return self.path / "mlflow"

    @property
    def exchange_folder(self) -> Path:
        """On one machine: where coordinator and hospitals meet."""
        return self.path / "exchange"

    @property
    def runs(self) -> Path:
        """One folder a run: what the coordinator keeps of it."""
        return self.path / "runs"

    def run_folder(self, run: str, begun: int) -> Path:
        """What was kept of a run that was begun in an attempt."""
        return self.runs / run / f"{begun:03d}"

    def attempts(self, run: str) -> Attempts:
        """The attempts at a run so far.

        Raises:
            WorkspaceError: if their file is damaged.
        """
        path = self._attempts_file(run)
        try:
            return Attempts.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Attempts()
        except ValidationError:
            raise WorkspaceError(f"{path}: not the attempts of a run; delete it, and the run starts over") from None

    def open_attempt(self, run: str, what: str, *, anew: bool = False) -> int:
        """The number under which hospitals are asked: that of what a crash cut short, else the next one.

        It is never below that in which the run was begun: under an older one, hospitals do not know the plan.
        """
        known = self.attempts(run)
        if not anew and known.open.get(what, 0) >= max(known.begun, 1):
            return known.open[what]
        number = known.last + 1
        self._write(run, known.model_copy(update={"last": number, "open": {**known.open, what: number}}))
        return number

    def close_attempt(self, run: str, what: str) -> None:
        """Who asks the same again asks anew: this came to its end, good or bad."""
        known = self.attempts(run)
        left = {name: number for name, number in known.open.items() if name != what}
        self._write(run, known.model_copy(update={"open": left}))

    def begin_training(self, run: str, *, force: bool = False) -> tuple[int, int]:
        """Make ready for a run.

        A run that was cut short goes on under the same number: what its hospitals have answered is not computed again.
        One that failed goes on under the next, so that who refused is asked again. A run that was finished and is asked
        for again begins anew, from nothing, and so does any run with `force`.

        Returns:
            The attempt, and the attempt in which the run was begun.
        """
        known = self.attempts(run)
        anew = (
            force or known.finished or not known.begun or not (self.run_folder(run, known.begun) / "plan.json").exists()
        )
        attempt = self.open_attempt(run, "train", anew=force or known.finished)
        if anew:
            known = self.attempts(run)
            self._write(run, known.model_copy(update={"begun": attempt, "finished": False}))
        return attempt, self.attempts(run).begun

    def finish_training(self, run: str) -> None:
        """Remember that a run came to its end."""
        self.close_attempt(run, "train")
        self._write(run, self.attempts(run).model_copy(update={"finished": True}))

    def forget_run(self, run: str) -> None:
        """Drop all that was kept of a run, but how often hospitals were asked under its name.

        They give the same answer to the same question: what is to be computed anew is asked under the next number.
        """
        self._write(run, Attempts(last=self.attempts(run).last))
        for path in (self.runs / run).glob("*"):
            if path.is_dir():
                shutil.rmtree(path)

    def _attempts_file(self, run: str) -> Path:
        return self.runs / run / "attempts.json"

    def _write(self, run: str, attempts: Attempts) -> None:
        write_atomically(self._attempts_file(run), attempts.model_dump_json(indent=1).encode() + b"\n")
