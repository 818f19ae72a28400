"""A folder in which a federation runs on one machine: the coordinator's home and every hospital's, in one place.

params.yaml  dvc.yaml  prefect.yaml  prefect.toml  cohorts/
sites/<site>/        all that a hospital owns; only :mod:`fedmed.site` reads it
coordinator/         all that the coordinator knows; the exchange lies in it
comparison/<name>/   a comparison of strategies, each tried in a small workspace on the same hospitals
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from fedmed.coordinator.home import CoordinatorHome
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.errors import WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.files import digest_of_file
from fedmed.locks import held
from fedmed.settings import Settings, read_settings
from fedmed.site.home import SiteHome


class Workspace:
    """A workspace. Its parameters and its declaration are read once, when they are first asked for, and handed down."""

    def __init__(self, root: Path | str = ".") -> None:
        self.root = Path(root).resolve()
        if not (self.root / "params.yaml").is_file():
            raise WorkspaceError(
                f"{self.root}: no workspace here (no params.yaml). Make one with `fedmed init {root}`."
            )

    @cached_property
    def settings(self) -> Settings:
        """What `params.yaml` said when it was read."""
        self._read["params.yaml"] = digest_of_file(self.root / "params.yaml")
        return read_settings(self.root / "params.yaml")

    @cached_property
    def cohort(self) -> Cohort:
        """The declaration that the parameters name, as it was when it was read."""
        name = self.settings.cohort
        self._read[name] = digest_of_file(self.root / name)
        return read_cohort(self.root / name)

    def check(self) -> None:
        """Read parameters and declaration, so that what is wrong with them is said now.

        Raises:
            SettingsError: if the parameters are not what they should be.
            DeclarationError: if the declaration is not.
        """
        _ = self.settings, self.cohort

    @cached_property
    def _read(self) -> dict[str, str]:
        return {}

    def edited(self) -> list[str]:
        """Files that are others now than when they were read."""
        return [name for name, digest in self._read.items() if digest_of_file(self.root / name) != digest]

    @cached_property
    def coordinator(self) -> CoordinatorHome:
        """The coordinator's home."""
        return CoordinatorHome(self.root / "coordinator")

    @cached_property
    def sites(self) -> Path:
        """The folder of the hospitals' homes; what a comparison tries has a link to those of the workspace above it."""
        return (self.root / "sites").resolve()

    def home(self, site: str) -> SiteHome:
        """A hospital's home.

        Raises:
            WorkspaceError: if the parameters know no such hospital.
        """
        known = self.settings.federation.sites
        if site not in known:
            raise WorkspaceError(f"site {site!r}: params.yaml (federation.sites) knows {', '.join(known)}")
        return SiteHome(self.sites / site)

    def exchange(self) -> Exchange:
        """Where coordinator and hospitals meet."""
        return FolderExchange(self.coordinator.exchange_folder)

    def lease(self) -> AbstractContextManager[None]:
        """Hold the workspace for one run; the operating system frees it with the process. Held already here: go on.

        Raises:
            WorkspaceError: if another run holds it.
        """
        says = f"{self.root}: another run is going on in this workspace; wait for it"
        return held(self.coordinator.path / "run.lock", says=says)

    @property
    def comparisons(self) -> Path:
        """One folder a comparison of strategies."""
        return self.root / "comparison"
