"""Answers to a validation: what one hospital sends cannot end the run of the others."""

from __future__ import annotations

from typing import Any

import pytest

from fedmed.coordinator.admission import Admissions
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.wire.messages import Admission

ROWS = {"train": 60, "validation": 20, "test": None}


def admission_of(site: str, **changes: Any) -> Admission:
    """The answer of a hospital whose data keep the contract, unless said otherwise."""
    content = {"admitted": True, "failed": (), "expectations": 9, "fingerprint": "a" * 64, "rows": ROWS, **changes}
    return Admission.model_validate({"run": "validation-1", "sender": site, **content})


@pytest.mark.parametrize(
    "lie", [{"fingerprint": None}, {"rows": {}}, {"rows": {**ROWS, "train": None}}, {"rows": {**ROWS, "train": 0}}]
)
def test_who_is_admitted_without_saying_with_what_is_quarantined(lie: dict[str, Any]) -> None:
    exchange = MemoryExchange()
    exchange.post(admission_of("north"))
    exchange.post(admission_of("south", **lie))
    admissions = Admissions.gather("validation-1", ["north", "south"], {}, exchange)
    assert admissions.admitted == ["north"]
    (reason,) = admissions.quarantined["south"]
    assert reason == "validation: south: expected the fingerprint and training rows of an admitted partition"


@pytest.mark.parametrize("rows", [-1, 10**9 + 1])
def test_an_answer_that_is_no_admission_is_that_hospitals_own_matter(rows: int, tmp_path: Any) -> None:
    exchange = FolderExchange(tmp_path)
    for site in ("north", "south"):
        exchange.post(admission_of(site))
    answer = next(tmp_path.rglob("south--coordinator.json"))
    answer.write_text(answer.read_text().replace('"train":60', f'"train":{rows}'))
    admissions = Admissions.gather("validation-1", ["north", "south"], {"west": "no answer"}, exchange)
    assert admissions.admitted == ["north"]
    assert admissions.quarantined["west"] == ("validation: no answer",)
    assert "not what its kind asks for" in admissions.quarantined["south"][0]
