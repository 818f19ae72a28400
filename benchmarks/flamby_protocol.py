"""FLamby's Fed-Heart-Disease, exactly: its rows, split, scaling, start and batch order, with FedMed's strategies.

FLamby (du Terrail et al. 2022, NeurIPS Datasets and Benchmarks; github.com/owkin/FLamby at edacf54) seeds torch's one
global generator and lets every data loader draw from it. The stream is rebuilt here from an explicit generator, so that
the figures of its result files can be met seed by seed; training and aggregation are FedMed's own functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedmed.aggregation.grid import FixedPoint
from fedmed.data.cohort import Cohort, Column
from fedmed.engine.loop import federate
from fedmed.engine.members import context_of
from fedmed.engine.runner import Answer, Here, Question
from fedmed.models.bundle import outputs
from fedmed.models.networks import NetworkOptions, build_network
from fedmed.sources.reading import read_embedded
from fedmed.strategies.algorithm import algorithm
from fedmed.strategies.base import Fitted, Memory, Sent, Site, Strategy, by_rows
from fedmed.strategies.client import sent_vector
from fedmed.strategies.options import AggregationOptions, StrategyName
from fedmed.strategies.table import STRATEGIES
from fedmed.targets.target import Target
from fedmed.training.local import Correction, Problem, TrainingOptions, batches_of_round, train
from fedmed.training.losses import log_loss
from fedmed.weights import Weights

SITES = ("cleveland", "hungarian", "switzerland", "va")
TESTS = (*SITES, "pooled")
BATCH, UPDATES, ROUNDS, EPOCHS = 4, 100, 15, 50
INPUTS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
CODED = ("cp", "restecg")
TRAIN_SHARE, SPLIT_SEED = 0.66, 43

_CODE = Column(type="number", range=(-1e6, 1e6), missing="impute")
FLAMBY_COHORT = Cohort(
    name="flamby_heart_disease",
    embedded="heart_disease",
    site_column="centre",
    target=Target(name="heart_disease", column="num", positive="> 0"),
    columns=dict.fromkeys(INPUTS, _CODE),
)
"""FLamby's reading of the table: ten inputs, all as plain numbers, and a cholesterol of 0 taken for a measurement."""


class Split(NamedTuple):
    """One site's rows of one half: places in the site's table, features, labels.

    `place` has shape `(rows,)`; `raw` and `features`, float32, `(rows, 13)`, before and after the site's own scaling;
    `labels`, float32, `(rows,)`.
    """

    place: np.ndarray
    raw: Tensor
    features: Tensor
    labels: Tensor


class Halves(NamedTuple):
    """One site's training and test rows."""

    train: Split
    test: Split


def complete_rows(site: str) -> np.ndarray:
    """Which rows of a site's table FLamby keeps: those that lack none of its ten inputs; boolean, `(rows,)`."""
    return read_embedded(FLAMBY_COHORT, site)[list(INPUTS)].notna().all(axis=1).to_numpy()


def halves(labels: np.ndarray, seed: int = SPLIT_SEED) -> tuple[np.ndarray, np.ndarray]:
    """Places of the training and of the test rows among a site's complete rows, ascending.

    Stratified unless a class has at most two rows (Switzerland has one negative).
    """
    from sklearn.model_selection import train_test_split

    _, counts = np.unique(labels, return_counts=True)
    training, test = train_test_split(
        np.arange(len(labels)),
        test_size=1.0 - TRAIN_SHARE,
        train_size=TRAIN_SHARE,
        random_state=seed,
        shuffle=True,
        stratify=labels if len(counts) > 1 and counts.min() > 2 else None,
    )
    return np.sort(training), np.sort(test)


def heart_disease() -> dict[str, Halves]:
    """The 740 rows: site → halves, scaled by the site's own training rows (deviation with n − 1).

    >>> [(len(h.train.labels), len(h.test.labels), int(h.test.labels.sum())) for h in heart_disease().values()]
    [(199, 104, 48), (172, 89, 33), (30, 16, 15), (85, 45, 35)]
    """
    tables = {site: read_embedded(FLAMBY_COHORT, site)[complete_rows(site)] for site in SITES}
    codes = {name: sorted({code for table in tables.values() for code in table[name]})[1:] for name in CODED}
    found = {}
    for site, table in tables.items():
        plain = [table[name] for name in INPUTS if name not in CODED]
        coded = [table[name] == code for name in CODED for code in codes[name]]
        raw = torch.tensor(np.column_stack([column.to_numpy(np.float32) for column in (*plain, *coded)]))
        labels = (table["num"] > 0).to_numpy()
        training, test = halves(labels)
        scale = scaling(raw[training])
        found[site] = Halves(
            *(Split(rows, raw[rows], scale(raw[rows]), torch.tensor(labels[rows]).float()) for rows in (training, test))
        )
    return found


def scaling(training: Tensor) -> Callable[[Tensor], Tensor]:
    """FLamby's z-score by some training rows."""
    mean, deviation = training.mean(dim=0), training.std(dim=0)
    return lambda rows: (rows - mean) / (deviation + 1e-9)


# ── torch's global stream, as FLamby's harness draws from it ──


def stream(seed: int) -> torch.Generator:
    """Torch's generator after `set_seed(seed)`."""
    return torch.Generator().manual_seed(seed)


def _draw(generator: torch.Generator) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def start(seed: int) -> dict[str, Tensor]:
    """The weights of `nn.Linear(13, 1)` made right after the seed."""
    generator = stream(seed)
    weight, bias = torch.empty(1, 13), torch.empty(1)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bias.uniform_(-1 / math.sqrt(13), 1 / math.sqrt(13), generator=generator)
    return {"bias": bias, "weight": weight}


def orders(seed: int, rows: Sequence[int], turns: Sequence[int]) -> list[list[Tensor]]:
    """The order of the rows in every pass, by site: what the loaders draw when the sites train in turns.

    Args:
        seed: the generator is seeded once, after the loaders' first iterators were made.
        rows: training rows of every site.
        turns: which site trains, turn after turn, each time for :data:`UPDATES` batches.

    Returns:
        Site → permutations of shape `(rows,)`.
    """
    generator, passes = stream(seed), [list[Tensor]() for _ in rows]
    left = [0 for _ in rows]
    for site in turns:
        for _ in range(UPDATES):
            if left[site] == 0:
                if passes[site]:
                    _draw(generator)  # a new iterator draws a base seed for workers that there are not
                own = torch.Generator().manual_seed(_draw(generator))
                passes[site].append(torch.randperm(rows[site], generator=own))
                left[site] = math.ceil(rows[site] / BATCH)
            left[site] -= 1
    return passes


def passes_alone(seed: int, rows: int, epochs: int = EPOCHS) -> list[Tensor]:
    """The order of the rows in every pass of one loader that alone is iterated after the seed."""
    generator, found = stream(seed), []
    for _ in range(epochs):
        _draw(generator)
        found.append(torch.randperm(rows, generator=torch.Generator().manual_seed(_draw(generator))))
    return found


# ── the methods ──


class Method(NamedTuple):
    """A federated row of FLamby's table: FedMed's strategy with FLamby's constants."""

    strategy: Strategy
    rate: float
    options: AggregationOptions = AggregationOptions()


def _adaptive(name: StrategyName, rate: float, server: float) -> Method:
    options = AggregationOptions(
        strategy=name,
        learning_rate=server,
        beta1=0.9,
        beta2=0.999,
        tau=1e-8,
    )
    return Method(STRATEGIES[options.strategy], rate, options)


METHODS: dict[str, Method] = {
    "FedAvg": Method(STRATEGIES["fedavg"], 0.001),
    "FedProx": Method(STRATEGIES["fedprox"], 0.001, AggregationOptions(strategy="fedprox", mu=0.01)),
    "Scaffold": Method(
        # FLamby weighs SCAFFOLD's updates by rows; the paper, and FedMed, weigh them equally.
        STRATEGIES["scaffold"]._replace(weigh=by_rows),
        0.001,
        AggregationOptions(strategy="scaffold"),
    ),
    "FedAdam": _adaptive("fedadam", 0.01, 0.01),
    "FedYogi": _adaptive("fedyogi", 0.003162, 0.01),
    "FedAdagrad": _adaptive("fedadagrad", 0.003162, 0.316228),
}
CYCLIC_RATE, ADAM_RATE = 0.01, 0.001


def problem_of(split: Split, rate: float, **options: object) -> Problem:
    """FedMed's training problem for one site: one linear layer, log loss, no penalty."""
    network = build_network((13,), 1, NetworkOptions(name="logistic"))
    chosen = {"batch_size": BATCH, "local_updates": UPDATES, "l2": 0.0, "rounds": ROUNDS, "learning_rate": rate}
    return Problem(network, log_loss, split.features, split.labels, TrainingOptions.model_validate(chosen | options))


def federated(method: Method, data: Mapping[str, Halves], seed: int, rounds: int = ROUNDS) -> dict[str, Tensor]:
    """The global weights after the last round.

    Rounds, states, sums and the server are the engine's; the hospitals are FLamby's: their batches come from one
    stream for all, and no seed is derived.
    """
    problems = {site: problem_of(half.train, method.rate, rounds=rounds) for site, half in data.items()}
    rows = {site: len(problem.labels) for site, problem in problems.items()}
    passes = dict(zip(data, orders(seed, list(rows.values()), [*range(len(rows))] * rounds), strict=True))
    first = next(iter(problems.values()))
    grid = FixedPoint(bits=64, limit=64.0, weight=sum(rows.values()))
    how = algorithm(first.network, first.options, method.options, rows, grid=grid, strategy=method.strategy)
    states = {0: how.start(start(seed))}
    kept: dict[str, Memory] = {site: {} for site in data}

    def respond(question: Question) -> Answer:
        base, site = states[question.base], question.site
        turn = _turn(method, problems[site], question.round, base.weights, base.memory, kept[site], passes[site])
        kept[site] = turn.memory
        return Answer(site, sent_vector(how, turn, base.weights, context_of(how, question)))

    *_, last = federate(how, states, Here(respond), scored=False)
    return dict(last.state.weights)


def _turn(
    method: Method,
    problem: Problem,
    number: int,
    base: Weights,
    shared: Memory,
    memory: Memory,
    passes: Sequence[Tensor],
) -> Sent:
    def run(start: Weights, correct: Correction | None = None, *, whole: bool = False) -> Fitted:
        batches = batches_of_round(len(problem.labels), problem.options, number, passes.__getitem__)
        trained = train(problem, start, batches, rate=method.rate, correct=correct)
        return Fitted(trained.state, {}, trained.loss, trained.steps)

    def no_gradient(at: Weights) -> Fitted:
        raise NotImplementedError("none of these methods asks for the gradient over all rows")

    site = Site(
        base=base, shared=shared, memory=memory, rate=method.rate, momentum=0.0, train=run, gradient=no_gradient
    )
    return method.strategy.client(site, method.options)


def cyclic_turns(seed: int, sites: int, rounds: int = ROUNDS) -> Iterator[int]:
    """Who trains in each round: a new order for every cycle."""
    generator, order = np.random.default_rng(seed), list[int]()
    for _ in range(rounds):
        order = order or [int(site) for site in generator.permutation(sites)]
        yield order.pop(0)


def cyclic(data: Mapping[str, Halves], seed: int, *, hand_on: bool) -> dict[str, Tensor]:
    """FLamby's Cyclic: the model that it scores, and what it would be if sites handed their weights on.

    `flamby/strategies/cyclic.py` trains a deep copy of the model for every client and returns the first client's.
    """
    problems = [problem_of(half.train, CYCLIC_RATE) for half in data.values()]
    turns = list(cyclic_turns(seed, len(problems)))
    passes = orders(seed, [len(problem.labels) for problem in problems], turns)
    models = [start(seed) for _ in problems]
    taken = [0 for _ in problems]
    for site in turns:
        taken[site] += 1
        rows = len(problems[site].labels)
        batches = batches_of_round(rows, problems[site].options, taken[site], passes[site].__getitem__)
        models[site] = train(problems[site], models[site], batches, rate=CYCLIC_RATE).state
        if hand_on:
            models = [models[site]] * len(models)
    return models[0]


def alone(split: Split, seed: int) -> dict[str, Tensor]:
    """FLamby's "Local" and "Pooled Training": fifty passes of Adam over some rows."""
    problem = problem_of(split, ADAM_RATE, optimizer="adam", local_updates=0)
    batches = [batch for order in passes_alone(seed, len(split.labels)) for batch in torch.split(order, BATCH)]
    return train(problem, start(seed), batches, rate=ADAM_RATE).state


POOLED_ORDER = ("cleveland", "switzerland", "hungarian", "va")
"""FLamby joins the files in the order in which the directory lists them, whatever that is; of the 24 orders, this one
gives the published figures of "Pooled Training"."""


def pooled(data: Mapping[str, Halves]) -> Halves:
    """All sites' rows together, scaled by the pooled training rows, as FLamby's `pooled=True` does.

    A federated model is trained on rows that each site scaled for itself: FLamby's "Pooled Test" shows it rows on a
    scale that it has never seen.
    """
    data = {site: data[site] for site in POOLED_ORDER}
    scale = scaling(torch.cat([half.train.raw for half in data.values()]))

    def joined(splits: Sequence[Split]) -> Split:
        raw = torch.cat([split.raw for split in splits])
        places = np.concatenate([split.place for split in splits])
        return Split(places, raw, scale(raw), torch.cat([split.labels for split in splits]))

    return Halves(joined([half.train for half in data.values()]), joined([half.test for half in data.values()]))


def accuracies(weights: Weights, data: Mapping[str, Halves]) -> list[float]:
    """Share of right answers at a threshold of one half, at every site's test rows and on the pooled ones."""
    network = build_network((13,), 1, NetworkOptions(name="logistic"))
    tests = [*(half.test for half in data.values()), pooled(data).test]
    right = [(outputs(network, weights, t.features).squeeze(1) > 0) == (t.labels > 0.5) for t in tests]
    return [float(answers.double().mean()) for answers in right]


def majority(data: Mapping[str, Halves]) -> list[float]:
    """Accuracy of giving each site's test rows the label that most of its training rows have."""
    return [
        float(((half.train.labels.mean() > 0.5).float() == half.test.labels).double().mean()) for half in data.values()
    ]
