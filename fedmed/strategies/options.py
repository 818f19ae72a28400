"""The strategy of a run and its constants, in the names of the papers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedmed.aggregation.stage import STAGES
from fedmed.typed_yaml import Record

StrategyName = Literal[
    "fedavg",
    "mean",
    "fedsgd",
    "fedprox",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "scaffold",
    "fednova",
    "fedbn",
    "ditto",
    "feddyn",
    "cyclic",
    "one_shot",
    "fedbuff",
]
CombineName = Literal["mean", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "clipped_mean"]


class AggregationOptions(Record):
    """The strategy, how updates are combined, and the integers that they travel as."""

    strategy: StrategyName = Field("fedavg", description="the federated algorithm")
    combine: CombineName = Field("mean", description="how updates become one: the exact mean, or a robust rule")
    participation: float = Field(1.0, gt=0, le=1, description="share of the hospitals invited to a round, drawn anew")
    largest_share: float = Field(1.0, gt=0, le=1, description="largest share of the weight that one hospital may have")
    learning_rate: float = Field(
        0.0, ge=0, description="the server's step size; 0: the strategy's own, 0.1 for the adaptive ones and else 1"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the server's step size falls over the rounds"
    )
    warmup: int = Field(0, ge=0, description="rounds over which the server's step size first rises")
    momentum: float = Field(0.9, ge=0, lt=1, description="β of fedavgm")
    beta1: float = Field(0.9, ge=0, lt=1, description="β₁ of fedadagrad, fedadam and fedyogi")
    beta2: float = Field(0.99, ge=0, lt=1, description="β₂ of fedadam and fedyogi")
    tau: float = Field(1e-3, gt=0, description="τ of fedadagrad, fedadam and fedyogi: how adaptive they are")
    mu: float = Field(0.01, ge=0, description="μ of fedprox: pull towards the global weights")
    alpha: float = Field(0.1, gt=0, description="α of feddyn")
    ditto_lambda: float = Field(0.1, ge=0, description="λ of ditto: pull of the personal model to the global one")
    buffer: int = Field(2, ge=1, description="updates that fedbuff waits for before it moves the global weights")
    arrivals: tuple[str, ...] = Field(
        (), description="for fedbuff: hospitals in the recorded order of arrival; empty: an order drawn from the seed"
    )
    trim: float = Field(0.2, ge=0, lt=0.5, description="share of the hospitals that trimmed_mean drops at either end")
    faulty: int = Field(1, ge=0, description="f of krum and multi_krum: how many hospitals may be faulty")
    clip: float = Field(1.0, gt=0, description="clipped_mean: longest update, as a multiple of the median norm")
    stages: tuple[str, ...] = Field(
        ("grid",), min_length=1, description="what stands between a hospital's update and the sum, in order"
    )
    training_loss: bool = Field(True, description="whether the mean training loss is told, inside the sum of updates")
    bits: Literal[32, 64] = Field(32, description="bits of the integers that updates travel as")
    limit: float = Field(16.0, gt=0, description="largest change of a weight within a round; more is refused")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := [name for name in self.stages if name not in STAGES]:
            raise ValueError(f"`stages`: expected {', '.join(STAGES)}, got {', '.join(unknown)}")
        if self.stages.count("grid") != 1:
            raise ValueError("`stages`: expected `grid` once, which makes integers of an update")
        return self
