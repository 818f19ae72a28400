"""What training makes small: a function of a network's outputs and a batch's labels, chosen by the kind of target."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, one_hot, softplus

from fedmed.errors import SettingsError
from fedmed.targets.intervals import interval_ends, interval_of
from fedmed.targets.kind import Form
from fedmed.targets.table import KINDS
from fedmed.typed_yaml import Record

if TYPE_CHECKING:
    from fedmed.models.networks import NetworkOptions
    from fedmed.targets.target import Target

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs of shape `(rows, outputs)` and labels, as `fedmed.models.encoding.labels_of` makes them, → a scalar."""


class LossOptions(Record):
    """What training makes small."""

    name: Literal["auto", "log_loss", "cross_entropy", "focal", "cox", "discrete_hazard"] = Field(
        "auto", description="the loss; auto chooses log_loss, cross_entropy, cox or discrete_hazard by the target"
    )
    class_weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="what a row of each class counts, in the order of the classes; empty: 1 each"
    )
    gamma: float = Field(2.0, ge=0, le=10, description="how much focal neglects rows that are well predicted; 0: not")


def log_loss(outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean over the rows of  −w log p,  p the probability given to the row's class (logistic regression).

    Args:
        outputs: logits of the positive class, of shape `(rows, 1)`.
        labels: 0 or 1, of shape `(rows,)`.
        class_weights: w of class 0 and of class 1. The mean is over rows and not over weights, so that a row counts
            the same in whatever batch it comes.

    >>> round(log_loss(torch.zeros(2, 1), torch.tensor([0.0, 1.0])).item(), 4)  # ln 2
    0.6931
    """
    return _mean(-_binary_log_probability(outputs, labels), labels, class_weights)


def cross_entropy(outputs: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean over the rows of  −w log p,  p the probability that the softmax gives to the row's class.

    Args:
        outputs: logits of shape `(rows, classes)`.
        labels: the numbers of the classes, of shape `(rows,)`.
        class_weights: w of every class; the mean is over rows and not over weights, see :func:`log_loss`.

    >>> round(cross_entropy(torch.zeros(1, 4), torch.tensor([2.0])).item(), 4)  # ln 4
    1.3863
    """
    return _mean(-_class_log_probability(outputs, labels), labels, class_weights)


def focal(outputs: Tensor, labels: Tensor, gamma: float, class_weights: Tensor | None = None) -> Tensor:
    """Mean over the rows of  −w (1 − p)^γ log p,  p the probability given to the row's class.

    Lin et al. 2017, "Focal loss for dense object detection", equation 5; for several classes with the softmax's p.

    Args:
        outputs: logits of shape `(rows, 1)` for two classes, `(rows, classes)` for more.
        labels: the numbers of the classes, of shape `(rows,)`.
        gamma: γ; 0 is the cross entropy.
        class_weights: w, the paper's α.

    >>> round(focal(torch.zeros(1, 1), torch.tensor([1.0]), gamma=2.0).item(), 4)  # (1/2)² ln 2
    0.1733
    """
    if outputs.shape[1] == 1:
        log_p = _binary_log_probability(outputs, labels)
        log_rest = _binary_log_probability(outputs, 1 - labels)
    else:
        log_p = _class_log_probability(outputs, labels)
        own = one_hot(labels.long(), outputs.shape[1]).bool()
        log_rest = torch.logsumexp(log_softmax(outputs, dim=1).masked_fill(own, -torch.inf), dim=1)
    return _mean(-torch.exp(gamma * log_rest) * log_p, labels, class_weights)


def cox(outputs: Tensor, labels: Tensor) -> Tensor:
    """Negative log partial likelihood of a proportional hazards model, divided by the number of events.

    1/N Σ over events i of  log Σ over j still at risk at time i of exp(η_j) − η_i,  after Cox 1972 with Breslow's way
    for equal times (all of the same time are at risk for each of them); as a network's loss in Faraggi and Simon 1995
    and DeepSurv (Katzman et al. 2018). The rows at risk are those of the batch, so that a larger batch comes nearer
    to the likelihood of all rows. A batch without an event tells nothing and gives 0.

    Args:
        outputs: logarithms η of the relative hazards, of shape `(rows, 1)`.
        labels: duration, and event (1) or its absence (0), of shape `(rows, 2)`.

    >>> eta = torch.tensor([[0.0], [0.0], [0.0]])
    >>> labels = torch.tensor([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    >>> round(cox(eta, labels).item(), 4)  # (ln 3 + ln 1) / 2
    0.5493
    """
    order = torch.argsort(labels[:, 0], descending=True, stable=True)
    durations, events, log_hazards = labels[order, 0], labels[order, 1], outputs[order, 0]
    # From the latest row on, the running sum is over those with a later or the same time once the last row of that
    # time is in it: all rows of one time read it there.
    _, counts = torch.unique_consecutive(durations, return_counts=True)
    last = torch.repeat_interleave(counts.cumsum(0) - 1, counts)
    at_risk = torch.logcumsumexp(log_hazards, dim=0)[last]
    return (events * (at_risk - log_hazards)).sum() / events.sum().clamp(min=1)


def discrete_hazard(outputs: Tensor, labels: Tensor, horizon: float) -> Tensor:
    """Mean over the rows of the negative log likelihood of a survival in intervals, up to the horizon.

    A row with its event in interval k gives  −log h_k − Σ over j < k of log(1 − h_j);  a censored one the second sum
    over the intervals of which it lived through the middle (Gensheimer and Narasimhan 2019; Brown 1975). What comes
    after the horizon is as if the follow-up had ended there.

    Args:
        outputs: logits of the hazards h, of shape `(rows, intervals)`.
        labels: duration, and event (1) or its absence (0), of shape `(rows, 2)`.
        horizon: the end of the last interval.

    >>> by_hand = discrete_hazard(torch.zeros(2, 4), torch.tensor([[2.0, 1.0], [2.0, 0.0]]), horizon=4)
    >>> round(by_hand.item(), 4)  # two intervals each, of ln 2 each
    1.3863
    """
    duration, event = labels[:, :1], labels[:, 1:].bool()
    intervals = outputs.shape[1]
    own, every = interval_of(duration, horizon, intervals), torch.arange(intervals)
    middles = interval_ends(horizon, 2 * intervals, labels.dtype)[::2]
    survived = torch.where(event, every < own, duration >= middles)
    died = event & (every == own)
    return (survived * softplus(outputs) + died * softplus(-outputs)).sum(dim=1).mean()


class LossKind(NamedTuple):
    """Whether a loss weighs classes, and how it is made. For which targets it is, each kind of target says."""

    weighs_classes: bool
    make: Callable[[Target, LossOptions], Loss]


LOSSES: dict[str, LossKind] = {
    "log_loss": LossKind(True, lambda target, options: partial(log_loss, class_weights=_weights(options))),
    "cross_entropy": LossKind(True, lambda target, options: partial(cross_entropy, class_weights=_weights(options))),
    "focal": LossKind(
        True, lambda target, options: partial(focal, gamma=options.gamma, class_weights=_weights(options))
    ),
    "cox": LossKind(False, lambda target, options: cox),
    "discrete_hazard": LossKind(False, lambda target, options: partial(discrete_hazard, horizon=_horizon(target))),
}


def fitting_losses(target: Target, model: NetworkOptions) -> tuple[str, ...]:
    """The names of :data:`LOSSES` that fit; the first is the one that `auto` stands for."""
    return KINDS[target.kind].losses(model.form)


def loss_for(target: Target, network: NetworkOptions, options: LossOptions) -> Loss:
    """The loss of a target and a network.

    Raises:
        SettingsError: if the loss is not for this kind of target, or the class weights are not one a class.
    """
    fitting = fitting_losses(target, network)
    name = fitting[0] if options.name == "auto" else options.name
    kind = LOSSES[name]
    if name not in fitting:
        forms, form = KINDS[target.kind].forms, network.form.name
        is_one = f"a {target.kind} target with network.survival {form}" if forms else target.kind
        raise SettingsError(
            f"training.loss.name: {name} wants {_wanted(name)}, but {target.name} is {is_one}; choose auto, or"
            f" {fitting[0]}"
        )
    if options.class_weights and not kind.weighs_classes:
        raise SettingsError(f"training.loss.class_weights: {name} weighs no classes; leave them out")
    if options.class_weights and len(options.class_weights) != target.classes_count:
        raise SettingsError(
            f"training.loss.class_weights: expected one for each of the {target.classes_count} classes of"
            f" {target.name}, got {len(options.class_weights)}"
        )
    return kind.make(target, options)


def _wanted(loss: str) -> str:
    """The targets that a loss is for, in words."""
    whole = [name for name, kind in KINDS.items() if not kind.forms and loss in kind.losses(Form())]
    words = [f"a {' or '.join(whole)} target"] if whole else []
    words += [
        f"a {name} target and network.survival {form}"
        for name, kind in KINDS.items()
        for form in kind.forms
        if loss in kind.losses(Form(form))
    ]
    return " or ".join(words)


def _weights(options: LossOptions) -> Tensor | None:
    return torch.tensor(options.class_weights) if options.class_weights else None


def _horizon(target: Target) -> float:
    if target.horizon is None:  # pragma: no cover  # the declaration has been checked
        raise SettingsError(f"{target.name}: a survival target needs a horizon")
    return target.horizon


def _binary_log_probability(outputs: Tensor, labels: Tensor) -> Tensor:
    return logsigmoid(outputs.squeeze(1) * (2 * labels - 1))


def _class_log_probability(outputs: Tensor, labels: Tensor) -> Tensor:
    return log_softmax(outputs, dim=1).gather(1, labels.long().unsqueeze(1)).squeeze(1)


def _mean(losses: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    return (losses if class_weights is None else losses * class_weights[labels.long()]).mean()
