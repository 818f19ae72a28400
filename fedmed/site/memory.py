"""What a hospital keeps between the rounds of a run: its strategy's memory, and the tensors that are its own.

One file a round, so that a run that was cut short, or is tested on an earlier round, finds what stood then.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from fedmed.errors import MessageRefused, WorkspaceError
from fedmed.files import write_atomically
from fedmed.site.home import SiteHome
from fedmed.strategies.base import pack, unpack
from fedmed.strategies.turn import Kept
from fedmed.weights import from_bytes, layouts_in, to_bytes

_NAME = re.compile(r"(\d+)\.safetensors")


def keep_turn(home: SiteHome, run: str, number: int, kept: Kept) -> None:
    """Keep what a turn left, if it left anything; whatever an earlier attempt at later rounds left goes."""
    folder = _folder(home, run)
    for later, path in _rounds(folder).items():
        if later > number:
            path.unlink()
    if kept.memory or kept.personal:
        data = to_bytes(pack(memory=kept.memory, personal=kept.personal))
        write_atomically(folder / f"{number}.safetensors", data, mode=0o600)


def last_turn(home: SiteHome, run: str, number: int) -> Kept:
    """What the hospital had after the last of its turns up to round `number`; nothing if it had none.

    Raises:
        WorkspaceError: if the file is damaged.
    """
    rounds = _rounds(_folder(home, run))
    before = [turn for turn in rounds if turn <= number]
    if not before:
        return Kept()
    path = rounds[max(before)]
    data = path.read_bytes()
    try:
        content = from_bytes(data, layouts_in(data))
    except MessageRefused as problem:
        raise WorkspaceError(f"{path}: damaged ({problem}); start the run over with `fedmed run --force`") from None
    return Kept(unpack(content, "memory"), unpack(content, "personal"))


def forget_other_runs(home: SiteHome, run: str) -> None:
    """Drop what was kept for other runs; what predictions need lies with the hospital's models."""
    for folder in home.rounds.glob("*") if home.rounds.is_dir() else ():
        if folder.name != run:
            shutil.rmtree(folder)


def _folder(home: SiteHome, run: str) -> Path:
    return home.rounds / run


def _rounds(folder: Path) -> dict[int, Path]:
    return {int(match[1]): path for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))}
