"""The documents say what the code says: generated pages are current, links resolve, terms are in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmed.settings import Settings, describe
from flows.cli.reference import reference

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def headings(document: Path) -> set[str]:
    """The anchors of a document, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_page_of_parameters_is_the_one_that_the_settings_describe():
    page = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert page == describe(), "write it again: see CONTRIBUTING.md, Set up"


def test_every_parameter_has_a_line_with_a_meaning():
    def keys(record: type, path: str = "") -> list[str]:
        found = []
        for name, field in record.model_fields.items():
            inner = getattr(field.annotation, "model_fields", None)
            found += keys(field.annotation, f"{path}{name}.") if inner else [f"{path}{name}"]
        return found

    described = re.findall(r"^\| `([\w.]+)` \|.*\| (.+) \|$", describe(), re.MULTILINE)
    assert [key for key, _ in described] == keys(Settings)
    assert all(meaning.strip() for _, meaning in described)


def test_the_page_of_commands_is_their_help():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference(), "write it again: see CONTRIBUTING.md, Set up"


def test_hidden_commands_are_not_on_the_page():
    assert "## `fedmed run`" in reference()
    assert "## `fedmed stage`" not in reference()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(document):
    for link in LINK.findall(CODE.sub("", document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.relative_to(ROOT)} links to {link}, which is not there"
        assert not anchor or target.suffix != ".md" or anchor in headings(target), f"{link}: no such heading"


def test_the_terms_of_the_glossary_are_unique_and_sorted():
    terms = re.findall(r"^\*\*(.+?)\*\*: ", (ROOT / "GLOSSARY.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(terms) > 30
    assert terms == sorted(set(terms), key=str.casefold)


def test_decisions_are_numbered_once_each():
    numbers = [path.name[:4] for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers
    assert len(set(numbers)) == len(numbers)


def test_a_decision_has_context_decision_and_consequences():
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        sections = re.findall(r"^## (\w+)", text, re.MULTILINE)
        assert {"Context", "Decision", "Consequences"} <= set(sections), path.name
