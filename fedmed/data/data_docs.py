"""What a hospital reads of an examination: Great Expectations' Data Docs as one page, with counts and no values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmed.data.rules import Rule, Total

# What may be written of an answer of Great Expectations: how many cells, never which.
_COUNTS = (
    "element_count",
    "missing_count",
    "missing_percent",
    "unexpected_count",
    "unexpected_percent",
    "unexpected_percent_total",
    "unexpected_percent_nonmissing",
)


def strip(result: Any, answers: Sequence[Any], rules: Sequence[Rule | Total], header: Sequence[Any]) -> None:
    """Leave of a result only what may be written: an observed value, or an exception's text, can be a patient's own.

    Args:
        result: that of Great Expectations; it is changed.
        answers: one a rule, in order.
        rules: what was asked.
        header: the names of the table's columns.
    """
    result.results = list(answers)
    result.meta = {"great_expectations_version": result.meta["great_expectations_version"]}
    for answer, rule in zip(answers, rules, strict=True):
        observed = answer.result
        answer.result = {key: observed[key] for key in _COUNTS if key in observed}
        if answer.exception_info.get("raised_exception") is not False:
            answer.result = {"observed_value": "could not be computed"}
        elif (told := _told(rule, observed, header)) is not None:
            answer.result["observed_value"] = told
        answer.exception_info = {}


def page(title: str, failed: Sequence[str], result: Any) -> str:
    """Data Docs of a result that was stripped, as one page that needs no other file and no other host.

    GX's own page fetches a dozen styles and scripts from other hosts and links to pages that are not written here.
    """
    import jinja2
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    from fedmed.pages import TEMPLATES

    view: Any = DefaultJinjaPageView()
    view.env.loader = jinja2.ChoiceLoader([TEMPLATES, view.env.loader])  # GX escapes in templates named .html
    document = ValidationResultsPageRenderer().render(result)
    document.sections = document.sections[1:]  # the first is an overview with dead links
    count = len(result.results)
    facts = {"title": title, "word": "quarantined" if failed else "admitted", "met": count - len(failed), "all": count}
    return str(view.render(document, template="data/contract.html", failed=failed, **facts))


def _told(rule: Rule | Total, observed: Any, header: Sequence[Any]) -> int | str | None:
    """What may be told of a total: numbers of rows, shares of steps and declared names, but no mean."""
    measure = getattr(rule, "measure", None)
    if measure == "rows":
        return int(observed["observed_value"])
    if measure == "share_of_steps_outside":
        return f"{100 * float(observed['observed_value']):.3g} % of the observed steps"
    if measure == "columns_astray":
        # The header of a table without one is a patient: only declared names may be repeated.
        declared = rule.given["declared"]
        absent = ", ".join(name for name in declared if name not in header)
        return f"absent: {absent or 'none'}; not declared: {sum(name not in declared for name in header)}"
    return None
