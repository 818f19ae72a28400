"""What stands between a hospital's vector and the sum: a list of stages, each in two directions.

At a hospital every stage's `send` is run in the order of the list, at the coordinator every `receive` in the opposite
order, on the sum. A stage may have questions of its own, asked of the hospitals whose turn it is before or after they
are asked to train: a mask needs such. What a hospital keeps of its answer to one, and what all have told, is in the
:class:`Context` of its later steps.

A stage is one entry of :data:`STAGES`. Without the sentence that says what it discloses it cannot be made.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from fedmed.aggregation.grid import FixedPoint

Told = Mapping[str, Mapping[str, bytes]]
"""A stage's question, as `stage.question`, → hospital → what it told."""


class Context(NamedTuple):
    """What a stage knows at one hospital, in one round.

    Args:
        run: the name of the run.
        attempt: how often the run was begun or gone on with.
        round: from 1.
        site: the hospital.
        sites: hospitals whose turn it is, sorted.
        weight: that of this hospital.
        seed: the run's public seed.
        told: what the hospitals answered to the stages' questions so far.
        kept: what this hospital kept of its own answers, by question; it never leaves.
        secret: so many bytes from the operating system's generator.
    """

    run: str
    attempt: int
    round: int
    site: str
    sites: tuple[str, ...]
    weight: int
    seed: int
    told: Told = {}
    kept: Mapping[str, bytes] = {}
    secret: Callable[[int], bytes] = secrets.token_bytes


class Sum(NamedTuple):
    """What a stage knows at the coordinator: the sites that are in the sum, their weight, and what they told."""

    round: int
    sites: tuple[str, ...]
    weight: int
    told: Told = {}


class Reply(NamedTuple):
    """What a hospital answers to a stage's question, and what it keeps of it."""

    told: bytes
    kept: bytes = b""


class Ask(NamedTuple):
    """A question of a stage: asked before or after training, answered by a function, under a rule of disclosure."""

    name: str
    when: Literal["before", "after"]
    answer: Callable[[Context], Reply]
    discloses: str


class Stage(NamedTuple):
    """One stage.

    Args:
        send: at a hospital: a vector of shape `(size,)` and the context → the vector that goes on.
        receive: at the coordinator: the sum of shape `(size,)` and what is known of it → what goes back.
        sees: whether the coordinator can read each hospital's vector behind this stage, or their sum alone.
        discloses: what the stage lets the coordinator know, in a sentence.
        asks: its questions, in order.
        exact: whether its numbers are those of the turn to the last digit, so that they can be held against the plan;
            noise is not.
    """

    send: Callable[[Tensor, Context], Tensor]
    receive: Callable[[Tensor, Sum], Tensor]
    sees: Literal["each", "sum"]
    discloses: str
    asks: tuple[Ask, ...] = ()
    exact: bool = True


def on_grid(grid: FixedPoint) -> Stage:
    """Real numbers as integers times the weight; back, the weighted mean.

    >>> two = on_grid(FixedPoint(bits=32, limit=4.0, weight=2))
    >>> import torch
    >>> here = Context("r", 1, 1, "a", ("a",), weight=2, seed=0)
    >>> two.receive(two.send(torch.tensor([0.5]), here).long(), Sum(1, ("a",), 2)).item()
    0.5
    """
    return Stage(
        send=lambda vector, context: grid.encode(vector, context.weight),
        receive=lambda total, known: grid.mean(total, known.weight),
        sees="each",
        discloses="the weighted change of every hospital, rounded to the grid",
    )


STAGES: dict[str, Callable[[FixedPoint], Stage]] = {"grid": on_grid}
"""Every stage by name, made under the grid that the plan agrees on."""


def send_through(stages: Sequence[Stage], vector: Tensor, context: Context) -> Tensor:
    """What a hospital sends of its vector, of shape `(size,)`."""
    for stage in stages:
        vector = stage.send(vector, context)
    return vector


def receive_through(stages: Sequence[Stage], total: Tensor, known: Sum) -> Tensor:
    """The weighted mean, float64 of shape `(size,)`, that a sum of integers stands for."""
    for stage in reversed(stages):
        total = stage.receive(total, known)
    return total


def sees_each(stages: Sequence[Stage]) -> bool:
    """Whether the coordinator can read every hospital's own vector."""
    return all(stage.sees == "each" for stage in stages)
