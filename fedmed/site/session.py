"""A hospital's partition, open: decrypted and encoded once, and kept between the rounds of a run."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from fedmed.data.cohort import TARGET
from fedmed.data.partition import MANIFEST, Manifest, read_manifest, read_partition
from fedmed.errors import MessageRefused
from fedmed.exchange.messages import Plan
from fedmed.models.encoding import Encoder, InputStatistics, raw_matrix
from fedmed.models.networks import network_for
from fedmed.site.home import SiteHome
from fedmed.training.recalibration import shift_of
from fedmed.weights import Weights

MOST_SESSIONS = 256


class Examples(NamedTuple):
    """Encoded rows: features float32 `(rows, features)`, labels float32 `(rows,)`."""

    features: Tensor
    labels: Tensor


@dataclass
class Desk:
    """A session at work under one plan: the network and every split, encoded."""

    plan: Plan
    network: nn.Module
    examples: dict[str, Examples]

    def shift(self, weights: Weights) -> float:
        """The hospital's own shift of a model's intercept, fitted to its training rows."""
        return shift_of(self.network, weights, *self.examples["train"], self.plan.personal)


@dataclass
class SiteSession:
    """One hospital's decrypted partition."""

    home: SiteHome
    manifest: Manifest
    tables: dict[str, pd.DataFrame]
    _desk: Desk | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def desk(self, plan: Plan) -> Desk:
        """The session under a plan; encoded at the first call.

        Raises:
            MessageRefused: if the plan is for another declaration than the hospital's data, or not for this hospital.
        """
        with self._lock:
            if self._desk is None or self._desk.plan.digest != plan.digest:
                if plan.cohort.digest != self.manifest.cohort.digest:
                    raise MessageRefused(f"{self.home.name}: the plan is for another declaration of {plan.cohort.name}")
                if self.home.name not in plan.participants:
                    raise MessageRefused(f"{self.home.name}: the plan does not name this hospital")
                self._desk = Desk(
                    plan,
                    network_for(plan.cohort, plan.network),
                    self.encode(plan.statistics),
                )
            return self._desk

    def encode(self, statistics: InputStatistics) -> dict[str, Examples]:
        """Every split under some input statistics."""
        encoder = Encoder(self.manifest.cohort, statistics)
        return {
            name: Examples(
                encoder(raw_matrix(table, self.manifest.cohort)),
                torch.tensor(table[TARGET].to_numpy(), dtype=torch.float32),
            )
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
