"""The states of a run on the disk: whole or not there, and said clearly where they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_run import START, plan_of

from fedmed.coordinator.states import HELD, KeptStates
from fedmed.errors import WorkspaceError
from fedmed.strategies.algorithm import State
from fedmed.weights import sha256, to_bytes

HOW = plan_of("fedadam").algorithm
FIRST = HOW.start(START)


def after(number: int) -> State:
    """A state in which every parameter has grown by the round's number."""
    weights = {name: tensor + number for name, tensor in START.items()}
    memory = {name: tensor + number for name, tensor in FIRST.memory.items()}
    part = {"north": f"{number:064x}", "south": ""}
    return State(weights, memory, part, {"west": "no time"}, 0.5 / number, {"north": 0.25, "south": 0.75})


@pytest.fixture
def kept(tmp_path: Path) -> KeptStates:
    """The start and two rounds."""
    states = KeptStates(tmp_path, HOW)
    states[0] = FIRST
    states[1], states[2] = after(1), after(2)
    return states


def again(kept: KeptStates) -> KeptStates:
    """The same folder, as another process opens it."""
    return KeptStates(kept._folder, HOW)


def same(one: State, other: State) -> bool:
    """Whether two states are the same to the bit."""
    tensors = all(
        here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
        for here, there in ((one.weights, other.weights), (one.memory, other.memory))
    )
    return tensors and one[2:] == other[2:]


def test_what_was_kept_comes_back_to_the_bit_in_another_process(kept: KeptStates) -> None:
    found = again(kept)
    assert list(found) == [0, 1, 2]
    assert len(found) == 3
    assert same(found[0], FIRST)
    assert same(found[1], after(1))
    assert same(found[2], after(2))
    assert found.record(2).model.sha256 == sha256(to_bytes(after(2).weights))
    assert found.bytes_of(2, "memory") == to_bytes(after(2).memory)


def test_a_strategy_without_a_memory_keeps_none(tmp_path: Path) -> None:
    plain = plan_of("fedavg").algorithm
    states = KeptStates(tmp_path, plain)
    states[0] = plain.start(START)
    assert states.record(0).memory is None
    assert not list(tmp_path.glob("*.memory.safetensors"))
    assert KeptStates(tmp_path, plain)[0].memory == {}
    with pytest.raises(WorkspaceError, match=r"00000.memory.safetensors: gone or damaged"):
        states.bytes_of(0, "memory")


def test_a_round_without_a_state_is_none(kept: KeptStates) -> None:
    assert 3 not in kept
    assert "1" not in kept
    with pytest.raises(KeyError):
        kept[3]
    assert kept.get(3) is None


def test_only_few_states_are_held_in_memory_and_the_others_are_read(kept: KeptStates) -> None:
    assert len(kept._last) == HELD == 2
    assert 0 not in kept._last
    assert same(kept[0], FIRST)
    assert len(kept._last) == HELD


def test_a_state_that_was_reached_is_not_taken_back(kept: KeptStates) -> None:
    with pytest.raises(TypeError, match="not taken back"):
        del kept[1]
    assert 1 in again(kept)


@pytest.mark.parametrize("written", [(), ("model.safetensors",), ("model.safetensors", "memory.safetensors")])
def test_a_state_stands_only_when_its_record_does_which_is_written_last(
    kept: KeptStates, written: tuple[str, ...]
) -> None:
    for ending in {"json", "model.safetensors", "memory.safetensors"} - set(written):
        (kept._folder / f"00002.{ending}").unlink()
    found = again(kept)
    assert 2 not in found
    assert list(found) == [0, 1]
    found[2] = after(2)
    assert same(again(kept)[2], after(2))


def test_the_record_is_the_last_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        written.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    KeptStates(tmp_path, HOW)[0] = FIRST
    assert written == ["00000.model.safetensors", "00000.memory.safetensors", "00000.json"]


@pytest.mark.parametrize("what", ["model", "memory"])
@pytest.mark.parametrize("how", ["missing", "truncated", "another's", "empty"])
def test_a_state_whose_tensors_are_gone_or_damaged_is_said_clearly(kept: KeptStates, what: str, how: str) -> None:
    path = kept._folder / f"00001.{what}.safetensors"
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        content = {"truncated": data[:-1], "another's": kept.bytes_of(2, what), "empty": b""}
        path.write_bytes(content[how])
    found = again(kept)
    says = rf"00001\.{what}\.safetensors: gone or damaged; start the run over with `fedmed run --force`"
    with pytest.raises(WorkspaceError, match=says):
        found[1]
    with pytest.raises(WorkspaceError, match=says):
        found.bytes_of(1, what)
    assert same(found[2], after(2))  # the others are as they were
    path.write_bytes(data)
    assert same(found[1], after(1))


def test_a_state_of_another_network_is_said_clearly(tmp_path: Path) -> None:
    states = KeptStates(tmp_path, HOW)
    states[0] = State({"bias": torch.zeros(1)}, {})
    with pytest.raises(WorkspaceError, match=r"00000\.model\.safetensors: gone or damaged"):
        again(states)[0]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]"], ids=repr)
def test_a_record_that_is_damaged_is_said_clearly(kept: KeptStates, content: bytes) -> None:
    (kept._folder / "00001.json").write_bytes(content)
    found = again(kept)
    for look in (lambda: found[1], lambda: found.record(1), lambda: found.counted("west", 2)):
        with pytest.raises(WorkspaceError, match=r"00001.json: gone or damaged"):
            look()


def test_the_last_update_that_counted_is_that_of_the_last_round_in_which_a_hospital_took_part(
    tmp_path: Path,
) -> None:
    states = KeptStates(tmp_path, HOW)
    states[0] = FIRST
    for number, part in enumerate([{"north": "a" * 64}, {"south": "b" * 64}, {"north": "c" * 64}], 1):
        states[number] = State(START, FIRST.memory, took_part=part, refused={"west": "no time"})
    assert [states.counted("north", number) for number in range(4)] == ["", "a" * 64, "a" * 64, "c" * 64]
    assert [states.counted("south", number) for number in range(4)] == ["", "", "b" * 64, "b" * 64]
    assert states.counted("west", 3) == ""
    assert again(states).counted("north", 2) == "a" * 64
