"""How the description of the hospitals' data is printed."""

from __future__ import annotations

from fedmed.coordinator.description import FederatedDescription
from flows.cli.console import table
from flows.tables import category_rows, number_rows


def description_text(description: FederatedDescription, *, hospitals: bool) -> str:
    """A description as tables: over all hospitals, and if asked for, of each."""
    scopes = {f"all hospitals ({', '.join(description.hospitals)})": description.overall}
    scopes |= description.hospitals if hospitals else {}
    text = []
    for scope, part in scopes.items():
        text.append(f"{scope}: {part.rows} training rows; counts under {part.minimum_cell} are withheld")
        for rows in (category_rows(part, description.target), number_rows(part, description.target)):
            text += ["", table(list(rows[0]), [list(row.values()) for row in rows])] if rows else []
        text.append("")
    text += [f"{site} was not described: {reason}" for site, reason in description.failed.items()]
    return "\n".join(text).rstrip()
