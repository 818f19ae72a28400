"""From the raw files of a public cohort to one table a hospital: read, held against the known content, divided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fedmed.errors import SourceError, SourceMismatch
from fedmed.public import eicu_demo, heart_disease, physionet2012, pneumoniamnist, tcga_brca
from fedmed.public.content import content_digest
from fedmed.public.fetching import Progress, discard, fetch
from fedmed.public.records import PublicCohort, public_cohort

Tables = dict[str, pd.DataFrame]


class Preparation(NamedTuple):
    """How raw files become one table, and the table one for each site."""

    read: Callable[[Path], pd.DataFrame]
    divide: Callable[[pd.DataFrame, Sequence[str]], Tables]


def by_column(column: str) -> Callable[[pd.DataFrame, Sequence[str]], Tables]:
    """A division by what stands in a column, whoever is asked for."""

    def divide(table: pd.DataFrame, sites: Sequence[str]) -> Tables:
        return {str(site): rows for site, rows in table.groupby(column, sort=True)}

    return divide


PREPARATIONS: dict[str, Preparation] = {
    "heart_disease": Preparation(heart_disease.read, by_column(heart_disease.SITE)),
    "tcga_brca": Preparation(tcga_brca.read, by_column(tcga_brca.SITE)),
    "eicu_demo": Preparation(eicu_demo.read, eicu_demo.divide),
    "physionet2012": Preparation(physionet2012.read, by_column(physionet2012.SITE)),
    "pneumoniamnist": Preparation(pneumoniamnist.read, pneumoniamnist.divide),
}


def prepare(name: str, folder: Path, sites: Sequence[str] = ()) -> Tables:
    """The tables of a public cohort's hospitals, from the raw files in `folder`.

    Args:
        name: the cohort, a key of :data:`~fedmed.public.records.PUBLIC_COHORTS`.
        folder: the files as they were published, or a local copy of them in another packaging.
        sites: the hospitals that are wanted; none means those of the cohort's preset.

    Returns:
        Site → table with the columns that `cohorts/<name>.yaml` declares, and some that say where a row is from.

    Raises:
        SourceError: if a file is missing, or the cohort has no such hospital.
        SourceMismatch: if the content is not the published one.

    Guarantees:
        The same content gives the same tables, whatever the packaging and the order of rows in the files.
    """
    source = public_cohort(name)
    preparation = PREPARATIONS[name]
    table = preparation.read(folder)
    if (found := content_digest(table)) != source.content:
        raise SourceMismatch(
            f"{folder}: expected the {source.rows} rows of {name} with content SHA-256 {source.content}, got"
            f" {len(table)} rows with {found}. Is it another release, or was the copy changed? The published files are"
            f" at {source.page}."
        )
    wanted = tuple(sites) or tuple(source.sites)
    divided = preparation.divide(table, wanted)
    if strange := [site for site in wanted if site not in divided]:
        raise SourceError(
            f"{name}: has no hospital {', '.join(strange[:5])}; expected sites (federation.sites in params.yaml) among"
            f" {', '.join(list(divided)[:12])}{' …' if len(divided) > 12 else ''}"
        )
    return {site: divided[site].reset_index(drop=True) for site in wanted}


def obtain(
    source: PublicCohort,
    sites: Sequence[str] = (),
    *,
    cache: Path | None = None,
    mirror: str | None = None,
    progress: Progress | None = None,
) -> Tables:
    """Fetch a cohort into the cache and prepare it; files whose content proves wrong do not stay there.

    Raises:
        SourceError: as :func:`~fedmed.public.fetching.fetch` and :func:`prepare` do.
    """
    folder = fetch(source, cache=cache, mirror=mirror, progress=progress)
    try:
        return prepare(source.name, folder, sites)
    except SourceMismatch:
        discard(source, cache)
        raise
