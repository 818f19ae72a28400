"""What a plan means in code, made once: the strategy and its constants, what travels, what each hospital weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from fedmed.aggregation.codec import Form, unit_of_rows
from fedmed.aggregation.grid import FixedPoint
from fedmed.aggregation.stage import STAGES, Ask, Stage, sees_each
from fedmed.models.networks import state_of
from fedmed.models.parts import Parts, parts_of
from fedmed.strategies.base import Memory, Strategy, Turn
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import TrainingOptions, factor
from fedmed.weights import Layout, Weights, layout_of


class State(NamedTuple):
    """What the coordinator has after a round.

    Args:
        weights: the global state: parameters and statistics.
        memory: what the strategy keeps at the server.
        took_part: hospital → the name of the bytes that its update came in, empty where it came in none.
        refused: hospital → why its update does not count, or did not come.
        loss: the mean training loss over the rows of those that took part.
        losses: that of each hospital, where each can be seen.
    """

    weights: Weights
    memory: Memory = {}
    took_part: Mapping[str, str] = {}
    refused: Mapping[str, str] = {}
    loss: float | None = None
    losses: Mapping[str, float] = {}


class Algorithm(NamedTuple):
    """All that decides what rounds do with a state, for coordinator and hospitals alike; see :func:`algorithm`."""

    strategy: Strategy
    options: AggregationOptions
    training: TrainingOptions
    parts: Parts
    form: Form
    layout: Mapping[str, Layout]
    grid: FixedPoint
    stages: tuple[Stage, ...]
    sites: tuple[str, ...]
    weights: Mapping[str, int]
    rows: Mapping[str, int]

    @property
    def rounds(self) -> int:
        """How many rounds there are at most."""
        return self.strategy.rounds(self.training.rounds)

    @property
    def sees_each(self) -> bool:
        """Whether the coordinator can read every hospital's own vector."""
        return sees_each(self.stages)

    def turns(self, number: int) -> tuple[Turn, ...]:
        """Who trains in round `number`, and on the model of which round.

        Raises:
            ValueError: if a recorded order of arrival does not reach so far.
        """
        return self.strategy.schedule(self.sites, number, self.training.seed, self.options)

    def asks(self, when: str) -> list[tuple[str, Ask]]:
        """The questions of the stages, before or after training, each with its full name `stage.question`."""
        named = zip(self.options.stages, self.stages, strict=True)
        return [(f"{name}.{ask.name}", ask) for name, stage in named for ask in stage.asks if ask.when == when]

    def memory_layout(self, base: Weights) -> dict[str, Layout]:
        """How the server's memory must look; nothing where the strategy keeps none."""
        return layout_of(self.strategy.init(self.travelling(base)[0], self.options))

    def travelling(self, state: Weights) -> tuple[Weights, Weights]:
        """The tensors of a state that travel: parameters, and statistics."""
        return (
            {name: state[name] for name in self.parts.parameters},
            {name: state[name] for name in self.parts.statistics},
        )

    def rate(self, number: int) -> float:
        """The server's step size in a round."""
        own = self.options.learning_rate or self.strategy.rate
        return own * factor(number, self.rounds, self.options.schedule, self.options.warmup)

    def start(self, weights: Weights) -> State:
        """The state before the first round."""
        return State(weights, self.strategy.init(self.travelling(weights)[0], self.options))


def algorithm(
    network: nn.Module,
    training: TrainingOptions,
    options: AggregationOptions,
    rows: Mapping[str, int],
    *,
    weights: Mapping[str, int] | None = None,
    grid: FixedPoint | None = None,
    personal: Sequence[str] = (),
    strategy: Strategy | None = None,
) -> Algorithm:
    """An algorithm from its parameters.

    Args:
        network: names and shapes of what is trained.
        training: options of the hospitals' training.
        options: the strategy's, and those of the stages.
        rows: hospital → its training rows.
        weights: hospital → its weight; the strategy's own if left out.
        grid: the integers that updates travel as; by `options` and the weights if left out.
        personal: patterns of the tensors that hospitals keep to themselves.
        strategy: one that is in no table; the one that `options` name if left out.

    Raises:
        SettingsError: if nothing is left to travel.
    """
    strategy = strategy or STRATEGIES[options.strategy]
    weighed = dict(weights or {site: strategy.weigh(count) for site, count in rows.items()})
    grid = grid or FixedPoint(bits=options.bits, limit=options.limit, weight=sum(weighed.values()))
    parts = parts_of(
        network, personal=personal, frozen=training.frozen, keep_normalisation=strategy.keeps_normalisation
    )
    state = {name: tensor.detach() for name, tensor in state_of(network).items()}
    form = Form(
        weights={name: state[name] for name in parts.parameters},
        statistics={name: state[name] for name in parts.statistics},
        extra=strategy.extra,
        unit=unit_of_rows(rows, weighed, grid.limit) if options.training_loss else 0.0,
    )
    return Algorithm(
        strategy=strategy,
        options=options,
        training=training,
        parts=parts,
        form=form,
        layout=layout_of(state),
        grid=grid,
        stages=tuple(STAGES[name](grid) for name in options.stages),
        sites=tuple(sorted(rows)),
        weights=weighed,
        rows=dict(rows),
    )
