"""The one number that a hospital keeps to itself: where it lies, how strong its prior is, and that it always exists."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmed.errors import SettingsError
from fedmed.models.networks import NetworkOptions, build_network, initial_weights, state_names
from fedmed.seeds import torch_generator
from fedmed.training import personal
from fedmed.training.local import Problem, TrainingOptions, loss_of
from fedmed.training.losses import cross_entropy, log_loss
from fedmed.training.personal import PersonalOptions, personalise

WIDE = 1e6


def fit_shift(logits: Tensor, truth: Tensor, spread: float) -> float:
    """The shift of a model with one logit a row."""
    (shift,) = personal.fit_shift(logits.unsqueeze(1), truth, log_loss, spread)
    return shift


def shift_of(
    network: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor, options: PersonalOptions
) -> tuple[float, ...]:
    problem = Problem(network, log_loss, x, y, TrainingOptions())
    found = personalise(problem, weights, options, torch_generator(0), log_loss)
    assert all(found.state[name] is weights[name] for name in weights)
    return found.shift


def labels(positive: int, negative: int) -> Tensor:
    return torch.tensor([1.0] * positive + [0.0] * negative)


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (3, 1), (1, 9), (99, 1), (1, 10_000)])
def test_without_a_prior_the_shift_is_the_log_odds_of_the_hospitals_patients(positive: int, negative: int) -> None:
    y = labels(positive, negative)
    assert fit_shift(torch.zeros(len(y)), y, WIDE) == pytest.approx(math.log(positive / negative), abs=1e-6)


def test_a_model_that_is_right_on_the_whole_is_not_shifted() -> None:
    y = labels(1, 3)
    assert fit_shift(torch.full((4,), -math.log(3)), y, 1.0) == pytest.approx(0.0, abs=1e-7)


@given(
    st.lists(st.tuples(st.floats(-20, 20), st.sampled_from([0.0, 1.0])), max_size=30), st.sampled_from([0.1, 1.0, 10.0])
)
def test_the_slope_at_the_shift_is_zero(rows: list[tuple[float, float]], spread: float) -> None:
    z = torch.tensor([logit for logit, _ in rows], dtype=torch.float64)
    y = torch.tensor([label for _, label in rows], dtype=torch.float64)
    shift = fit_shift(z, y, spread)
    slope = float((torch.sigmoid(z + shift) - y).sum()) + shift / spread**2
    assert abs(slope) < 1e-6


def test_a_hospital_with_one_class_does_not_run_away() -> None:
    # ten positives at logit 0: 10 (1 - σ(b)) = b / 1; b is between 1 and 3
    shift = fit_shift(torch.zeros(10), labels(10, 0), 1.0)
    assert 1 < shift < 3
    assert 10 * (1 - 1 / (1 + math.exp(-shift))) == pytest.approx(shift)
    assert fit_shift(torch.zeros(10), labels(0, 10), 1.0) == pytest.approx(-shift)


def test_a_narrower_prior_keeps_the_shift_nearer_to_zero() -> None:
    shifts = [fit_shift(torch.zeros(10), labels(8, 2), spread) for spread in (0.1, 0.5, 1.0, WIDE)]
    assert shifts == sorted(shifts)
    assert shifts[0] < 0.1
    assert shifts[-1] == pytest.approx(math.log(4))


@pytest.mark.parametrize("logit", [-40.0, 40.0])
def test_a_model_that_is_far_off_is_brought_back(logit: float) -> None:
    y = labels(5, 5)
    assert fit_shift(torch.full((10,), logit), y, WIDE) == pytest.approx(-logit, abs=1e-3)


def test_no_rows_give_no_shift() -> None:
    assert fit_shift(torch.zeros(0), torch.zeros(0), 1.0) == 0.0


def test_a_hospital_that_wants_none_has_none() -> None:
    network = nn.Linear(1, 1)
    weights = {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.0])}
    x, y = torch.full((4, 1), -0.5), labels(3, 1)
    assert shift_of(network, weights, x, y, PersonalOptions(intercept=False)) == ()
    # logits 2 · -½ + 1 = 0: the log odds of the labels
    assert shift_of(network, weights, x, y, PersonalOptions(spread=WIDE)) == pytest.approx((math.log(3),), abs=1e-6)
    problem = Problem(network, log_loss, x, y, TrainingOptions())
    assert personalise(problem, weights, PersonalOptions(), torch_generator(0), None).shift == ()  # none makes sense


@pytest.mark.parametrize("spread", [0.0, -1.0, math.inf])
def test_a_spread_that_is_none_is_refused(spread: float) -> None:
    with pytest.raises(ValueError, match="spread"):
        PersonalOptions(spread=spread)


def test_of_several_classes_each_has_a_shift_to_the_hospitals_shares() -> None:
    # Without a prior softmax(b) is (1/2, 1/3, 1/6); only differences count, and the prior makes their sum 0.
    y = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 2.0])
    shift = personal.fit_shift(torch.zeros(6, 3), y, cross_entropy, 1e3)
    assert torch.softmax(torch.tensor(shift), 0).tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=1e-4)
    assert sum(shift) == pytest.approx(0.0, abs=1e-4)
    assert personal.fit_shift(torch.zeros(0, 3), torch.zeros(0), cross_entropy, 1.0) == (0.0, 0.0, 0.0)


NETWORK = build_network((1, 8, 8), 1, NetworkOptions(name="cnn", channels=(2,), normalisation="batch"))


def hospital() -> Problem:
    x = torch.randn(9, 1, 8, 8, generator=torch_generator(1)) + 1
    return Problem(NETWORK, log_loss, x, torch.arange(9).remainder(2).float(), TrainingOptions(batch_size=4))


def test_fine_tuning_moves_the_chosen_layers_alone_and_no_statistics() -> None:
    problem, start = hospital(), initial_weights(NETWORK, torch_generator(0))
    options = PersonalOptions(fine_tune=("head.*",), fine_tune_epochs=20, fine_tune_rate=0.2)
    own = personalise(problem, start, options, torch_generator(2), log_loss)
    assert {name for name in start if not torch.equal(own.state[name], start[name])} == {"head.weight", "head.bias"}
    assert own.shift != ()
    again = personalise(problem, start, options, torch_generator(2), log_loss)
    assert all(torch.equal(own.state[name], again.state[name]) for name in start)
    assert own.shift == again.shift
    assert loss_of(problem, own.state) < loss_of(problem, start)


def test_all_layers_may_be_tuned_and_statistics_stay() -> None:
    start = initial_weights(NETWORK, torch_generator(0))
    own = personalise(hospital(), start, PersonalOptions(fine_tune=("*",)), torch_generator(2), log_loss)
    for name in state_names(NETWORK).statistics:
        assert torch.equal(own.state[name], start[name])
    assert not torch.equal(own.state["body.0.weight"], start["body.0.weight"])


def test_a_layer_to_tune_that_is_none_is_an_error() -> None:
    start = initial_weights(NETWORK, torch_generator(0))
    with pytest.raises(SettingsError, match=r"personal.fine_tune: tail.\* fits no parameter .* body.0.weight"):
        personalise(hospital(), start, PersonalOptions(fine_tune=("tail.*",)), torch_generator(2), log_loss)
