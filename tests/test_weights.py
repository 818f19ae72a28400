"""The algebra of weights, their one byte form, and every way in which bytes from outside are refused."""

from __future__ import annotations

import json
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedmed.errors import MessageRefused
from fedmed.weights import (
    Layout,
    add,
    flatten,
    from_bytes,
    is_finite,
    layout_of,
    map_weights,
    scale,
    sha256,
    size,
    squared_norm,
    subtract,
    to_bytes,
    unflatten,
)

# Multiples of 1/8 of moderate size: sums and differences of them are exact.
value = st.integers(-1000, 1000).map(lambda eighths: eighths / 8)
SHAPES = {"b.bias": (2,), "a.weight": (2, 3), "c": (), "d": (0, 4)}


def weights() -> st.SearchStrategy[dict[str, Tensor]]:
    return st.fixed_dictionaries(
        {
            name: st.lists(value, min_size=math.prod(shape), max_size=math.prod(shape)).map(
                lambda cells, shape=shape: torch.tensor(cells, dtype=torch.float32).reshape(shape)
            )
            for name, shape in SHAPES.items()
        }
    )


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@given(weights(), weights(), weights())
def test_addition_commutes_and_associates(a: dict, b: dict, c: dict) -> None:  # type: ignore[type-arg]
    assert equal(add(a, b), add(b, a))
    assert equal(add(add(a, b), c), add(a, add(b, c)))


@given(weights(), weights(), st.sampled_from([-2.0, 0.0, 0.5, 4.0]))
def test_subtraction_undoes_addition_and_scaling_distributes(a: dict, b: dict, factor: float) -> None:  # type: ignore[type-arg]
    assert equal(subtract(add(a, b), b), add(a, scale(b, 0.0)))
    assert equal(scale(add(a, b), factor), add(scale(a, factor), scale(b, factor)))
    assert equal(subtract(a, b), add(a, scale(b, -1.0)))
    assert squared_norm(scale(a, 2.0)) == 4 * squared_norm(a)
    assert squared_norm(subtract(a, a)) == 0


@given(weights(), weights())
def test_no_argument_is_changed(a: dict, b: dict) -> None:  # type: ignore[type-arg]
    before = {name: tensor.clone() for name, tensor in a.items()}
    add(a, b), subtract(a, b), scale(a, 3.0), flatten(a), to_bytes(a), squared_norm(a)
    assert equal(a, before)


@given(weights())
def test_flatten_and_unflatten_are_inverse(a: dict) -> None:  # type: ignore[type-arg]
    vector = flatten(a)
    assert vector.shape == (size(a),) == (9,)
    assert equal(unflatten(vector, a), a)
    assert torch.equal(flatten(unflatten(vector * 2, a)), vector * 2)


def test_flatten_goes_by_name_not_by_order_of_arrival() -> None:
    a = {"b": torch.tensor([3.0]), "a": torch.tensor([[1.0, 2.0]])}
    assert flatten(a).tolist() == [1.0, 2.0, 3.0]
    assert squared_norm(a).item() == 14.0


def test_a_vector_of_another_length_and_weights_of_other_names_are_errors() -> None:
    a = {"a": torch.zeros(2)}
    with pytest.raises(ValueError, match="a vector of 2 values, got 3"):
        unflatten(torch.zeros(3), a)
    with pytest.raises(ValueError, match="'b'"):
        add(a, {"a": torch.zeros(2), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'a'.*'b'"):
        map_weights(torch.add, a, {"b": torch.zeros(2)})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_makes_weights_not_finite(bad: float) -> None:
    assert is_finite({"a": torch.tensor([1.0]), "n": torch.tensor([2**31 - 1], dtype=torch.int32)})
    assert not is_finite({"a": torch.tensor([1.0]), "b": torch.tensor([[0.0, bad]])})


@given(weights())
def test_the_same_weights_give_the_same_bytes_whatever_the_order_of_names(a: dict) -> None:  # type: ignore[type-arg]
    data = to_bytes(a)
    assert to_bytes(dict(reversed(a.items()))) == data
    assert to_bytes({name: tensor.clone() for name, tensor in a.items()}) == data
    assert equal(from_bytes(data, layout_of(a)), a)


def test_a_transposed_view_is_written_as_it_reads() -> None:
    a = {"a": torch.arange(6.0).reshape(2, 3).T}
    assert equal(from_bytes(to_bytes(a), layout_of(a)), a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_every_type_that_travels_comes_back(dtype: torch.dtype) -> None:
    a = {"a": torch.tensor([-3, 7], dtype=dtype)}
    assert equal(from_bytes(to_bytes(a), layout_of(a)), a)


def test_a_digest_is_the_one_that_sha256sum_prints() -> None:
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


EXPECTED = {"a": Layout("F32", (2,)), "b": Layout("F32", (1,))}
GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
}


def packed(header: object, body: bytes = bytes(12)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_a(**changes: object) -> bytes:
    return packed({**GOOD, "a": {**GOOD["a"], **changes}})


def test_a_header_written_by_hand_is_read() -> None:
    read = from_bytes(packed(GOOD), EXPECTED)
    assert {name: tensor.tolist() for name, tensor in read.items()} == {"a": [0.0, 0.0], "b": [0.0]}


class Bomb:
    """Its unpickling would end the test run."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        import os

        return os._exit, (3,)


REFUSED = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "a header without end": packed(GOOD)[:40],
    "a truncated body": packed(GOOD)[:-1],
    "a body that is too long": packed(GOOD) + b"\0",
    "a header that claims more than there is": (1 << 62).to_bytes(8, "little") + packed(GOOD)[8:],
    "a header of over a mebibyte": packed(json.dumps(GOOD).encode() + b" " * (1 << 20)),
    "a header that is no JSON": packed(b"{a: 1}"),
    "a header that is not UTF-8": packed(b'{"\xff": 1}'),
    "a header that is a list": packed([]),
    "a header of endless depth": packed(b"[" * 200_000),
    "an entry that is a number": packed({"a": 1}),
    "no tensors": packed({}, b""),
    "a name that is missing": packed({"a": GOOD["a"]}, bytes(8)),
    "a name too many": packed({**GOOD, "c": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, bytes(16)),
    "a name with a path": packed({"../../a": GOOD["a"], "b": GOOD["b"]}),
    "a name with a line break": packed({"a\n\x1b[2J": GOOD["a"], "b": GOOD["b"]}),
    "another shape of the same size": with_a(shape=[2, 1]),
    "another shape": with_a(shape=[3]),
    "a negative shape": with_a(shape=[-1, -2]),
    "a shape of text": with_a(shape=["2"]),
    "a shape that is text": with_a(shape="2"),
    "a shape of fractions": with_a(shape=[2.0]),
    "an infinite shape": packed(json.dumps(GOOD).replace("[2]", "[Infinity]").encode()),
    "a shape that is null": with_a(shape=None),
    "a shape with no end": with_a(shape=[9_999_999_999] * 80_000),
    "a shape of huge numbers": with_a(shape=[10**4000] * 8),
    "another type of the same width": with_a(dtype="I32"),
    "a type that nobody expects": with_a(dtype="F16"),
    "an unknown type": with_a(dtype="object"),
    "overlapping places": packed({**GOOD, "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "the same place twice": packed({"a": GOOD["a"], "b": {**GOOD["b"], "data_offsets": [0, 4]}}, bytes(8)),
    "a gap": packed({**GOOD, "b": {**GOOD["b"], "data_offsets": [12, 16]}}, bytes(16)),
    "a place before the start": with_a(data_offsets=[-8, 0]),
    "a place beyond the end": with_a(data_offsets=[1 << 40, (1 << 40) + 8]),
    "a place of one number": with_a(data_offsets=[0]),
    "a place that is false": with_a(data_offsets=[False, 8]),
    "metadata that are a number": packed({"__metadata__": 3, **GOOD}),
    "NaN": packed(GOOD, bytes(8) + b"\x00\x00\xc0\x7f"),
    "an infinity": packed(GOOD, bytes(8) + b"\x00\x00\x80\x7f"),
    "minus infinity": packed(GOOD, b"\x00\x00\x80\xff" + bytes(8)),
    "a pickle": pickle.dumps(Bomb()),
    "a pickle behind a length": packed(pickle.dumps(Bomb())),
    "a zip file": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.timeout(60)  # whatever it holds, it costs no time to speak of
@pytest.mark.parametrize("payload", REFUSED)
def test_a_payload_is_refused_that_is_or_has(payload: str) -> None:
    with pytest.raises(MessageRefused) as caught:
        from_bytes(REFUSED[payload], EXPECTED)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.timeout(60)
def test_two_hundred_thousand_names_are_refused_quickly() -> None:
    many = packed({f"k{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}, b"")
    with pytest.raises(MessageRefused):
        from_bytes(many, EXPECTED)


@pytest.mark.timeout(60)
def test_as_many_names_as_fit_into_a_header_are_refused_quickly() -> None:
    many = packed({f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(16_000)}, b"")
    with pytest.raises(MessageRefused, match="got 16000 names of which 0 are expected"):
        from_bytes(many, EXPECTED)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        from_bytes(data, EXPECTED)


@given(st.integers(0, len(packed(GOOD)) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_in_the_expected_layout(position: int, byte: int) -> None:
    good = packed(GOOD)
    try:
        read = from_bytes(good[:position] + bytes([byte]) + good[position + 1 :], EXPECTED)
    except MessageRefused:
        return
    assert layout_of(read) == EXPECTED
    assert is_finite(read)
