"""A release for people, held against the texts of a release that has everything: they change only on purpose."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from fedmed.data.cohort import read_cohort
from fedmed.evaluation.measurement import SUPPRESSED, Measurement
from fedmed.models.bundle import ModelBundle, ModelDescription
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions, network_for
from fedmed.registry.page import page, summary
from fedmed.registry.release import Release
from fedmed.weights import sha256, to_bytes

ROOT = Path(__file__).parents[2]
EXPECTED = Path(__file__).parent / "expected"
MARKUP = "<script>alert('\"&\"')</script>"


@pytest.fixture
def bundle() -> ModelBundle:
    cohort = read_cohort(ROOT / "cohorts" / "heart_disease.yaml")
    numbers = cohort.numbers()
    statistics = InputStatistics(mean=dict.fromkeys(numbers, 0.0), deviation=dict.fromkeys(numbers, 1.0))
    network = network_for(cohort, NetworkOptions())
    weights = {name: torch.zeros_like(tensor) for name, tensor in network.named_parameters()}
    digest = sha256(to_bytes(weights))
    made = ModelDescription(
        cohort=cohort, network=NetworkOptions(), statistics=statistics, run="3f2a91c0", round=2, weights=digest
    )
    return ModelBundle(made, weights)


def release(**changes: object) -> Release:
    rows, share = Measurement(value=37), Measurement(value=0.9, low=0.8, high=0.95)
    content: dict[str, object] = {
        "run": "3f2a91c0",
        "model_folder": Path("model"),
        "parameters": {},
        "rounds": [{"round": 1}, {"round": 2, "participants": ["cleveland", "va"]}],
        "admissions": {"cleveland": {"admitted": True}, "basel": {"admitted": False, "failed": ["age: range"]}},
        "evaluation": {
            "cleveland": {
                "federated": {"rows": rows, "accuracy": share, "auroc": share},
                "global": {"rows": rows, "accuracy": Measurement(value=0.8), "auroc": share},
                "own": {"accuracy": share, "auroc": SUPPRESSED},
            },
            "va": {
                "federated": {"rows": rows, "accuracy": Measurement(value=0.7), "auroc": SUPPRESSED},
                "global": {"rows": rows, "accuracy": share, "auroc": SUPPRESSED},
            },
        },
        "subgroups": {"cleveland": {"sex": {"0": {"rows": rows, "accuracy": share}}}},
        "lineage": {"git_commit": "404af13", "sites": {"cleveland": {}, "va": {}}},
        "headline": ("accuracy", "auroc"),
        "findings": ["Federating made no clear difference to cleveland", f"Federating hurt va: {MARKUP}"],
    }
    return Release(**{**content, **changes})  # type: ignore[arg-type]


class Shown(HTMLParser):
    """What a browser makes of a page: its elements and texts, without the white space between elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append(f"<{tag} {attrs}>")

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.parts.append("".join(data.split()) if self.parts[-1].startswith("<style") else data.strip())


def test_the_page_shows_what_is_expected(bundle):
    assert Shown(page(release(), bundle)).parts == Shown((EXPECTED / "evaluation.html").read_text()).parts


def test_the_summary_says_what_is_expected(bundle):
    assert summary(release(), bundle) + "\n" == (EXPECTED / "summary.md").read_text()


def test_markup_in_a_release_is_shown_as_text(bundle):
    made = release(admissions={"<b>": {"admitted": False, "failed": [MARKUP]}}, lineage={"git_commit": MARKUP})
    text = page(made, bundle)
    assert "<script" not in text
    assert "<b>" not in text
    assert any(MARKUP in part for part in Shown(text).parts)


def test_what_nobody_tells_has_no_heading(bundle):
    only = {"cleveland": {"federated": {"accuracy": Measurement(value=0.7)}}}
    parts = Shown(page(release(evaluation=only, subgroups={}, findings=[]), bundle)).parts
    assert "<h2 []>" not in parts
    assert parts.count("<table []>") == 1
