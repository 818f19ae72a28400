"""A hospital's partition, open: decrypted and encoded once, and kept between the rounds of a run."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from fedmed.data.cohort import PATIENT
from fedmed.data.partition import MANIFEST, Manifest, read_manifest, read_partition
from fedmed.models.encoding import InputStatistics, encode, labels_of
from fedmed.models.networks import network_for
from fedmed.seeds import torch_generator
from fedmed.site.home import SiteHome
from fedmed.strategies.algorithm import Algorithm
from fedmed.targets.table import KINDS
from fedmed.training.local import Problem
from fedmed.training.losses import Loss, LossOptions, loss_for
from fedmed.training.personal import Personal, personalise
from fedmed.weights import Weights
from fedmed.wire.messages import Plan

MOST_SESSIONS = 256


class Examples(NamedTuple):
    """Encoded rows: features float32 `(rows, features)`, labels float32 `(rows,)`."""

    features: Tensor
    labels: Tensor


@dataclass
class Desk:
    """A session at work under one plan: the network and every split, encoded."""

    plan: Plan
    site: str
    network: nn.Module
    examples: dict[str, Examples]
    patients: dict[str, Tensor]

    @property
    def how(self) -> Algorithm:
        """What the plan means in code."""
        return self.plan.algorithm

    @property
    def loss(self) -> Loss:
        """What training makes small."""
        return loss_for(self.plan.cohort.target, self.plan.network, self.plan.training.loss)

    @property
    def likelihood(self) -> Loss:
        """What validation and calibration go by: the target's own loss, whatever weights training gives to classes."""
        return loss_for(self.plan.cohort.target, self.plan.network, LossOptions())

    def problem(self, split: str = "train") -> Problem:
        """The rows of a split, to be fitted."""
        return Problem(self.network, self.loss, *self.examples[split], self.plan.training, self.patients[split])

    def own(self, weights: Weights, kept: Weights) -> Personal:
        """A model as this hospital uses it.

        Args:
            weights: the global state.
            kept: the tensors that the hospital has of its own.
        """
        plan = self.plan
        return personalise(
            self.problem(),
            {**weights, **kept},
            plan.personal,
            torch_generator(plan.training.seed, self.site, "fine-tune"),
            self.likelihood if KINDS[plan.cohort.target.kind].shifts(plan.network.form) else None,
        )


@dataclass
class SiteSession:
    """One hospital's decrypted partition."""

    home: SiteHome
    manifest: Manifest
    tables: dict[str, pd.DataFrame]
    _desk: Desk | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def desk(self, plan: Plan) -> Desk:
        """The session under a plan that the hospital's policy lets through; encoded at the first call."""
        with self._lock:
            if self._desk is None or self._desk.plan.digest != plan.digest:
                network = network_for(plan.cohort, plan.network)
                self._desk = Desk(plan, self.home.name, network, self.encode(plan.statistics), self.patients())
            return self._desk

    def patients(self) -> dict[str, Tensor]:
        """Of every split, whose each row is: numbers from 0 in the order in which patients appear, `(rows,)`."""
        return {name: torch.from_numpy(pd.factorize(table[PATIENT])[0]) for name, table in self.tables.items()}

    def encode(self, statistics: InputStatistics) -> dict[str, Examples]:
        """Every split under some input statistics."""
        cohort = self.manifest.cohort
        return {
            name: Examples(encode(table, cohort, statistics), labels_of(table, cohort.target))
            for name, table in self.tables.items()
        }


_sessions: dict[tuple[str, bytes], SiteSession] = {}
_sessions_lock = threading.Lock()


def open_session(home: SiteHome) -> SiteSession:
    """The session of a home's present partition: kept while the partition stays the same.

    Raises:
        VaultError: if the partition does not open.
    """
    vault = home.vault()
    manifest = read_manifest(home.partition, vault)
    key = (str(home.path), (home.partition / MANIFEST).read_bytes())
    session = _sessions.get(key)
    if session is None:
        session = SiteSession(home, manifest, read_partition(home.partition, vault))
        with _sessions_lock:
            while len(_sessions) >= MOST_SESSIONS:
                _sessions.pop(next(iter(_sessions)))
            _sessions[key] = session
    return session
