"""What a hospital keeps between the rounds of a run: its strategy's memory, and the tensors that are its own.

One file a turn, named by the update that was sent with it. A run that was cut short, was started over, or is tested on
an earlier round thus finds what belongs to the updates that stand in the exchange, and nothing of another attempt.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from fedmed.errors import MessageRefused, WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.files import write_atomically
from fedmed.site.home import SiteHome
from fedmed.strategies.base import pack, unpack
from fedmed.strategies.client import Kept
from fedmed.weights import from_bytes, layouts_in, to_bytes
from fedmed.wire.messages import COORDINATOR, EVERYONE, Address, GlobalModel, Update

MOST_RUNS = 64


def keep_turn(home: SiteHome, run: str, number: int, update: str, kept: Kept) -> None:
    """Keep what the turn left from which an update came; what another attempt at the round left goes.

    Args:
        home: the hospital.
        run: its run.
        number: the round.
        update: SHA-256 of the update's payload.
        kept: may hold nothing; that nothing was left is kept too.
    """
    path = _path(home, run, number, update)
    write_atomically(path, to_bytes(pack(memory=kept.memory, personal=kept.personal)), mode=0o600)
    for other in path.parent.glob(f"{number}-*.safetensors"):
        if other != path:
            other.unlink()


def last_turn(home: SiteHome, exchange: Exchange, run: str, number: int) -> Kept:
    """What the hospital had after the last of its updates that counted, up to round `number`; nothing if none did.

    Raises:
        WorkspaceError: if the file that belongs to that update is gone or damaged.

    Guarantees:
        A turn whose update was never posted, was refused or came too late has left nothing: what SCAFFOLD and FedDyn
        keep at the hospitals adds up to what the server keeps, and neither side may be ahead of the other.
    """
    for turn in range(number, 0, -1):
        posted = exchange.find(Address(run, turn, "update", home.name, COORDINATOR))
        model = exchange.find(Address(run, turn, "model", COORDINATOR, EVERYONE))
        counted = not isinstance(model, GlobalModel) or home.name in model.participants
        if isinstance(posted, Update) and counted:
            return _read(_path(home, run, turn, posted.payload.sha256))
    return Kept()


def forget_old_runs(home: SiteHome, run: str, most: int = MOST_RUNS) -> None:
    """Drop what was kept for runs before the last `most` ones; what predictions need lies with the hospital's models.

    Those before `run` may be gone on with or tested again: a comparison trains many side by side.
    """
    others = [folder for folder in home.rounds.glob("*") if folder.name != run]
    last = sorted(others, key=lambda folder: (folder.stat().st_mtime, folder.name), reverse=True)
    for folder in last[most - 1 :]:
        shutil.rmtree(folder)


def _path(home: SiteHome, run: str, number: int, update: str) -> Path:
    return home.rounds / run / f"{number}-{update[:16]}.safetensors"


def _read(path: Path) -> Kept:
    try:
        data = path.read_bytes()
        content = from_bytes(data, layouts_in(data))
    except FileNotFoundError:
        raise WorkspaceError(
            f"{path}: gone, and with it what the hospital kept of its last turn; start the run over with"
            " `fedmed run --force`"
        ) from None
    except MessageRefused as problem:
        raise WorkspaceError(f"{path}: damaged ({problem}); start the run over with `fedmed run --force`") from None
    return Kept(unpack(content, "memory"), unpack(content, "personal"))
