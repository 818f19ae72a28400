"""What is known of a metric by its name alone: how people call it, and which way is better."""

from __future__ import annotations

LOWER_IS_BETTER = frozenset({"loss", "log_loss", "brier", "integrated_brier"})
COUNTS = frozenset({"rows", "events"})
UNBOUNDED = frozenset({"loss", "log_loss", "calibration_slope", "calibration_intercept"})
_WORDS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "macro_auroc": "macro AUROC",
    "macro_auprc": "macro AUPRC",
    "brier": "Brier",
    "c_index": "C-index",
    "uno_c_index": "Uno's C-index",
    "integrated_brier": "integrated Brier",
}


def in_words(metric: str) -> str:
    """A metric for people.

    >>> in_words("c_index"), in_words("calibration_slope"), in_words("recall_2")
    ('C-index', 'calibration slope', 'recall 2')
    """
    return _WORDS.get(metric, metric.replace("_", " "))
