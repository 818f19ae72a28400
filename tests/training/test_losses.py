"""Every loss by hand and against an implementation of somebody else's; and which target it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss as log_loss_of_sklearn
from torch import Tensor
from torch.nn import functional

from fedmed.errors import SettingsError
from fedmed.models.networks import NetworkOptions, outputs_of
from fedmed.seeds import numpy_generator, torch_generator
from fedmed.targets.intervals import survival_curve
from fedmed.targets.target import Target
from fedmed.training.losses import (
    LOSSES,
    LossOptions,
    cox,
    cross_entropy,
    discrete_hazard,
    fitting_losses,
    focal,
    log_loss,
    loss_for,
)

TARGETS = {
    "binary": Target(name="ill", column="outcome", positive="> 0"),
    "multiclass": Target(name="stage", kind="multiclass", column="s", classes={"1": "", "2": "", "3": ""}),
    "survival": Target(name="death", kind="survival", time="t", event="e", unit="days", horizon=10),
}


def logits(rows: int, outputs: int, seed: int = 1, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(rows, outputs, generator=torch_generator(seed), dtype=torch.float64)


def classes(rows: int, count: int, seed: int = 2) -> Tensor:
    return torch.randint(count, (rows,), generator=torch_generator(seed)).double()


def survivals(rows: int, seed: int = 3, latest: int = 12) -> Tensor:
    """Durations of whole days, so that many are equal, and whether the event came."""
    generator = torch_generator(seed)
    days = torch.randint(1, latest + 1, (rows,), generator=generator)
    return torch.stack([days, torch.randint(2, (rows,), generator=generator)], dim=1).double()


# Log loss and cross entropy


def test_the_log_loss_is_that_of_others() -> None:
    z, y = logits(50, 1), classes(50, 2)
    assert log_loss(z, y).item() == pytest.approx(functional.binary_cross_entropy_with_logits(z[:, 0], y).item())
    assert log_loss(z, y).item() == pytest.approx(log_loss_of_sklearn(y, torch.sigmoid(z[:, 0])))


def test_the_cross_entropy_is_that_of_others() -> None:
    z, y = logits(50, 4), classes(50, 4)
    assert cross_entropy(z, y).item() == pytest.approx(functional.cross_entropy(z, y.long()).item())
    assert cross_entropy(z, y).item() == pytest.approx(log_loss_of_sklearn(y, torch.softmax(z, dim=1), labels=range(4)))


def test_weights_of_classes_multiply_the_rows_and_the_mean_is_over_rows() -> None:
    z, y, w = logits(50, 3), classes(50, 3), torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
    others = functional.cross_entropy(z, y.long(), weight=w, reduction="sum").item() / 50
    assert cross_entropy(z, y, w).item() == pytest.approx(others)
    # ln 2 of either class, weighed 1 and 3: a mean of 2 ln 2
    two = log_loss(torch.zeros(2, 1), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))
    assert two.item() == pytest.approx(2 * math.log(2))


def test_a_class_that_is_given_nearly_no_probability_costs_its_logit() -> None:
    assert log_loss(torch.tensor([[-1000.0]]), torch.tensor([1.0])).item() == 1000
    assert cross_entropy(torch.tensor([[0.0, 1000.0]]), torch.tensor([0.0])).item() == 1000


# Focal loss


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_the_formula_of_lin(gamma: float) -> None:
    z, y, w = logits(40, 3), classes(40, 3), np.array([1.0, 2.0, 0.25])
    shares = np.exp(z.numpy()) / np.exp(z.numpy()).sum(axis=1, keepdims=True)
    p, own = shares[np.arange(40), y.long().numpy()], w[y.long().numpy()]
    expected = np.mean(-own * (1 - p) ** gamma * np.log(p))
    assert focal(z, y, gamma, torch.tensor(w)).item() == pytest.approx(expected)
    z, y = logits(40, 1), classes(40, 2)
    positive = 1 / (1 + np.exp(-z[:, 0].numpy()))
    p = np.where(y.numpy() == 1, positive, 1 - positive)
    assert focal(z, y, gamma).item() == pytest.approx(np.mean(-((1 - p) ** gamma) * np.log(p)))


def test_focal_without_focus_is_the_cross_entropy() -> None:
    z, y = logits(30, 4), classes(30, 4)
    assert focal(z, y, gamma=0.0).item() == pytest.approx(cross_entropy(z, y).item())
    assert focal(z[:, :1], y.clamp(max=1), gamma=0.0).item() == pytest.approx(log_loss(z[:, :1], y.clamp(max=1)).item())


def test_focal_with_two_logits_is_that_of_their_difference() -> None:
    z, y = logits(30, 2), classes(30, 2)
    assert focal(z, y, 2.0).item() == pytest.approx(focal(z[:, 1:] - z[:, :1], y, 2.0).item())


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_far_out_and_so_is_its_gradient(outputs: int, gamma: float) -> None:
    z = torch.full((2, outputs), -200.0)
    z[1] = 200.0
    z[:, 0] *= -1
    z.requires_grad_()
    loss = focal(z, torch.tensor([0.0, 1.0]), gamma)
    (gradient,) = torch.autograd.grad(loss, z)
    assert math.isfinite(loss.item())
    assert bool(torch.isfinite(gradient).all())


# Cox


def cox_by_definition(eta: np.ndarray, labels: np.ndarray) -> float:
    """The negative log partial likelihood, event by event, with the risk set written out."""
    total = 0.0
    events = [row for row in range(len(eta)) if labels[row, 1] == 1]
    for row in events:
        at_risk = [other for other in range(len(eta)) if labels[other, 0] >= labels[row, 0]]
        total += math.log(sum(math.exp(eta[other]) for other in at_risk)) - eta[row]
    return total / len(events)


def test_cox_by_hand() -> None:
    # day 1: an event, three at risk; day 2: two events, and both rows of that day at risk for either
    eta = torch.log(torch.tensor([[1.0], [2.0], [3.0]]))
    labels = torch.tensor([[1.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    expected = (math.log(6 / 1) + math.log(5 / 2) + math.log(5 / 3)) / 3
    assert cox(eta, labels).item() == pytest.approx(expected)


def test_one_who_is_censored_on_the_day_of_an_event_is_at_risk_for_it() -> None:
    labels = torch.tensor([[5.0, 0.0], [5.0, 1.0]])
    assert cox(torch.zeros(2, 1), labels).item() == pytest.approx(math.log(2))
    assert cox(torch.zeros(2, 1), labels.flip(0)).item() == pytest.approx(math.log(2))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12))
def test_cox_is_its_definition_with_ties(seed: int, rows: int, latest: int) -> None:
    eta, labels = logits(rows, 1, seed), survivals(rows, seed, latest)
    labels[0, 1] = 1
    assert cox(eta, labels).item() == pytest.approx(cox_by_definition(eta[:, 0].numpy(), labels.numpy()), rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(-50, 50))
def test_cox_knows_only_ratios_of_hazards_and_the_order_of_times(seed: int, shift: float) -> None:
    eta, labels = logits(20, 1, seed), survivals(20, seed)
    loss = cox(eta, labels).item()
    shuffled = torch.randperm(20, generator=torch_generator(seed))
    assert cox(eta + shift, labels).item() == pytest.approx(loss, abs=1e-9)
    assert cox(eta[shuffled], labels[shuffled]).item() == pytest.approx(loss, abs=1e-9)
    assert cox(eta, torch.stack([labels[:, 0] ** 2, labels[:, 1]], dim=1)).item() == pytest.approx(loss, abs=1e-9)


def test_cox_finds_the_effect_of_6_mercaptopurine() -> None:
    # Freireich et al. 1963, weeks of remission of 42 children; Cox 1972 analysed them. With Breslow's ties, R's
    # coxph gives a coefficient of 1.509 for placebo, and a log partial likelihood of -93.98 without it.
    treated = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    treated_censored = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    labels = torch.tensor([[t, 1] for t in treated] + [[t, 0] for t in treated_censored] + [[t, 1] for t in placebo])
    group = torch.tensor([[0.0]] * 21 + [[1.0]] * 21, dtype=torch.float64)
    labels = labels.double()
    assert 30 * cox(0 * group, labels).item() == pytest.approx(93.985, abs=0.001)
    best = minimize_scalar(lambda beta: cox(beta * group, labels).item(), bounds=(0, 3), method="bounded")
    assert best.x == pytest.approx(1.509, abs=0.001)


def test_a_batch_without_an_event_tells_nothing() -> None:
    eta = torch.tensor([[1.0], [2.0]], requires_grad=True)
    loss = cox(eta, torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, eta)[0].tolist() == [[0.0], [0.0]]


def test_cox_is_finite_for_hazards_that_no_exponential_could_hold() -> None:
    eta = torch.tensor([[-500.0], [500.0], [400.0]], requires_grad=True)
    loss = cox(eta, torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]))
    assert loss.item() == pytest.approx((1000 + 0 + 0) / 3)
    gradient = torch.autograd.grad(loss, eta)[0]
    assert gradient.flatten().tolist() == pytest.approx([-1 / 3, 1 / 3, 0.0], abs=1e-5)


def test_the_gradient_of_cox_is_what_small_changes_say() -> None:
    labels = survivals(12)
    assert torch.autograd.gradcheck(lambda eta: cox(eta, labels), (logits(12, 1).requires_grad_(),))


# Discrete time


def test_discrete_hazards_by_hand() -> None:
    # Four intervals of 1 day. Hazards of 1/2, 1/3, 1/4, 1/5.
    hazards = torch.tensor([1 / 2, 1 / 3, 1 / 4, 1 / 5], dtype=torch.float64)
    z = torch.logit(hazards).unsqueeze(0)

    def likelihood(duration: float, event: int) -> float:
        return math.exp(-discrete_hazard(z, torch.tensor([[duration, event]]).double(), horizon=4).item())

    assert likelihood(0.5, 1) == pytest.approx(1 / 2)
    assert likelihood(1.0, 1) == pytest.approx(1 / 2)  # an interval holds its end
    assert likelihood(1.1, 1) == pytest.approx(1 / 2 * 1 / 3)
    assert likelihood(4.0, 1) == pytest.approx(1 / 2 * 2 / 3 * 3 / 4 * 1 / 5)
    assert likelihood(4.1, 1) == pytest.approx(1 / 2 * 2 / 3 * 3 / 4 * 4 / 5)  # an event past the horizon
    assert likelihood(9.0, 0) == likelihood(4.1, 1)
    assert likelihood(1.4, 0) == pytest.approx(1 / 2)  # censored before the middle of the second interval
    assert likelihood(1.5, 0) == pytest.approx(1 / 2 * 2 / 3)  # and from its middle on
    assert likelihood(0.4, 0) == 1


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_the_probabilities_of_all_that_can_happen_sum_to_one(seed: int, intervals: int) -> None:
    z = logits(1, intervals, seed).expand(intervals, -1)
    ends = torch.arange(1, intervals + 1).double() * 10 / intervals
    events = torch.stack([ends, torch.ones(intervals)], dim=1)
    each = [math.exp(-discrete_hazard(z[:1], row.unsqueeze(0), horizon=10).item()) for row in events]
    assert sum(each) + survival_curve(z[:1])[0, -1].item() == pytest.approx(1)


def test_without_inputs_the_best_hazards_are_those_of_the_life_table() -> None:
    # 10 at risk, 2 events in the first interval, one censored at its end; 7 at risk, 3 events in the second.
    labels = torch.tensor([[0.5, 1.0]] * 2 + [[1.0, 0.0]] + [[1.5, 1.0]] * 3 + [[2.0, 0.0]] * 4).double()
    z = torch.logit(torch.tensor([[2 / 10, 3 / 7]], dtype=torch.float64)).requires_grad_()
    loss = discrete_hazard(z.expand(10, -1), labels, horizon=2)
    assert torch.autograd.grad(loss, z)[0].flatten().tolist() == pytest.approx([0.0, 0.0])


def test_discrete_hazards_are_cross_entropies_over_the_intervals_lived_in() -> None:
    rows, horizon, intervals = 60, 10.0, 5
    labels, z = survivals(rows), logits(rows, intervals)
    labels[:, 0] -= 0.1 * torch.tensor(numpy_generator(1).random(rows))
    total = 0.0
    for (duration, event), row in zip(labels.numpy(), z.numpy(), strict=True):
        for k in range(intervals):
            begin, end = k * horizon / intervals, (k + 1) * horizon / intervals
            hazard = 1 / (1 + math.exp(-row[k]))
            if event and begin < duration <= end:
                total -= math.log(hazard)
            elif duration > end or (not event and duration >= (begin + end) / 2):
                total -= math.log(1 - hazard)
    assert discrete_hazard(z, labels, horizon).item() == pytest.approx(total / rows)


def test_the_gradient_of_discrete_hazards_is_what_small_changes_say() -> None:
    labels = survivals(8)
    assert torch.autograd.gradcheck(lambda z: discrete_hazard(z, labels, 10.0), (logits(8, 4).requires_grad_(),))


# Choosing


def model(survival: str = "cox") -> NetworkOptions:
    return NetworkOptions.model_validate({"survival": survival, "intervals": 4})


@pytest.mark.parametrize(
    ("kind", "survival", "expected"),
    [
        ("binary", "cox", "log_loss"),
        ("multiclass", "cox", "cross_entropy"),
        ("survival", "cox", "cox"),
        ("survival", "discrete", "discrete_hazard"),
    ],
)
def test_auto_chooses_by_the_target(kind: str, survival: str, expected: str) -> None:
    assert fitting_losses(TARGETS[kind], model(survival))[0] == expected
    labels = survivals(9) if kind == "survival" else classes(9, 2)
    z = logits(9, outputs_of(TARGETS[kind], model(survival)))
    chosen = loss_for(TARGETS[kind], model(survival), LossOptions())
    named = loss_for(TARGETS[kind], model(survival), LossOptions.model_validate({"name": expected}))
    assert chosen(z, labels).item() == named(z, labels).item()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("survival", ["cox", "discrete"])
def test_a_loss_that_fits_gives_a_scalar_with_a_gradient_and_another_is_refused(
    name: str, kind: str, survival: str
) -> None:
    target, options = TARGETS[kind], LossOptions.model_validate({"name": name})
    if name not in fitting_losses(target, model(survival)):
        with pytest.raises(SettingsError, match=rf"training\.loss\.name: {name} wants .* choose auto"):
            loss_for(target, model(survival), options)
        return
    labels = (survivals(9) if kind == "survival" else classes(9, 2)).float()
    z = logits(9, outputs_of(target, model(survival))).float().requires_grad_()
    loss = loss_for(target, model(survival), options)(z, labels)
    assert loss.shape == ()
    assert loss.item() > 0
    assert float(torch.autograd.grad(loss, z)[0].abs().sum()) > 0


def test_options_reach_the_loss() -> None:
    z, y = logits(9, 3).float(), classes(9, 3).float()
    options = LossOptions(name="focal", gamma=1.0, class_weights=(1, 2, 3))
    expected = focal(z, y, 1.0, torch.tensor([1.0, 2.0, 3.0])).item()
    assert loss_for(TARGETS["multiclass"], model(), options)(z, y).item() == expected


@pytest.mark.parametrize(
    ("kind", "weights", "told"),
    [
        ("binary", (1.0, 2.0, 3.0), "expected one for each of the 2 classes of ill, got 3"),
        ("multiclass", (1.0, 2.0), "expected one for each of the 3 classes of stage, got 2"),
        ("survival", (1.0, 2.0), "cox weighs no classes; leave them out"),
    ],
)
def test_weights_that_are_not_one_a_class_are_refused(kind: str, weights: tuple[float, ...], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        loss_for(TARGETS[kind], model(), LossOptions(class_weights=weights))


@pytest.mark.parametrize("bad", [{"name": "hinge"}, {"class_weights": (0.0, 1.0)}, {"gamma": -1.0}, {"alpha": 1}])
def test_options_that_no_loss_has_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        LossOptions.model_validate(bad)
