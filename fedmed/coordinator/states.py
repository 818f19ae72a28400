"""The states of a run on the coordinator's disk: models, the server's memory, and who took part in each round."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from pydantic import ValidationError

from fedmed.errors import MessageRefused, WorkspaceError
from fedmed.files import write_atomically
from fedmed.strategies.algorithm import Algorithm, State
from fedmed.typed_yaml import Record
from fedmed.weights import from_bytes, sha256, to_bytes
from fedmed.wire.messages import Payload
from fedmed.wire.post import reference

HELD = 2
"""States that are held in memory."""


class Kept(Record):
    """What is kept of a state beside its tensors: where those are, and what :class:`State` says of the round."""

    model: Payload
    memory: Payload | None
    took_part: dict[str, str] = {}
    refused: dict[str, str] = {}
    loss: float | None = None
    losses: dict[str, float] = {}


class KeptStates(MutableMapping[int, State]):
    """Round → the state after it, in a folder.

    Guarantees:
        A state stands here whole or not at all: its record is written last. Tensors are held against the record's
        digests when they are read.
    """

    def __init__(self, folder: Path, how: Algorithm) -> None:
        self._folder, self._how = folder, how
        self._records: dict[int, Kept] = {}
        self._last: dict[int, State] = {}

    def record(self, number: int) -> Kept:
        """What is kept of a round.

        Raises:
            KeyError: if it has no state yet.
            WorkspaceError: if the file is damaged.
        """
        if number not in self._records:
            path = self._path(number, "json")
            try:
                self._records[number] = Kept.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                raise KeyError(number) from None
            except ValidationError:
                raise _damaged(path) from None
        return self._records[number]

    def bytes_of(self, number: int, what: str) -> bytes:
        """The bytes of a round's `model` or `memory`.

        Raises:
            WorkspaceError: if they are gone, or not those that the record names.
        """
        payload, path = getattr(self.record(number), what), self._path(number, f"{what}.safetensors")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        if payload is None or sha256(data) != payload.sha256:
            raise _damaged(path)
        return data

    def counted(self, site: str, number: int) -> str:
        """The name of the bytes of a hospital's last update that counted, up to a round; empty if none did."""
        for turn in range(number, 0, -1):
            if site in self.record(turn).took_part:
                return self.record(turn).took_part[site]
        return ""

    def __getitem__(self, number: int) -> State:
        if number not in self._last:
            kept = self.record(number)
            try:
                weights = from_bytes(self.bytes_of(number, "model"), self._how.layout)
                layout = self._how.memory_layout(weights)
                memory = from_bytes(self.bytes_of(number, "memory"), layout) if layout else {}
            except MessageRefused:
                raise _damaged(self._path(number, "model.safetensors")) from None
            return self._remember(number, State(weights, memory, kept.took_part, kept.refused, kept.loss, kept.losses))
        return self._last[number]

    def __setitem__(self, number: int, state: State) -> None:
        model, memory = to_bytes(state.weights), to_bytes(state.memory) if state.memory else None
        write_atomically(self._path(number, "model.safetensors"), model)
        if memory is not None:
            write_atomically(self._path(number, "memory.safetensors"), memory)
        kept = Kept(
            model=reference(model),
            memory=reference(memory) if memory is not None else None,
            took_part=dict(state.took_part),
            refused=dict(state.refused),
            loss=state.loss,
            losses=dict(state.losses),
        )
        write_atomically(self._path(number, "json"), kept.model_dump_json(indent=1).encode() + b"\n")
        self._records[number] = kept
        self._remember(number, state)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and (number in self._records or self._path(number, "json").exists())

    def __delitem__(self, number: int) -> None:
        raise TypeError("a state that was reached is not taken back")

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(path.stem) for path in self._folder.glob("[0-9]*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _remember(self, number: int, state: State) -> State:
        """Keep the states that were asked for last in memory: a round needs that before it, and its own."""
        self._last.pop(number, None)
        self._last[number] = state
        while len(self._last) > HELD:
            self._last.pop(next(iter(self._last)))
        return state

    def _path(self, number: int, ending: str) -> Path:
        return self._folder / f"{number:05d}.{ending}"


def _damaged(path: Path) -> WorkspaceError:
    return WorkspaceError(f"{path}: gone or damaged; start the run over with `fedmed run --force`")
