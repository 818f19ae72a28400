"""How a hospital describes its training rows: with small counts withheld, and under one minimum cell only."""

from __future__ import annotations

from pydantic import ValidationError

from fedmed.aggregation.description import describe_rows
from fedmed.errors import MessageRefused
from fedmed.files import write_json
from fedmed.site.home import SiteHome
from fedmed.site.request import Request, Told
from fedmed.typed_yaml import Record
from fedmed.weights import to_bytes
from fedmed.wire.messages import Description
from fedmed.wire.post import reference

DESCRIBED = "described.json"


class _Described(Record):
    """Which partition was described, and under which minimum cell."""

    fingerprint: str
    minimum_cell: int


def describe(request: Request) -> Told:
    """The description of a home's training rows.

    Raises:
        MessageRefused: if there are fewer training rows than twice the minimum cell, or this partition was described
            under another one.
        VaultError: if the partition does not open.

    Guarantees:
        A partition is described under one minimum cell. Tables of the same rows under two would differ by just what the
        larger one withholds.
    """
    home, session = request.home, request.session
    rows, cell = session.tables["train"], request.minimum_cell
    if len(rows) < 2 * cell:
        raise MessageRefused(f"{home.name}: fewer training rows than twice the minimum cell are not described")
    earlier = _earlier(home)
    if earlier is not None and earlier.fingerprint == session.manifest.fingerprint and earlier.minimum_cell != cell:
        raise MessageRefused(
            f"{home.name}: this partition was described under a minimum cell of {earlier.minimum_cell}; a description"
            f" under {cell} would tell by difference what that one withheld. Ask with the same minimum cell, or let the"
            f" hospital decide to remove {DESCRIBED} from its folder"
        )
    tables = describe_rows(rows, session.manifest.cohort, cell)
    now = _Described(fingerprint=session.manifest.fingerprint, minimum_cell=cell)
    write_json(home.path / DESCRIBED, now.model_dump(), mode=0o600)  # before anything leaves
    payload = to_bytes(tables)
    message = request.reply(Description, rows=len(rows), minimum_cell=cell, payload=reference(payload))
    return Told(message, payload)


def _earlier(home: SiteHome) -> _Described | None:
    """What was described before, or None.

    Raises:
        MessageRefused: if the file cannot be read: what it guards would be lost in silence.
    """
    try:
        return _Described.model_validate_json((home.path / DESCRIBED).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise MessageRefused(f"{home.name}: {DESCRIBED} in its folder cannot be read; the hospital must look") from None
