"""Whether a declaration is that of a public cohort, so that its hospitals' rows are anybody's to pool."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fedmed.data.cohort import Cohort, read_cohort
from fedmed.public.records import PUBLIC_COHORTS


def is_public(cohort: Cohort) -> bool:
    """Whether a cohort is declared just as FedMed declares the public one of its name (titles and notes apart).

    >>> is_public(Cohort.model_validate({
    ...     "name": "tcga_brca",
    ...     "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
    ...     "columns": {"age": {"type": "integer", "range": [0, 100]}},
    ... }))
    False
    """
    if cohort.name not in PUBLIC_COHORTS:
        return False
    declaration = resources.files("fedmed.template").joinpath("cohorts", f"{cohort.name}.yaml")
    with resources.as_file(declaration) as path:
        return read_cohort(Path(path)).digest == cohort.digest
