"""The picture of docs/architecture.md, held against every import: inside functions too."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedmed", "tasks", "flows")

GROUND = {
    "deadline",
    "errors",
    "files",
    "gates",
    "journal",
    "locks",
    "pages",
    "seeds",
    "typed_yaml",
    "weights",
}

# A room of fedmed → the rooms that it may import. Ground is open to all.
MAY_IMPORT: dict[str, set[str]] = {
    "aggregation": {"data", "models", "privacy", "targets"},
    "data": {"targets"},
    "evaluation": {"privacy"},
    "models": {"data", "targets"},
    "privacy": set(),
    "targets": {"evaluation", "privacy"},
    "training": {"models", "targets"},
    "strategies": {"aggregation", "models", "training"},
    "engine": {"aggregation", "strategies", "training"},
    "template": set(),
    "sources": {"data", "targets"},
    "public": {"data"},
    "exchange": set(),
    "wire": {"aggregation", "data", "evaluation", "exchange", "models", "strategies", "training"},
    "registry": {"data", "evaluation", "models", "serving", "targets"},
    "serving": {"data", "models", "targets", "training"},
    "settings": {"data", "models", "registry", "strategies", "training"},
    "lineage": set(),
    "site": {
        "aggregation",
        "data",
        "evaluation",
        "exchange",
        "models",
        "privacy",
        "sources",
        "strategies",
        "targets",
        "training",
        "wire",
    },
    "coordinator": {
        "aggregation",
        "data",
        "engine",
        "evaluation",
        "exchange",
        "lineage",
        "models",
        "registry",
        "settings",
        "strategies",
        "targets",
        "training",
        "wire",
    },
    "workspace": {"coordinator", "data", "exchange", "settings", "site"},
    "comparison": {
        "coordinator",
        "evaluation",
        "exchange",
        "registry",
        "settings",
        "strategies",
        "targets",
        "wire",
        "workspace",
    },
    "pooled": {"models", "site", "training", "wire"},
}

ONE_DOOR = {
    "mlflow": ("fedmed/registry/", "fedmed/serving/mlflow_model.py"),
    # What is asked, the examination, and its page.
    "great_expectations": ("fedmed/data/expectations.py", "fedmed/data/contract.py", "fedmed/data/data_docs.py"),
    "dvc": ("fedmed/lineage.py",),
    "prefect": ("flows/", "tasks/"),
    "click": ("flows/cli/",),
    "rich": ("flows/cli/",),
    "filelock": ("fedmed/locks.py",),
    "jinja2": ("fedmed/pages.py", "fedmed/data/data_docs.py"),  # the contract's page is drawn by GX's own templates
    "matplotlib": ("fedmed/evaluation/panels.py", "fedmed/evaluation/plots.py", "fedmed/evaluation/strategy_plots.py"),
    "pooch": ("fedmed/public/fetching.py",),
    "safetensors": ("fedmed/weights.py",),
    "scipy": ("fedmed/evaluation/",),
    "cryptography": ("fedmed/data/keys.py", "fedmed/data/vault.py"),
    "pyarrow": ("fedmed/data/vault.py", "fedmed/sources/tables.py"),
}

FORBIDDEN = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    relative = path.relative_to(ROOT)
    layer = PACKAGES.index(relative.parts[0])
    for name in imports(path):
        top = name.split(".")[0]
        if top in PACKAGES:
            assert PACKAGES.index(top) <= layer, f"{relative} imports {name}, which stands above it"


@pytest.mark.parametrize("path", sorted((ROOT / "fedmed").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_of_fedmed_import_only_what_the_picture_allows(path: Path) -> None:
    own = path.relative_to(ROOT / "fedmed").parts[0].removesuffix(".py")
    known = GROUND | set(MAY_IMPORT) | {"__init__", "py"}
    assert own in known, f"{own} is on no floor of the picture"
    allowed = GROUND | {own} | MAY_IMPORT.get(own, set())
    for name in imports(path):
        if name.startswith("fedmed.") and name.count(".") >= 1:
            target = room(name)
            if target in known:
                assert target in allowed, f"fedmed.{own} imports {name}"


@pytest.mark.parametrize("own", sorted(MAY_IMPORT))
def test_no_room_has_a_licence_that_it_does_not_use(own: str) -> None:
    home = ROOT / "fedmed" / own
    paths = list(home.rglob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
    used = {room(name) for path in paths for name in imports(path) if name.startswith("fedmed.")}
    assert MAY_IMPORT[own] - used == set()


def test_everything_on_the_ground_is_there_and_stands_on_nothing_else() -> None:
    for name in sorted(GROUND):
        path = ROOT / "fedmed" / f"{name}.py"
        assert {room(found) for found in imports(path) if found.startswith("fedmed.")} <= GROUND, name


@pytest.mark.parametrize(("library", "doors"), ONE_DOOR.items(), ids=list(ONE_DOOR))
def test_an_outside_library_has_one_door(library: str, doors: tuple[str, ...]) -> None:
    users = [
        str(path.relative_to(ROOT)) for path in modules() if any(n.split(".")[0] == library for n in imports(path))
    ]
    assert users, f"nothing imports {library}: is it still needed?"
    assert [user for user in users if not user.startswith(doors)] == []


def test_site_and_coordinator_know_each_other_only_by_messages() -> None:
    for own, other in (("site", "coordinator"), ("coordinator", "site")):
        for path in (ROOT / "fedmed" / own).rglob("*.py"):
            assert not [name for name in imports(path) if name.startswith(f"fedmed.{other}")], path


def test_nothing_can_unpickle() -> None:
    for path in modules():
        assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN, path
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_tree(package: str) -> None:
    # All three names are taken on PyPI: a stranger's package must not stand in for ours.
    found = Path(importlib.import_module(package).__file__ or "").resolve()
    assert found == (ROOT / package / "__init__.py").resolve()


def test_no_module_is_longer_than_can_be_read_at_once() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}
