"""Numbers that depend on what they are for, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed.seeds import derive, numpy_generator, torch_generator

purposes = st.lists(st.text(max_size=3) | st.integers(0, 99), max_size=3).map(tuple)


def test_a_seed_is_the_same_on_every_machine() -> None:
    # SHA-256 of "7" + (4-byte length, "str:run") + (4-byte length, "int:3"): first eight bytes, halved.
    assert derive(7, "run", 3) == 8279580597155528675
    assert torch.randperm(5, generator=torch_generator(7, "run", 3)).tolist() == [2, 1, 4, 0, 3]


@given(st.integers(0, 2**31), st.integers(0, 2**31), purposes, purposes)
def test_two_purposes_share_a_seed_only_if_they_are_the_same(
    one: int, other: int, first: tuple[str | int, ...], second: tuple[str | int, ...]
) -> None:
    same = (one, first) == (other, second)
    assert (derive(one, *first) == derive(other, *second)) == same


@given(st.integers(0, 99), purposes)
def test_a_seed_fits_into_63_bits(seed: int, purpose: tuple[str | int, ...]) -> None:
    assert 0 <= derive(seed, *purpose) < 2**63


def test_purposes_that_look_alike_differ() -> None:
    alike = [("ab", "c"), ("a", "bc"), ("abc",), ("1",), (1,), ("", "abc"), ("abc", ""), ()]
    assert len({derive(1, *purpose) for purpose in alike}) == len(alike)
    assert derive(1, "1") != derive(11)


def test_generators_start_anew_and_leave_the_global_ones_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate()
    first = torch.rand(3, generator=torch_generator(1, "a")), numpy_generator(1, "a").random(3)
    second = torch.rand(3, generator=torch_generator(1, "a")), numpy_generator(1, "a").random(3)
    other = torch.rand(3, generator=torch_generator(1, "b"))
    assert torch.equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not torch.equal(first[0], other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
