"""The section on FLamby says what its results say, and the results are what the code computes."""

from __future__ import annotations

import json

import flamby
import flamby_page
import flamby_protocol as protocol
import numpy as np
import pytest
import three_ways
import torch
from folds import FOLDS, folds
from in_memory import Recipe, joined, last_round
from public_data import real_files

from fedmed.models.networks import NetworkOptions, build_network
from fedmed.targets.kind import TARGET
from fedmed.training.local import Problem, TrainingOptions
from fedmed.training.losses import log_loss

torch.set_num_threads(1)  # on problems this small, torch's own threads only wait for each other
PUBLISHED = json.loads(flamby_page.PUBLISHED.read_text(encoding="utf-8"))["fed_heart_disease"]


@pytest.fixture(scope="module")
def data():
    return protocol.heart_disease()


def test_rows_and_split_are_flambys(data):
    told = [(len(h.train.labels), len(h.test.labels), int(h.test.labels.sum())) for h in data.values()]
    assert told == [(199, 104, 48), (172, 89, 33), (30, 16, 15), (85, 45, 35)]
    assert all(half.train.features.shape[1] == 13 for half in data.values())


def test_the_majority_of_each_site_beats_published_averaging(data):
    assert protocol.majority(data) == pytest.approx([56 / 104, 56 / 89, 15 / 16, 35 / 45])
    assert np.mean(protocol.majority(data)) > np.mean([figures[:4] for figures in PUBLISHED["FedAvg"].values()])


@pytest.mark.parametrize("name", ["FedAvg", "FedAdam"])
def test_one_seed_meets_the_published_figures_and_is_the_committed_one(data, name):
    found = flamby.rounded(protocol.accuracies(protocol.federated(protocol.METHODS[name], data, 42), data))
    assert found == pytest.approx(PUBLISHED[name]["42"], abs=6e-5)
    assert found == flamby.committed()[f"fidelity/{name}"]["result"]["seeds"]["42"]


def test_starting_weights_are_those_of_torch_after_the_seed():
    state = torch.get_rng_state()
    torch.manual_seed(42)
    made = torch.nn.Linear(13, 1)
    torch.set_rng_state(state)
    ours = protocol.start(42)
    assert torch.equal(ours["weight"], made.weight)
    assert torch.equal(ours["bias"], made.bias)


def test_batches_are_those_of_torchs_data_loaders():
    state = torch.get_rng_state()
    rows = [torch.utils.data.TensorDataset(torch.arange(10.0)), torch.utils.data.TensorDataset(torch.arange(7.0))]
    loaders = [torch.utils.data.DataLoader(each, batch_size=protocol.BATCH, shuffle=True) for each in rows]
    iterators = [iter(loader) for loader in loaders]
    torch.manual_seed(7)
    drawn = [[], []]
    for site in (0, 1, 0):
        for _ in range(protocol.UPDATES):
            batch = next(iterators[site], None)
            if batch is None:
                iterators[site] = iter(loaders[site])
                batch = next(iterators[site])
            drawn[site] += batch[0].long().tolist()
    torch.set_rng_state(state)
    ours = protocol.orders(7, [10, 7], [0, 1, 0])
    for site in (0, 1):
        told = torch.cat(ours[site]).tolist()
        assert told[: len(drawn[site])] == drawn[site]


def test_every_row_that_the_page_needs_is_kept_under_its_present_options():
    kept = {name: row["digest"] for name, row in flamby.committed().items()}
    assert kept == {task.name: task.digest for task in flamby.all_tasks()}


def test_the_page_is_written_from_the_results():
    text = flamby_page.PAGE.read_text(encoding="utf-8")
    section = text.partition(flamby_page.BEGIN)[2].partition(flamby_page.END)[0]
    assert section.strip() == flamby_page.page(flamby.committed()).strip()


def test_folds_deal_out_every_row_once_and_spread_a_class():
    import pandas as pd

    rows = {"a": pd.DataFrame({TARGET: [0] * 10 + [1] * 5, "row": range(15)}), "b": pd.DataFrame({TARGET: [1] * 5})}
    pairs = list(folds(rows, repeats=1, seed=0))
    assert len(pairs) == FOLDS
    assert sorted(row for _, held in pairs for row in held["a"]["row"]) == list(range(15))
    assert all(held["a"][TARGET].tolist().count(1) == 1 and len(held["b"]) == 1 for _, held in pairs)


def test_a_federation_of_one_member_is_plain_training():
    features, labels = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, 0.0])
    options = TrainingOptions(rounds=2, batch_size=2, learning_rate=1.0, l2=0.0)
    network = build_network((1,), 1, NetworkOptions(name="logistic"))
    problems = {"a": Problem(network, log_loss, features, labels, options)}
    recipe = Recipe(NetworkOptions(name="logistic"), options)
    first = 0.5  # of the slope at zero, (1 - 1/2) · 1
    second = first + 1 / (1 + np.exp(first))
    assert last_round(joined(problems), recipe).state["weight"].item() == pytest.approx(second, abs=1e-5)


def test_one_split_of_a_real_cohort_is_the_committed_one():
    real_files("eicu_demo")
    told, study = three_ways.tables("eicu_demo", flamby.DATA), three_ways.STUDIES["eicu_demo"]
    found = json.loads(json.dumps(three_ways.figures(three_ways.fit(told, study, 2026, "pooled"))))
    assert found == flamby.committed()["three ways/eicu_demo/2026"]["result"]["pooled"]
