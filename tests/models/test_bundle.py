"""A saved model: what comes back, what it computes, and which folder is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedmed.data.cohort import Cohort
from fedmed.errors import FedMedError, MessageRefused, WorkspaceError
from fedmed.models.bundle import ModelBundle, ModelDescription, expected_layout, load_bundle, predictions
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions, initial_weights, network_for
from fedmed.seeds import torch_generator
from fedmed.targets.target import Target
from fedmed.weights import Layout, sha256, to_bytes

SMALL = Cohort.model_validate(
    {
        "name": "small",
        "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
        "columns": {
            "age": {"type": "integer", "range": [0, 100]},
            "sex": {"type": "category", "categories": {"0": "female", "1": "male"}},
        },
    }
)
ROWS = pd.DataFrame({"age": [60.0, 50.0], "sex": ["1", "0"]})
WEIGHTS = {"weight": torch.tensor([[2.0, -1.0, 1.0]]), "bias": torch.tensor([-3.0])}


def bundle(weights: dict[str, torch.Tensor] = WEIGHTS) -> ModelBundle:
    description = ModelDescription(
        cohort=SMALL,
        network=NetworkOptions(name="logistic"),
        statistics=InputStatistics(mean={"age": 50.0}, deviation={"age": 10.0}),
        run="r",
        round=3,
        weights=sha256(to_bytes(weights)),
    )
    return ModelBundle(description, weights)


def sigmoid(x: float) -> float:
    return 1 / (1 + 2.718281828459045**-x)


def test_predictions_by_hand() -> None:
    # 2 · 1 + 1 (male) - 3 = 0; 2 · 0 - 1 (female) - 3 = -4
    assert bundle().predictions(ROWS).tolist() == pytest.approx([0.5, sigmoid(-4)])
    assert bundle().predictions(ROWS, shift=4.0).tolist() == pytest.approx([sigmoid(4), 0.5])
    assert bundle().predictions(ROWS.head(0)).shape == (0,)
    assert bundle().encode(ROWS).tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_a_saved_model_comes_back_and_computes_the_same(tmp_path: Path) -> None:
    bundle().save(tmp_path / "model")
    loaded = load_bundle(tmp_path / "model")
    assert loaded.description == bundle().description
    assert loaded.predictions(ROWS).tolist() == bundle().predictions(ROWS).tolist()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "weights.safetensors"]


def target(kind: str) -> Target:
    return Target.model_validate(
        {
            "multiclass": {"name": "stage", "kind": kind, "column": "s", "classes": {"1": "", "2": ""}},
            "survival": {"name": "death", "kind": kind, "time": "t", "event": "e", "unit": "days", "horizon": 365},
        }[kind]
    )


def test_several_classes_have_a_probability_each() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])
    said = predictions(logits, target("multiclass"), NetworkOptions())
    np.testing.assert_allclose(said, [[0.25, 0.75], [0.8, 0.2]], rtol=1e-6)
    shifted = predictions(logits, target("multiclass"), NetworkOptions(), shift=[math.log(3), 0.0])
    np.testing.assert_allclose(shifted, [[0.5, 0.5], [12 / 13, 1 / 13]], rtol=1e-6)


def test_survival_is_a_hazard_or_a_curve() -> None:
    hazards = predictions(torch.tensor([[0.5], [-1.0]]), target("survival"), NetworkOptions(), shift=2.0)
    assert hazards.tolist() == [0.5, -1.0]  # a shift multiplies everybody's hazard, and changes no order
    options = NetworkOptions(survival="discrete", intervals=2)
    curves = predictions(torch.tensor([[math.log(1 / 3), 0.0]]), target("survival"), options)
    np.testing.assert_allclose(curves, [[3 / 4, 3 / 8]], rtol=1e-6)


def test_a_model_of_images_comes_back_with_its_running_statistics(tmp_path: Path) -> None:
    cohort = Cohort.model_validate(
        {
            "name": "x_rays",
            "target": SMALL.target.model_dump(),
            "columns": {"image": {"type": "image", "shape": [8, 8]}},
        }
    )
    options = NetworkOptions(name="cnn", channels=(2,), normalisation="batch")
    weights = initial_weights(network_for(cohort, options), torch_generator(1))
    weights["body.1.running_mean"] += 0.5
    description = ModelDescription(
        cohort=cohort,
        network=options,
        statistics=InputStatistics(mean={"image": 0.5}, deviation={"image": 0.25}),
        run="r",
        round=1,
        weights=sha256(to_bytes(weights)),
    )
    ModelBundle(description, weights).save(tmp_path)
    loaded = load_bundle(tmp_path)
    assert loaded.weights["body.1.running_mean"].tolist() == [0.5, 0.5]
    rows = pd.DataFrame({"image": [bytes(range(64)), bytes(64)]})
    alone = [loaded.predictions(rows.iloc[[place]])[0] for place in (0, 1)]
    assert loaded.predictions(rows).tolist() == pytest.approx(alone)  # rows are judged by themselves
    assert alone[0] != alone[1]


def test_the_expected_layout_follows_from_the_description() -> None:
    assert expected_layout(bundle().description) == {"bias": Layout("F32", (1,)), "weight": Layout("F32", (1, 3))}


@pytest.mark.parametrize("missing", ["model.json", "weights.safetensors"])
def test_half_a_model_is_none(missing: str, tmp_path: Path) -> None:
    bundle().save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(WorkspaceError, match="no model here yet"):
        load_bundle(tmp_path)


def test_weights_that_the_description_does_not_name_are_refused(tmp_path: Path) -> None:
    bundle().save(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(to_bytes({**WEIGHTS, "bias": torch.tensor([3.0])}))
    with pytest.raises(MessageRefused, match=r"not the weights that model\.json names"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "weights",
    [
        {"weight": torch.zeros(1, 4), "bias": torch.zeros(1)},
        {"weight": torch.zeros(1, 3)},
        {"weight": torch.full((1, 3), float("nan")), "bias": torch.zeros(1)},
    ],
    ids=["another shape", "a name less", "NaN"],
)
def test_weights_that_do_not_fit_the_network_are_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    bundle(weights).save(tmp_path)
    with pytest.raises(MessageRefused):
        load_bundle(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"run": 1})])
def test_a_description_that_is_none_is_an_error_of_fedmeds_own(content: str, tmp_path: Path) -> None:
    bundle().save(tmp_path)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(FedMedError, match=r"model\.json"):
        load_bundle(tmp_path)
