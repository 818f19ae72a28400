"""Every network: its state by name, where it starts, and that it starts from its generator alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmed.data.cohort import Cohort
from fedmed.errors import SettingsError
from fedmed.models.networks import (
    NETWORKS,
    InputShape,
    NetworkOptions,
    build_network,
    initial_weights,
    network_for,
    normalisation_names,
    outputs_of,
    state_names,
    state_of,
)
from fedmed.seeds import torch_generator
from fedmed.targets.target import Target
from fedmed.weights import flatten, is_finite, layout_of, size

SHAPES: dict[str, InputShape] = {"logistic": (5,), "mlp": (5,), "cnn": (2, 9, 11), "gru": (6, 3), "tcn": (6, 3)}
SMALL = {
    "mlp": {"hidden": (4, 3)},
    "cnn": {"channels": (4, 6), "normalisation": "batch"},
    "gru": {"hidden": (4, 3)},
    "tcn": {"channels": (4, 3)},
}

every_network = pytest.mark.parametrize("name", NETWORKS)


def options(name: str, **changes: object) -> NetworkOptions:
    return NetworkOptions.model_validate({"name": name, **SMALL.get(name, {}), **changes})


def built(name: str, outputs: int = 1, **changes: object) -> nn.Module:
    return build_network(SHAPES[name], outputs, options(name, **changes))


def start(network: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    return initial_weights(network, torch_generator(seed))


@every_network
@pytest.mark.parametrize("outputs", [1, 4])
def test_a_row_of_zeros_gives_zeros_at_the_start(name: str, outputs: int) -> None:
    network = built(name, outputs)
    logits = torch.func.functional_call(network, start(network), (torch.zeros(7, *SHAPES[name]),))
    assert logits.tolist() == [[0.0] * outputs] * 7  # every intercept starts at zero


@every_network
def test_the_start_depends_on_the_generator_alone(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = start(built(name))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second = start(built(name))
    assert torch.equal(flatten(first), flatten(second))
    assert is_finite(first)


@every_network
def test_another_generator_starts_elsewhere_but_for_a_convex_loss(name: str) -> None:
    network = built(name)
    assert torch.equal(flatten(start(network, 1)), flatten(start(network, 2))) == (name == "logistic")


@every_network
def test_the_weights_have_the_states_own_names_and_shapes(name: str) -> None:
    network = built(name)
    assert layout_of(start(network)) == layout_of(state_of(network))
    parameters, statistics = state_names(network)
    assert sorted([*parameters, *statistics]) == list(state_of(network))
    assert set(parameters) == {name for name, _ in network.named_parameters()}


@every_network
def test_a_network_that_was_built_holds_no_memory_of_others(name: str) -> None:
    assert all(bool((tensor == 0).all()) for tensor in state_of(built(name)).values())


@every_network
def test_every_parameter_bears_on_the_outputs(name: str) -> None:
    network = built(name, 2)
    generator = torch_generator(3)
    state = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in state_of(network).items()}
    parameters = [state[name].requires_grad_() for name in state_names(network).parameters]
    rows = torch.rand(3, *SHAPES[name], generator=generator)
    logits = torch.func.functional_call(network, state, (rows,))
    assert all(float(g.abs().sum()) > 0 for g in torch.autograd.grad(logits.square().sum(), parameters))


@every_network
def test_a_row_is_judged_by_itself_at_prediction(name: str) -> None:
    network = built(name).eval()
    state = start(network)
    rows = torch.rand(5, *SHAPES[name], generator=torch_generator(4))
    together = torch.func.functional_call(network, state, (rows,))
    one_by_one = torch.cat([torch.func.functional_call(network, state, (row.unsqueeze(0),)) for row in rows])
    assert torch.allclose(together, one_by_one, atol=1e-6)


@every_network
def test_gradients_row_by_row_are_those_of_each_row_alone(name: str) -> None:
    # What differentially private training asks for; batch normalisation mixes rows and cannot.
    network = built(name, **({"normalisation": "group"} if name == "cnn" else {}))
    generator = torch_generator(5)
    state = {name: torch.rand(tensor.shape, generator=generator) - 0.5 for name, tensor in state_of(network).items()}
    rows = torch.rand(3, *SHAPES[name], generator=generator)

    def loss(state: dict[str, Tensor], row: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(network, state, (row.unsqueeze(0),))
        return logits.square().sum()

    gradient = torch.func.grad(loss)
    at_once = torch.func.vmap(gradient, (None, 0))(state, rows)
    for place, row in enumerate(rows):
        for key, alone in gradient(state, row).items():
            assert torch.allclose(at_once[key][place], alone, atol=1e-4), key


@every_network
def test_layers_can_be_named_by_pattern(name: str) -> None:
    tops = {key.split(".")[0] for key in state_of(built(name))}
    assert tops == ({"weight", "bias"} if name == "logistic" else {"body", "head"})


def test_a_logistic_regression_has_a_weight_a_feature_and_starts_at_zero() -> None:
    weights = start(built("logistic"))
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"weight": (1, 5), "bias": (1,)}
    assert flatten(weights).tolist() == [0.0] * 6


@pytest.mark.parametrize("name", ["logistic", "mlp"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_images_and_series_are_flattened_for_networks_of_tables(name: str, shape: InputShape) -> None:
    network = build_network(shape, 2, options(name))
    generator = torch_generator(6)
    state = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in state_of(network).items()}
    rows = torch.rand(5, *shape, generator=generator)
    flat = build_network((math.prod(shape),), 2, options(name))
    assert torch.equal(
        torch.func.functional_call(network, state, (rows,)),
        torch.func.functional_call(flat, state, (rows.reshape(5, -1),)),
    )


def test_the_mlp_we_start_from_has_256_and_128_hidden_units() -> None:
    network = build_network((20,), 1, NetworkOptions(name="mlp"))
    shapes = {name: tuple(tensor.shape) for name, tensor in state_of(network).items() if name.endswith("weight")}
    assert shapes == {"body.1.weight": (256, 20), "body.3.weight": (128, 256), "head.weight": (1, 128)}
    assert size(state_of(network)) == 256 * 21 + 128 * 257 + 129


def test_an_mlp_starts_within_the_bound_of_he_with_intercepts_at_zero() -> None:
    weights = start(build_network((6,), 1, options("mlp", hidden=(200, 50))))
    first = weights["body.1.weight"]
    assert float(first.abs().max()) <= math.sqrt(6 / 6)
    assert float(first.abs().max()) > 0.98
    assert float(first.std()) == pytest.approx(1 / math.sqrt(3), rel=0.05)  # uniform on ±1
    assert 0.98 * math.sqrt(6 / 200) < float(weights["body.3.weight"].abs().max()) <= math.sqrt(6 / 200)
    assert all(bool((tensor == 0).all()) for name, tensor in weights.items() if name.endswith("bias"))


def test_convolutions_and_recurrent_layers_start_within_their_bounds() -> None:
    cnn = start(build_network((3, 8, 8), 1, options("cnn", channels=(64, 64))))
    assert 0.99 * math.sqrt(6 / 27) < float(cnn["body.0.weight"].abs().max()) <= math.sqrt(6 / 27)  # 3 · 3 · 3 inputs
    gru = start(build_network((4, 2), 1, options("gru", hidden=(100,))))
    assert 0.99 / 10 < float(gru["body.0.weight_hh_l0"].abs().max()) <= 1 / 10
    assert float(gru["body.0.bias_hh_l0"].abs().max()) == 0


def test_normalisation_starts_as_the_identity() -> None:
    weights = start(built("cnn"))
    assert {name: set(weights[f"body.1.{name}"].tolist()) for name in ("weight", "bias")} == {
        "weight": {1},
        "bias": {0},
    }
    assert set(weights["body.1.running_mean"].tolist()) == {0.0}
    assert set(weights["body.1.running_var"].tolist()) == {1.0}


def target(kind: str) -> Target:
    return Target.model_validate(
        {
            "binary": {"name": "ill", "column": "outcome", "positive": "> 0"},
            "multiclass": {"name": "stage", "kind": kind, "column": "s", "classes": {"1": "", "2": "", "3": ""}},
            "survival": {"name": "death", "kind": kind, "time": "t", "event": "e", "unit": "days", "horizon": 365},
        }[kind]
    )


@pytest.mark.parametrize(
    ("kind", "survival", "expected"),
    [
        ("binary", "cox", 1),
        ("multiclass", "cox", 3),
        ("survival", "cox", 1),
        ("survival", "discrete", 7),
        ("binary", "discrete", 1),
    ],
)
def test_outputs_follow_from_the_target(kind: str, survival: str, expected: int) -> None:
    assert outputs_of(target(kind), options("mlp", survival=survival, intervals=7)) == expected


def test_a_cohorts_network_has_its_features_and_outputs() -> None:
    cohort = Cohort.model_validate(
        {
            "name": "small",
            "target": target("multiclass").model_dump(),
            "columns": {
                "age": {"type": "integer", "range": [0, 100]},
                "sex": {"type": "category", "categories": {"0": "female", "1": "male"}},
            },
        }
    )
    assert layout_of(state_of(network_for(cohort, NetworkOptions())))["weight"].shape == (3, 3)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"name": "resnet"}, "logistic, mlp, cnn, gru, tcn, or package.module:Class"),
        ({"name": "os.path"}, "package.module:Class"),
        ({"name": "a.b:c.d"}, "package.module:Class"),
        ({"hidden": (0,)}, "hidden"),
        ({"channels": (4, 100_000)}, "channels"),
        ({"kernel": 1}, "kernel"),
        ({"normalisation": "layer"}, "normalisation"),
        ({"survival": "weibull"}, "survival"),
        ({"arguments": {"width": 3}}, "logistic takes none"),
        ({"name": "a:B", "arguments": {"width": math.nan}}, "finite"),
        ({"depth": 3}, "depth"),
    ],
)
def test_options_that_no_network_has_are_refused(bad: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        NetworkOptions.model_validate(bad)


def test_options_come_back_from_json_as_they_went() -> None:
    own = NetworkOptions.model_validate({"name": "a.b:C", "arguments": {"sizes": [1, 2], "rate": 0.5, "deep": True}})
    assert NetworkOptions.model_validate_json(own.model_dump_json()) == own


@pytest.mark.parametrize(("name", "shape"), [("cnn", (5,)), ("cnn", (1, 7, 8)), ("gru", (5,)), ("tcn", (3, 8, 8))])
def test_a_network_for_another_kind_of_input_is_refused(name: str, shape: InputShape) -> None:
    with pytest.raises(SettingsError, match="choose another network"):
        build_network(shape, 1, options(name))


def batch(network: nn.Module, state: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The state after one call in training mode."""
    given = {name: tensor.clone() for name, tensor in state.items()}
    torch.func.functional_call(network.train(), given, (rows,))
    return given


def test_batch_normalisation_updates_the_statistics_it_is_given() -> None:
    network = build_network((1, 8, 8), 1, options("cnn", channels=(2,)))
    state = start(network)
    rows = torch.rand(4, 1, 8, 8, generator=torch_generator(7))
    after = batch(network, state, rows)
    seen = torch.conv2d(rows, state["body.0.weight"], padding=1).transpose(0, 1).flatten(1)
    assert torch.allclose(after["body.1.running_mean"], 0.1 * seen.mean(dim=1), atol=1e-6)
    assert torch.allclose(after["body.1.running_var"], 0.9 + 0.1 * seen.var(dim=1), atol=1e-6)
    assert {name for name in state if not torch.equal(state[name], after[name])} == {
        "body.1.running_mean",
        "body.1.running_var",
    }


def test_a_call_leaves_the_network_as_it_was() -> None:
    network = built("cnn")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batch(network, start(network), torch.rand(4, *SHAPES["cnn"], generator=torch_generator(8)))
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_at_prediction_the_statistics_are_read_and_not_written() -> None:
    network = built("cnn").eval()
    state = start(network)
    rows = torch.rand(4, *SHAPES["cnn"], generator=torch_generator(9))
    given = {name: tensor.clone() for name, tensor in state.items()}
    first = torch.func.functional_call(network, given, (rows,))
    assert all(torch.equal(given[name], state[name]) for name in state)
    given["body.1.running_mean"] += 1.0
    assert not torch.equal(torch.func.functional_call(network, given, (rows,)), first)


def test_the_names_of_normalisation_are_those_of_batch_normalisation() -> None:
    state = {"weight", "bias", "running_mean", "running_var"}
    assert normalisation_names(built("cnn")) == {f"body.{place}.{name}" for place in (1, 5) for name in state}
    assert normalisation_names(built("cnn", normalisation="group")) == set()
    assert state_names(built("cnn")).statistics == tuple(
        f"body.{place}.{name}" for place in (1, 5) for name in ("running_mean", "running_var")
    )
    assert normalisation_names(nn.BatchNorm1d(3)) == state
