"""Pages from templates, which stand beside the modules that fill them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = jinja2.FileSystemLoader(Path(__file__).parent)


def filled(template: str, **facts: Any) -> str:
    """A template with its facts put in.

    Args:
        template: its path below this package; in one that ends with `.html`, facts are text and never markup.
        facts: what it names.

    Raises:
        jinja2.UndefinedError: if it names another fact.
    """
    environment = jinja2.Environment(
        loader=TEMPLATES,
        autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(facts)
