"""A folder in which a federation runs on one machine: where everything lies, and who may look where.

params.yaml  dvc.yaml  prefect.yaml  prefect.toml  cohorts/
sites/<site>/        all that a hospital owns; only :mod:`fedmed.site` reads it
coordinator/         all that the coordinator knows; the exchange lies in it
comparison/<name>/   a comparison of strategies, each tried in a small workspace on the same hospitals
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.partition import PartitionReceipt
from fedmed.errors import WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.files import write_json
from fedmed.journal import Journal
from fedmed.locks import held
from fedmed.settings import Settings, read_settings


class Workspace:
    """The paths of one workspace and the records in its files."""

    def __init__(self, root: Path | str = ".") -> None:
        self.root = Path(root).resolve()
        if not (self.root / "params.yaml").is_file():
            raise WorkspaceError(
                f"{self.root}: no workspace here (no params.yaml). Make one with `fedmed init {root}`."
            )

    def settings(self) -> Settings:
        """What `params.yaml` says now."""
        return read_settings(self.root / "params.yaml")

    def cohort(self) -> Cohort:
        """The declaration that the parameters name."""
        return read_cohort(self.root / self.settings().cohort)

    def home(self, site: str) -> Path:
        """A hospital's folder.

        Raises:
            WorkspaceError: if the parameters know no such hospital.
        """
        sites = self.settings().federation.sites
        if site not in sites:
            raise WorkspaceError(f"site {site!r}: params.yaml (federation.sites) knows {', '.join(sites)}")
        # What a comparison tries stands in folders of its own, whose `sites` is a link to these.
        return (self.root / "sites").resolve() / site

    def exchange(self) -> Exchange:
        """Where coordinator and hospitals meet."""
        return FolderExchange(self.exchange_folder)

    @property
    def exchange_folder(self) -> Path:
        """The exchange's folder."""
        return self.coordinator / "exchange"

    def lease(self) -> AbstractContextManager[None]:
        """Hold the workspace for one run; the operating system frees it with the process. Held already here: go on.

        Raises:
            WorkspaceError: if another run holds it.
        """
        says = f"{self.root}: another run is going on in this workspace; wait for it"
        return held(self.coordinator / "run.lock", says=says)

    def journal(self) -> Journal:
        """What the present or last run has done."""
        return Journal(self.coordinator / "journal.jsonl")

    def keep_receipt(self, receipt: PartitionReceipt) -> None:
        """Write a partition's receipt where the coordinator looks for it."""
        write_json(self.receipts / f"{receipt.site}.json", receipt.model_dump())

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.root / "coordinator"

    @property
    def receipts(self) -> Path:
        """One receipt a partition: what the coordinator knows of a hospital's data."""
        return self.coordinator / "partitions"

    @property
    def admission_file(self) -> Path:
        """Who is admitted, and who is not and why."""
        return self.coordinator / "admission.json"

    @property
    def description_file(self) -> Path:
        """What the hospitals' training rows look like."""
        return self.coordinator / "description.json"

    @property
    def training_folder(self) -> Path:
        """The chosen model and the history of its rounds."""
        return self.coordinator / "training"

    @property
    def evaluation_folder(self) -> Path:
        """Every hospital's report, metrics and plots."""
        return self.coordinator / "evaluation"

    @property
    def registered_file(self) -> Path:
        """What the registry answered."""
        return self.coordinator / "registered.json"

    @property
    def comparisons(self) -> Path:
        """One folder a comparison of strategies."""
        return self.root / "comparison"

    @property
    def tracking(self) -> Path:
        """MLflow's database and artifacts."""
        return self.coordinator / "mlflow"
