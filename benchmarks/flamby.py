"""FedMed beside FLamby's published figures and beside local and pooled models: every table of its section in the docs.

    python benchmarks/flamby.py                      compute what is not in results/flamby.json yet, and write the page
    python benchmarks/flamby.py --only heart         only the rows whose names begin so
    python benchmarks/flamby.py --quick              compute a small slice again, and compare it with what is committed

The raw files of the public cohorts lie in FEDMED_TEST_DATA (default ../shared/data, beside the project). A row is kept
under the digest of its options: what is there is not computed again, what was changed is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flamby_protocol as protocol
import own_brca
import own_heart
import three_ways
import torch
from flamby_page import write_page

from fedmed.evaluation.survival import c_index

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FEDMED_TEST_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results" / "flamby.json"
SEEDS = (42, 43, 44, 45, 46)
MORE_SEEDS = tuple(range(42, 72))
HEART_SPLITS = tuple(range(101, 113))
HEART_REPEATS, SPLIT_REPEATS, BRCA_REPEATS = 3, 1, 1
QUICK = ("fidelity/majority", "fidelity/FedAvg", "three ways/eicu_demo/2026")


class Task(NamedTuple):
    """One row: its name, everything that its figures follow from, and how they are computed."""

    name: str
    options: Mapping[str, Any]
    run: Callable[[], dict[str, Any]]

    @property
    def digest(self) -> str:
        """SHA-256 of the options."""
        return hashlib.sha256(json.dumps(self.options, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fidelity_tasks(seeds: Sequence[int] = SEEDS) -> list[Task]:
    """FLamby's own protocol."""
    common = {"seeds": list(seeds), "batch": protocol.BATCH, "updates": protocol.UPDATES, "rounds": protocol.ROUNDS}

    def runs(train: Callable[[int], Mapping[str, Any]]) -> dict[str, Any]:
        data = protocol.heart_disease()
        return {"seeds": {str(seed): rounded(protocol.accuracies(train(seed), data)) for seed in seeds}}

    data = protocol.heart_disease()
    tasks = [Task("fidelity/majority", {}, lambda: {"sites": rounded(protocol.majority(data))})]
    for name, method in protocol.METHODS.items():
        options = common | {"rate": method.rate, "server": method.options.model_dump()}
        tasks.append(Task(f"fidelity/{name}", options, partial(runs, partial(protocol.federated, method, data))))
    for name, hand_on in (("Cyclic", False), ("Cyclic, handed on", True)):
        options = common | {"rate": protocol.CYCLIC_RATE, "hand_on": hand_on}
        tasks.append(Task(f"fidelity/{name}", options, partial(runs, partial(protocol.cyclic, data, hand_on=hand_on))))
    adam = {"seeds": list(seeds), "batch": protocol.BATCH, "rate": protocol.ADAM_RATE, "epochs": protocol.EPOCHS}
    joined = protocol.pooled(data).train
    for number, site in enumerate(protocol.SITES):
        train = partial(protocol.alone, data[site].train)
        tasks.append(Task(f"fidelity/Local {number}", adam | {"site": site}, partial(runs, train)))
    order = {"order": protocol.POOLED_ORDER}
    tasks.append(Task("fidelity/Pooled Training", adam | order, partial(runs, partial(protocol.alone, joined))))
    return tasks


def heart_tasks() -> list[Task]:
    """FedMed's protocol on FLamby's split, and on others of the same kind."""
    common = {
        "candidates": own_heart.HEART_CANDIDATES,
        "penalties": own_heart.ALONE_PENALTIES,
        "training": own_heart.HEART_TRAINING.model_dump(),
        "cohort": own_heart.heart_cohort().digest,
    }
    tasks = [Task("heart/FLamby's split", common | {"repeats": HEART_REPEATS, "seeds": SEEDS}, heart_on_flambys_split)]
    for split in HEART_SPLITS:
        options = common | {"repeats": SPLIT_REPEATS, "split": split}
        tasks.append(Task(f"heart/split {split}", options, partial(heart_on_split, split)))
    return tasks


def heart_on_flambys_split() -> dict[str, Any]:
    """Chosen once, trained with five seeds; intervals and calibration of the first."""
    first = own_heart.score_heart(protocol.SPLIT_SEED, HEART_REPEATS, SEEDS[0])
    models, seeds = first.models, {}
    for seed in SEEDS:
        if seed != SEEDS[0]:
            models = own_heart.retrain(protocol.SPLIT_SEED, first.choice, seed)
        seeds[str(seed)] = {name: rounded(own_heart.accuracies_of(m).values()) for name, m in models.items()}
    return {
        "chosen": first.choice.candidate._asdict(),
        "penalties": first.choice.penalties,
        "inner log loss": {str(tuple(c)): round(loss, 4) for c, loss in first.choice.losses.items()},
        "seeds": seeds,
        "mean": {name: str(own_heart.mean_interval(m, SEEDS[0])) for name, m in first.models.items()},
        "report": {name: own_heart.report_of(first.models[name], SEEDS[0]) for name in ("federated", "alone")},
    }


def heart_on_split(split: int) -> dict[str, Any]:
    """The whole procedure on another split."""
    scored = own_heart.score_heart(split, SPLIT_REPEATS, SEEDS[0])
    accuracies = {name: rounded(own_heart.accuracies_of(m).values()) for name, m in scored.models.items()}
    return {"chosen": scored.choice.candidate._asdict(), "accuracy": accuracies}


def brca_tasks() -> list[Task]:
    """FedMed's protocol on FLamby's TCGA-BRCA split: the seed is that of the inner folds."""
    common = {
        "candidates": own_brca.CANDIDATES,
        "training": own_brca.TRAINING.model_dump(),
        "aggregation": own_brca.AGGREGATION.model_dump(),
        "repeats": BRCA_REPEATS,
    }
    return [Task(f"brca/{seed}", common | {"seed": seed}, partial(brca, seed)) for seed in SEEDS]


def brca(seed: int) -> dict[str, Any]:
    """Choose on inner folds, train on all training rows, score the test rows."""
    divided = own_brca.brca_rows(DATA)
    choice = own_brca.choose(divided.train, BRCA_REPEATS, seed)
    federated = own_brca.fit(divided, choice.candidate)
    pooled = own_brca.fit(divided, choice.candidate, pool=True)
    sites = [c_index(federated.risk[region], federated.labels[region]) for region in federated.risk]
    return {
        "chosen": choice.candidate._asdict(),
        "inner": {str(tuple(c)): round(value, 4) for c, value in choice.c_indices.items()},
        "c_index": round(c_index(*federated.pooled()), 4),
        "interval": str(own_brca.c_interval(*federated.pooled(), seed)),
        "sites": rounded(sites),
        "pooled": round(c_index(*pooled.pooled()), 4),
        "events": {"train": own_brca.events(divided.train), "test": own_brca.events(divided.test)},
    }


def three_ways_tasks() -> list[Task]:
    """Federated, pooled and local models of three cohorts."""
    tasks = []
    for name, study in three_ways.STUDIES.items():
        recipe = study.recipe
        options = {
            "model": recipe.network.model_dump(),
            "training": recipe.training.model_dump(),
            "aggregation": recipe.aggregation.model_dump(),
            "penalties": study.penalties,
        }
        for seed in three_ways.SEEDS:
            run = partial(three, name, seed)
            tasks.append(Task(f"three ways/{name}/{seed}", options | {"seed": seed}, run))
    return tasks


def three(name: str, seed: int) -> dict[str, Any]:
    """One split of one cohort."""
    told, study = three_ways.tables(name, DATA), three_ways.STUDIES[name]
    return {way: three_ways.figures(three_ways.fit(told, study, seed, way)) for way in three_ways.WAYS}


def rounded(values: Iterable[float]) -> list[float]:
    """In four decimals."""
    return [round(float(value), 4) for value in values]


def more_seeds() -> list[Task]:
    """FLamby's own protocol with more seeds than it was published with."""
    tasks = {task.name: task for task in fidelity_tasks(MORE_SEEDS)}
    return [tasks[f"fidelity/{name}"]._replace(name=f"more seeds/{name}") for name in ("FedAvg", "FedAdam")]


def all_tasks() -> list[Task]:
    """Every row, in the order of the page."""
    return [*fidelity_tasks(), *more_seeds(), *heart_tasks(), *brca_tasks(), *three_ways_tasks()]


def committed() -> dict[str, Any]:
    """The rows that have been computed."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]) if RESULTS.exists() else {}


def keep(rows: Mapping[str, Any]) -> None:
    """Write the rows, whole or not at all."""
    content = {"command": "python benchmarks/flamby.py", "rows": rows}
    partial_file = RESULTS.with_suffix(".partial")
    partial_file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial_file.replace(RESULTS)


def compute(tasks: Iterable[Task], *, again: bool = False) -> None:
    """Compute the rows that are not there under the present options, and keep each as soon as it is there."""
    for task in tasks:
        rows = committed()
        if not again and rows.get(task.name, {}).get("digest") == task.digest:
            continue
        began = time.process_time()
        result = task.run()
        seconds = round(time.process_time() - began, 1)
        rows[task.name] = {"digest": task.digest, "seconds": seconds, "result": result}
        order = {name: place for place, name in enumerate(task.name for task in all_tasks())}
        keep(dict(sorted((item for item in rows.items() if item[0] in order), key=lambda item: order[item[0]])))
        print(f"{task.name}: {seconds:.0f} s", flush=True)


def compare(tasks: Iterable[Task]) -> int:
    """Compute some rows again; how many differ from what is committed."""
    rows, different = committed(), 0
    for task in tasks:
        same = json.loads(json.dumps(task.run())) == rows[task.name]["result"]
        different += not same
        print(f"{task.name}: {'as committed' if same else 'DIFFERENT from what is committed'}")
    return different


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="compute only rows whose names begin so")
    parser.add_argument("--quick", action="store_true", help="compute a small slice again and compare")
    parser.add_argument("--again", action="store_true", help="compute rows again that are there")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [task for task in all_tasks() if task.name.startswith(tuple(chosen.only))]
    if chosen.quick:
        return compare([task for task in tasks if task.name in QUICK])
    compute(tasks, again=chosen.again)
    write_page(committed())
    return 0


if __name__ == "__main__":
    sys.exit(main())
