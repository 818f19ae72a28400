"""Runs whose final weights are kept as digests: every strategy × rule × kind of cohort, over real partitions.

Whatever is moved about in the code, these weights stay the same to the bit. Only :func:`final_weights` and
:func:`settings_from` may follow the code's names; all else here is held still. Called as a program, it writes
`tests/golden/digests.json` anew, to be done only where other weights are meant:

    PYTHONPATH=. python tests/support/golden.py
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from plain import agents
from torch import Tensor, nn

from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.asking import ask_all
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import ask_for_statistics, make_plan, run_id
from fedmed.coordinator.training import keep_plan, rounds_of
from fedmed.data.arrays import as_cell
from fedmed.data.cohort import Cohort
from fedmed.data.split import SplitOptions
from fedmed.errors import FedMedError
from fedmed.exchange.memory import MemoryExchange
from fedmed.settings import Settings
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome, add_records, partition_records
from fedmed.strategies.base import unpack
from fedmed.strategies.robust import COMBINE
from fedmed.strategies.table import STRATEGIES
from fedmed.weights import from_bytes, layouts_in, to_bytes
from fedmed.wire.messages import Admission, Statistics

torch.set_num_threads(1)  # as in tasks.site

DIGESTS = Path(__file__).parents[1] / "golden" / "digests.json"
SITES = {"centre": 60, "east": 64, "north": 75, "south": 88, "west": 110}
"""Hospital → rows: of unlike size, so that weights, rounding and step counts differ between them.

Five, because of four hospitals the median and the mean without one at either end are the same.
"""


# What follows the code: how a run is asked for, and how it is done.


def settings_from(changes: Mapping[str, Any]) -> Settings:
    """The parameters of a run: those that all have in common, and what is changed of them, section by section.

    The sections are `network`, `training`, `aggregation` and `personal`, whatever `params.yaml` calls them.
    """
    content: dict[str, Any] = {
        "cohort": "cohort.yaml",
        "federation": {"sites": list(SITES)},
        "training": {"rounds": 3, "batch_size": 16, "learning_rate": 0.1, "seed": 7},
        "aggregation": {"trim": 0.34, "buffer": 3},  # one at either end, of five hospitals and of a buffer of three
    }
    for name, keys in changes.items():
        content[name] = {**content.get(name, {}), **keys}
    return Settings.model_validate(content)


def final_weights(homes: Mapping[str, SiteHome], settings: Settings, cohort: Cohort) -> dict[str, Tensor]:
    """A whole run, message by message: the global state after its last round.

    Admission is made from the partitions, without the contract: which expectations a table keeps decides no weight.

    Args:
        homes: hospital → its folder, with a partition in it.
        settings: the public parameters.
        cohort: the declaration of the partitions.

    Returns:
        The global state by name; and by `site/name` the tensors that a hospital has of its own, where it has any.

    Raises:
        FedMedError: if these parameters do not go together.
    """
    exchange = MemoryExchange()
    call = agents(homes, exchange)
    sessions = {site: open_session(home) for site, home in homes.items()}
    admissions = Admissions(
        validation="validation-1",
        sites={
            site: Admission(
                run="validation-1",
                sender=site,
                purpose="validate",
                question="0" * 64,
                admitted=True,
                failed=(),
                expectations=1,
                fingerprint=session.manifest.fingerprint,
                rows={split: len(table) for split, table in session.tables.items()},
            )
            for site, session in sessions.items()
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        home = CoordinatorHome(Path(folder))
        # The hospitals' outboxes remember what was asked before: another attempt is asked anew.
        name, attempt = run_id(settings, cohort, admissions), next(ATTEMPTS)
        asked = ask_all(exchange, call, ask_for_statistics(name, admissions, settings, attempt), Statistics)
        plan, begin = make_plan(name, attempt, settings, cohort, admissions, asked, exchange)
        run = keep_plan(home, plan, begin, settings.privacy.minimum_cell)
        for record in rounds_of(run, exchange, call):
            if refused := {site: entry.refused for site, entry in record.sites.items() if entry.refused}:
                raise AssertionError(refused)
        last = plan.algorithm.rounds
        final = dict(run.states[last].weights)
        for site, home_ in homes.items():
            if not (update := run.states.counted(site, last)):
                continue
            counted = {entry.payload: entry for entry in home_.outbox.of_run(name)}[update]
            data = home_.outbox.said(counted).kept
            for key, tensor in unpack(from_bytes(data, layouts_in(data)), "personal").items():
                final[f"{site}/{key}"] = tensor
        return final


ATTEMPTS = count(1)


# The cohorts, and the hospitals' rows.


class Kind(NamedTuple):
    """A cohort, and the network that its runs have."""

    target: Mapping[str, Any]
    network: Mapping[str, Any]
    columns: str = "table"


class Normalised(nn.Module):
    """A network that is none of FedMed's own, with statistics that travel."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.body = nn.Linear(shape[0], 5)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """float32 `(rows, features)` → `(rows, outputs)`."""
        told: Tensor = self.head(torch.tanh(self.norm(self.body(rows))))
        return told


BINARY = {"name": "ill", "column": "outcome", "positive": "> 0"}
CLASSES = {
    "name": "stage",
    "kind": "multiclass",
    "column": "outcome",
    "classes": {"0": "no", "1": "early", "2": "late"},
}
SURVIVAL = {
    "name": "death",
    "kind": "survival",
    "time": "days",
    "event": "died",
    "unit": "days",
    "horizon": 300.0,
    "longest": 1000.0,
}
MLP = {"name": "mlp", "hidden": [6, 4]}

KINDS = {
    "binary": Kind(BINARY, {"name": "logistic"}),
    "multiclass": Kind(CLASSES, {"name": "mlp", "hidden": [6]}),
    "cox": Kind(SURVIVAL, {"name": "mlp", "hidden": [5], "survival": "cox"}),
    "discrete": Kind(SURVIVAL, {"name": "logistic", "survival": "discrete", "intervals": 6}),
    "image": Kind(BINARY, {"name": "cnn", "channels": [3, 4], "normalisation": "batch"}, "image"),
    "gru": Kind(BINARY, {"name": "gru", "hidden": [4]}, "series"),
    "tcn": Kind(BINARY, {"name": "tcn", "channels": [4, 3], "kernel": 2}, "series"),
    "own": Kind(BINARY, {"name": "golden:Normalised"}),
    "mlp": Kind(BINARY, MLP),
}
TABLES = ("binary", "multiclass", "cox", "discrete")

COLUMNS: dict[str, dict[str, Any]] = {
    "table": {
        "age": {"type": "integer", "range": [0, 110], "missing": "impute"},
        "marker": {"type": "number", "range": [-20, 20]},
        "pressure": {"type": "number", "range": [0, 300], "missing": "impute"},
        "ward": {"type": "category", "categories": {"a": "", "b": "", "c": ""}, "missing": "impute"},
    },
    "image": {"scan": {"type": "image", "shape": [8, 8]}},
    "series": {
        "age": {"type": "integer", "range": [0, 110], "missing": "impute"},
        "course": {
            "type": "series",
            "steps": 5,
            "step": 60,
            "channels": {"pulse": {"range": [0, 300]}, "lactate": {"range": [0, 30]}},
        },
    },
}


def cohort_of(kind: Kind) -> Cohort:
    """The declaration of a kind."""
    content = {"name": "made_up", "patient_id": "person", "minimum": {"rows": 20, "per_class": 1}}
    return Cohort.model_validate({**content, "target": kind.target, "columns": COLUMNS[kind.columns]})


def rows_of(site: str, cohort: Cohort) -> pd.DataFrame:
    """The rows of a hospital, always the same, and unlike those of the others; every tenth patient has two.

    All numbers are rounded, so that no processor's last bit is in them.
    """
    place, rows = sorted(SITES).index(site), SITES[site]
    generator = np.random.default_rng([11, place])
    marker = generator.normal(loc=place - 2, scale=1 + place / 2, size=rows).round(2).clip(-20, 20)
    noise, chance = generator.normal(size=rows).round(2), generator.uniform(size=(4, rows)).round(3)
    persons = [f"{site}-{row - (row % 10 == 9)}" for row in range(rows)]
    table: dict[str, Any] = {"person": persons}
    risk = (marker + noise - place / 2 + 1).round(2)
    if "age" in cohort.columns:
        age = (40 + 8 * place + 12 * generator.normal(size=rows)).round().clip(0, 110)
        table["age"] = np.where(chance[0] < 0.1, np.nan, age)
        risk = (risk + (age - 50) / 20).round(2)
    if "ward" in cohort.columns:
        pressure = (120 + 5 * risk + 10 * generator.normal(size=rows)).round(1).clip(0, 300)
        table["marker"] = marker
        table["pressure"] = np.where(chance[1] < 0.2 * place, np.nan, pressure)
        ward = np.where(chance[2] < 0.3 + 0.12 * place, "a", np.where(chance[2] < 0.9, "b", "c"))
        table["ward"] = np.where(chance[3] < 0.1, None, ward.astype(object))
    if "scan" in cohort.columns:
        grey = generator.integers(0, 160, size=(rows, 8, 8)) + np.round(12 * marker).astype(int)[:, None, None]
        table["scan"] = [as_cell(scan, cohort.columns["scan"]) for scan in grey.clip(0, 255)]
    if "course" in cohort.columns:
        drift = np.arange(5) * marker[:, None]
        pulse = (80 + 4 * drift + 5 * generator.normal(size=(rows, 5))).round().clip(0, 300)
        lactate = (3 + drift / 5 + generator.uniform(size=(rows, 5))).round(1).clip(0, 30)
        course = np.where(generator.uniform(size=(rows, 5, 2)) < 0.2, np.nan, np.stack([pulse, lactate], axis=2))
        table["course"] = [as_cell(each, cohort.columns["course"]) for each in course]
    if cohort.target.kind == "survival":
        table["days"] = (200 - 25 * risk + 250 * generator.uniform(size=rows)).round().clip(1, 900)
        table["died"] = (generator.uniform(size=rows).round(3) < 0.7 - 0.1 * place).astype(int)
    else:
        table["outcome"] = np.digitize(risk, [0.0] if cohort.target.kind == "binary" else [-1.0, 1.0])
    return pd.DataFrame(table)


class Hospitals:
    """The hospitals' folders, partitioned when a kind is first asked for; every kind of rows once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._homes: dict[str, dict[str, SiteHome]] = {}

    def of(self, kind: Kind) -> dict[str, SiteHome]:
        """Hospital → its folder, with a key, records and a partition of its own."""
        cohort = cohort_of(kind)
        if cohort.digest not in self._homes:
            root = self.root / cohort.digest[:12]
            homes = {site: SiteHome(root / site) for site in SITES}
            for site, home in homes.items():
                home.path.mkdir(parents=True)
                file = root / f"{site}.parquet"
                rows_of(site, cohort).to_parquet(file)
                add_records(home, [file], cohort)
                partition_records(home, cohort, SplitOptions())
            self._homes[cohort.digest] = homes
        return self._homes[cohort.digest]


# The combinations, and what is kept of each.


class Variant(NamedTuple):
    """A kind of cohort, what is changed of the parameters, and the strategy with which it is always tested."""

    kind: str
    changes: Mapping[str, Any]
    quick: str


VARIANTS = {
    "image": Variant("image", {}, "fedbn"),
    "gru": Variant("gru", {}, "fedavg"),
    "tcn": Variant("tcn", {}, "scaffold"),
    "own": Variant("own", {}, "fedavgm"),
    "personal": Variant("mlp", {"personal": {"layers": ["head.*"]}}, "ditto"),
    "frozen": Variant("mlp", {"training": {"frozen": ["body.1.*"]}}, "fedprox"),
    "participation": Variant("multiclass", {"aggregation": {"participation": 0.7}}, "feddyn"),
    "momentum": Variant("mlp", {"training": {"momentum": 0.9}}, "fednova"),
    "adam": Variant("mlp", {"training": {"optimizer": "adam", "learning_rate": 0.01}}, "fedyogi"),
    "share": Variant("multiclass", {"aggregation": {"largest_share": 0.22}}, "fedadam"),
    "bits64": Variant("discrete", {"aggregation": {"bits": 64}}, "fedbuff"),
    "schedules": Variant(
        "mlp",
        {
            "training": {"schedule": "linear", "warmup": 2, "local_updates": 4, "clip": 0.5},
            "aggregation": {"schedule": "cosine", "warmup": 2},
        },
        "fedadagrad",
    ),
}


class Combination(NamedTuple):
    """One run."""

    kind: Kind
    changes: Mapping[str, Any]
    quick: bool


def combinations() -> dict[str, Combination]:
    """Every run by the name under which its digest is kept; the quick ones have every strategy, rule and kind."""
    found = {}

    def add(name: str, kind: Kind, changes: Mapping[str, Any], strategy: str, rule: str, quick: bool) -> None:
        changed = {"network": kind.network, **deepcopy(dict(changes))}
        changed["aggregation"] = {**changed.get("aggregation", {}), "strategy": strategy, "combine": rule}
        found[name] = Combination(kind, changed, quick)

    for place, strategy in enumerate(STRATEGIES):
        for turn, rule in enumerate(COMBINE):
            for number, table in enumerate(TABLES):
                quick = turn == place % len(COMBINE) and number == place % len(TABLES)
                add(f"{strategy} {rule} {table}", KINDS[table], {}, strategy, rule, quick)
        for name, variant in VARIANTS.items():
            quick = strategy == variant.quick
            add(f"{strategy} mean {name}", KINDS[variant.kind], variant.changes, strategy, "mean", quick)
    return found


def digest_of(combination: Combination, hospitals: Hospitals) -> dict[str, Any]:
    """What is kept of a run.

    Returns:
        `sha256` of the final global state in its canonical bytes, and `sum` of its absolute values to 6 digits; where
        hospitals have tensors of their own also `own`, both of these. Of a run that is refused, `error`: the type's
        name.
    """
    try:
        settings = settings_from(combination.changes)
        final = final_weights(hospitals.of(combination.kind), settings, cohort_of(combination.kind))
    except (FedMedError, ValueError) as problem:
        return {"error": type(problem).__name__}
    shared = {name: tensor for name, tensor in final.items() if "/" not in name}
    own = {name: tensor for name, tensor in final.items() if "/" in name}
    return {**_digest(shared), **({"own": _digest(own)} if own else {})}


def _digest(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    total = sum(float(tensor.double().abs().sum()) for tensor in weights.values())
    return {"sha256": hashlib.sha256(to_bytes(weights)).hexdigest(), "sum": float(f"{total:.6g}")}


def probe() -> str:
    """SHA-256 of a small computation in float32: equal where torch and the processor are of the kind that was recorded."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows, truth, first, second = drawn(64, 9), drawn(64, 1), drawn(9, 6), drawn(6, 1)
    parts = [
        rows @ first,
        rows.exp(),
        rows.tanh(),
        torch.sigmoid(rows),
        torch.log_softmax(rows, dim=1),
        torch.conv2d(drawn(16, 1, 8, 8), drawn(4, 1, 3, 3), padding=1),
        torch.conv1d(drawn(16, 6, 5), drawn(4, 6, 2)),
        rows.double() @ first.double(),
    ]
    for _ in range(100):
        held = [tensor.requires_grad_() for tensor in (first, second)]
        loss = ((rows @ held[0]).tanh() @ held[1] - truth).square().mean()
        slopes = torch.autograd.grad(loss, held)
        first, second = (tensor.detach() - 0.05 * slope for tensor, slope in zip(held, slopes, strict=True))
    digest = hashlib.sha256(torch.__version__.encode())
    for part in [*parts, first, second]:
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def recorded() -> dict[str, Any]:
    """What `digests.json` holds: `probe`, and `runs`: name → what is kept."""
    content: dict[str, Any] = json.loads(DIGESTS.read_text(encoding="utf-8"))
    return content


def _lines() -> Iterator[str]:
    """The file, a line a run, so that a comparison of two versions names the runs that differ."""
    yield f'{{"probe": "{probe()}",\n"runs": {{\n'
    with tempfile.TemporaryDirectory() as folder:
        hospitals, lead = Hospitals(Path(folder)), ""
        for name, combination in combinations().items():
            yield f"{lead}{json.dumps(name)}: {json.dumps(digest_of(combination, hospitals))}"
            lead = ",\n"
    yield "\n}}\n"


if __name__ == "__main__":
    DIGESTS.write_text("".join(_lines()), encoding="utf-8")
