"""Two privacy measures small enough to read, entered into the tables that a plan names them from.

Toys: the mask's group is too small to be safe and nobody vouches for its keys; the noise follows from a public seed and
hides nothing. They show that such measures need no change of engine, exchange or agent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedmed.aggregation.grid import FixedPoint
from fedmed.aggregation.stage import STAGES, Ask, Context, Reply, Stage, Sum
from fedmed.errors import QuorumNotMet
from fedmed.seeds import numpy_generator
from fedmed.training.local import SLOPES, Gradients, Problem, mean_slope
from fedmed.weights import Weights

PRIME = 2**255 - 19
READY, MISSING = "mask.ready", "mask.missing"


def mask(grid: FixedPoint) -> Stage:
    """Every two hospitals agree on a mask that one adds and the other subtracts: in the sum nothing is left of it.

    Before they train, all tell a public key. After it, those whose vectors came tell the masks that they share with
    those whose vectors did not, as these are left in the sum.
    """

    def drawn(key: bytes, size: int) -> Tensor:
        whole = np.random.default_rng(list(key)).integers(
            -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1, size, np.int64, endpoint=True
        )
        return torch.from_numpy(whole)

    def wrapped(vector: Tensor) -> Tensor:
        """Modulo 2**bits; integers of 64 bits wrap by themselves."""
        return vector if grid.bits == 64 else ((vector + 2**31) & (2**32 - 1)) - 2**31

    def ready(context: Context) -> Reply:
        secret = context.secret(32)
        return Reply(pow(2, int.from_bytes(secret), PRIME).to_bytes(32), secret)

    def shared(context: Context, other: str) -> bytes:
        theirs, ours = (int.from_bytes(key) for key in (context.told[READY][other], context.kept[READY]))
        return hashlib.sha256(pow(theirs, ours, PRIME).to_bytes(32)).digest()

    def send(vector: Tensor, context: Context) -> Tensor:
        total = vector.long()
        for other in sorted(set(context.told[READY]) - {context.site}):
            total = total + sign(context.site, other) * drawn(shared(context, other), len(vector))
        return wrapped(total).to(vector.dtype)

    def missing(context: Context) -> Reply:
        gone = sorted(set(context.told[READY]) - set(context.sites))
        return Reply(json.dumps({other: shared(context, other).hex() for other in gone}).encode())

    def receive(total: Tensor, known: Sum) -> Tensor:
        told = known.told[MISSING]
        if silent := sorted(set(known.sites) - set(told)):
            raise QuorumNotMet(f"the masks of round {known.round} cannot be taken off without {', '.join(silent)}")
        for site in known.sites:
            for other, key in json.loads(told[site]).items():
                total = total - sign(site, other) * drawn(bytes.fromhex(key), len(total))
        return wrapped(total)

    return Stage(
        send,
        receive,
        sees="sum",
        discloses="the sum of the vectors of those who took part",
        asks=(
            Ask("ready", "before", ready, "a public key, new in every round"),
            Ask("missing", "after", missing, "the masks that are shared with hospitals whose vectors did not come"),
        ),
    )


def sign(site: str, other: str) -> int:
    """Of two hospitals one adds, the other subtracts."""
    return 1 if site < other else -1


def noise(grid: FixedPoint) -> Stage:
    """A few steps of the grid are added to every number of a hospital's vector."""

    def send(vector: Tensor, context: Context) -> Tensor:
        generator = numpy_generator(context.seed, context.round, context.site, "noise")
        return vector + torch.from_numpy(generator.integers(-3, 4, len(vector))).to(vector.dtype)

    return Stage(send, lambda total, known: total, sees="each", discloses="every vector, with noise on it", exact=False)


SHORT = 0.5
"""The longest gradient of one patient."""


def clipped(problem: Problem, state: Weights, values: Sequence[Tensor], batch: Tensor) -> tuple[Tensor, Gradients]:
    """The mean over the patients of a batch of their own gradients, of which each is shortened to :data:`SHORT`."""
    whose = batch if problem.patients is None else problem.patients[batch]
    total, losses, patients = [torch.zeros_like(value) for value in values], [], whose.unique()
    for patient in patients:
        loss, gradients = mean_slope(problem, state, values, batch[whose == patient])
        length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        shorten = (SHORT / length).clamp(max=1.0)
        total = [so_far + shorten * gradient for so_far, gradient in zip(total, gradients, strict=True)]
        losses.append(loss.detach())
    return torch.stack(losses).mean(), [gradient / len(patients) for gradient in total]


TOY_STAGES = {"mask": mask, "noise": noise}
TOY_SLOPES = {"clipped": clipped}


def enter() -> None:
    """Enter both into the tables of this process."""
    STAGES.update(TOY_STAGES)
    SLOPES.update(TOY_SLOPES)
