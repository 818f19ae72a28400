"""Every strategy by the name that params.yaml gives it."""

from __future__ import annotations

from fedmed.strategies.adaptive import FEDADAGRAD, FEDADAM, FEDYOGI
from fedmed.strategies.averaging import CYCLIC, FEDAVG, FEDAVGM, FEDBN, FEDSGD, MEAN, ONE_SHOT
from fedmed.strategies.base import Strategy
from fedmed.strategies.buffered import FEDBUFF
from fedmed.strategies.fednova import FEDNOVA
from fedmed.strategies.options import StrategyName
from fedmed.strategies.proximal import DITTO, FEDDYN, FEDPROX
from fedmed.strategies.scaffold import SCAFFOLD

STRATEGIES: dict[StrategyName, Strategy] = {
    "fedavg": FEDAVG,
    "mean": MEAN,
    "fedsgd": FEDSGD,
    "fedprox": FEDPROX,
    "fedavgm": FEDAVGM,
    "fedadagrad": FEDADAGRAD,
    "fedadam": FEDADAM,
    "fedyogi": FEDYOGI,
    "scaffold": SCAFFOLD,
    "fednova": FEDNOVA,
    "fedbn": FEDBN,
    "ditto": DITTO,
    "feddyn": FEDDYN,
    "cyclic": CYCLIC,
    "one_shot": ONE_SHOT,
    "fedbuff": FEDBUFF,
}
