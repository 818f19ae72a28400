"""Demonstration only: the model that could be trained if all hospitals' rows lay in one place.

Everything else in FedMed exists so that this need not happen. It opens every hospital's partition, so it runs only
where one machine holds all their keys, and only if `evaluation.pooled` in params.yaml asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fedmed.models.networks import initial_weights
from fedmed.seeds import torch_generator
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome
from fedmed.training.alone import train_alone
from fedmed.wire.messages import Plan


def train_pooled(plan: Plan, homes: Iterable[SiteHome]) -> dict[str, Tensor]:
    """Train as well as a hospital trains alone, on the rows of all participants together.

    Raises:
        VaultError: if a partition does not open here.
    """
    desks = [open_session(home).desk(plan) for home in homes if home.name in plan.participants]
    joined = {
        split: (
            torch.cat([desk.examples[split].features for desk in desks]),
            torch.cat([desk.examples[split].labels for desk in desks]),
        )
        for split in ("train", "validation")
    }
    seed = plan.training.seed
    start = initial_weights(desks[0].network, torch_generator(seed, "start"))
    generator = torch_generator(seed, "pooled")
    problem = desks[0].problem()._replace(features=joined["train"][0], labels=joined["train"][1], patients=None)
    return dict(train_alone(problem, joined["validation"], start, generator).state)
