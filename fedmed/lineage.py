"""What is up to date, and what a result was made from: the one door to DVC and git."""

from __future__ import annotations

import contextlib
import logging
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from fedmed.errors import LineageError

STAGES = ("partition", "validate", "train", "evaluate", "register")


class Pipeline:
    """The stages of `dvc.yaml`, asked and recorded from within this process.

    `dvc repro` asks the same questions of the same files, so a stage that ran here is up to date for it too.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            from dvc.exceptions import DvcException
            from dvc.repo import Repo

            logging.getLogger("dvc").setLevel(logging.ERROR)
            self._failure: type[Exception] = DvcException
            self._repo = Repo(str(root))
        except Exception as problem:  # noqa: BLE001  # whatever DVC says, it says that this is no DVC repository
            raise LineageError(f"{root}: DVC cannot work here ({_first_line(problem)}). Run `dvc init`.") from None

    def targets(self, stage: str) -> list[str]:
        """The stage's own name, or `stage@site` for every site if it runs once a site."""
        names = [entry.name for entry in self._repo.index.stages if getattr(entry, "name", None)]
        return [name for name in names if name == stage or name.startswith(f"{stage}@")]

    def is_due(self, target: str) -> bool:
        """Whether something that the target depends on, or its result, has changed since it was recorded.

        Raises:
            LineageError: if DVC cannot tell.
        """
        try:
            with self._at_home():
                return bool(self._repo.status(targets=[target]))
        except self._failure as problem:
            raise LineageError(f"DVC cannot tell whether {target} is up to date: {_first_line(problem)}") from None

    def record(self, target: str) -> None:
        """Record in `dvc.lock` that the target has run, and keep its results in DVC's cache.

        Raises:
            LineageError: if DVC cannot.
        """
        try:
            with self._at_home():
                self._repo.commit(target, force=True)
        except self._failure as problem:
            raise LineageError(f"DVC could not record {target}: {_first_line(problem)}") from None

    def _at_home(self) -> AbstractContextManager[None]:
        """In the workspace's folder: DVC looks for stages, and for the files of its cache, in the working directory.

        Stages are asked about and recorded between one another, while no task of a flow is at work.
        """
        return contextlib.chdir(self.root)


def initialise(root: Path, *, in_git: bool = True) -> None:
    """Make a folder a DVC repository, inside git if it is in a git work tree and is to be versioned there.

    Nothing happens if it is one.

    Raises:
        LineageError: if DVC refuses.
    """
    if (root / ".dvc").is_dir():
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    top = _git(root, "rev-parse", "--show-toplevel") if in_git else ""
    try:
        Repo.init(str(root), no_scm=not top, subdir=bool(top) and Path(top) != root)
        ignored = root / ".dvc" / ".gitignore"
        if not ignored.exists():  # DVC writes it only inside git; the folder may become a git work tree later
            ignored.write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    except DvcException as problem:
        raise LineageError(f"{root}: DVC cannot be set up: {_first_line(problem)}") from None


def locked(root: Path) -> dict[str, str]:
    """Path → hash of every output that `dvc.lock` records; empty if nothing was ever recorded."""
    try:
        lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    stages: Mapping[str, Any] = lock.get("stages", {})
    return {out["path"]: str(out.get("md5", "")) for stage in stages.values() for out in stage.get("outs", ())}


def git_commit(root: Path) -> str:
    """The commit of the work tree, with `+changes` if tracked files differ from it; `none` outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return "none"
    return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603, S607  # fixed words
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _first_line(problem: Exception) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]
