"""Every command that README.md and CONTRIBUTING.md print is run here, or held to something that it names.

A command belongs to the first entry of `KINDS` that it matches; one that matches none fails.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from workplace import BIN, SITES, Workplace, embedded_rows, write_rows

from fedmed.public.records import PUBLIC_COHORTS
from fedmed.settings import describe
from fedmed.site.cli import parser
from flows.cli import cli
from flows.cli.reference import reference

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_COMMANDS = {"", "text", "python", "yaml", "toml", "json", "mermaid"}
PROGRAMS = r"(?:\. |bash |curl |dvc |fedmed |fedmed-site |git |make |mlflow |pip |pre-commit |prefect |pytest|python |[A-Z]+=\S+ )"


def in_block(language: str, block: str) -> list[str]:
    """The commands of a block: after `$ ` in a console, every line of a script; continued lines are one."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    if language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [command for line in lines if (command := re.sub(r"(^|\s+)# .*$", "", line).strip())]


def in_text(text: str) -> list[str]:
    """The commands that stand between backquotes in a sentence or a table."""
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return [span for span in spans if re.match(PROGRAMS, f"{span} ") and not re.fullmatch(r"[\w-]+", span)]


def commands(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = [command for language, block in FENCE.findall(text) for command in in_block(language, block)
              if language not in NO_COMMANDS]  # fmt: skip
    return list(dict.fromkeys([*blocks, *in_text(text)]))


EVERY = list(dict.fromkeys(command for document in DOCUMENTS for command in commands(document)))


# What a command is held to where it cannot run here.


def is_a_target(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    _, *targets = shlex.split(command, comments=True)
    assert targets
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"the Makefile has no target {target}"


def is_in_the_help(command: str) -> None:
    """The command's help is shown, and has every option that the document uses."""
    words = re.match(r"fedmed((?: [a-z]+)*)", re.sub(r"(?<=fedmed) --json", "", command))
    assert words
    known, group = [], cli
    for word in words[1].split():
        if (found := getattr(group, "commands", {}).get(word)) is None:
            break
        known.append(word)
        group = found
    assert known, f"{command}: no such command"
    shown = CliRunner().invoke(cli, [*known, "--help"])
    assert shown.exit_code == 0
    for option in re.findall(r"(?<= )--?[a-z][a-z-]*", command.replace("fedmed --json", "fedmed")):
        assert option in shown.output, f"{command}: `fedmed {' '.join(known)}` has no option {option}"


def is_a_public_cohort(command: str) -> None:
    is_in_the_help(command)
    cohort = command.split("--cohort ")[1].split()[0]
    assert cohort in PUBLIC_COHORTS or cohort.isupper(), f"{cohort}: no public cohort, and no word to be filled in"


def is_in_the_agents_help(command: str) -> None:
    given = parser().parse_args(shlex.split(command)[1:])
    assert given.command == "serve"


def installs_what_is_there(command: str) -> None:
    words = shlex.split(command)
    for word in words[words.index("-c") + 1 :]:
        path, extra = re.fullmatch(r"([^\[]+)(?:\[(\w+)\])?", word).groups()  # type: ignore[union-attr]
        if word == "-e":
            continue
        assert (ROOT / path).exists(), f"{command}: {path} is not there"
        if extra:
            content = tomllib.loads((ROOT / path / "pyproject.toml").read_text())
            assert extra in content["project"]["optional-dependencies"]


def is_a_program_of_the_tree(command: str) -> None:
    (script,) = [word for word in command.split() if word.endswith(".py")]
    assert "__main__" in (ROOT / script).read_text(encoding="utf-8")


def has_a_file(path: str) -> Callable[[str], None]:
    def held(command: str) -> None:
        assert (ROOT / path).is_file(), f"{command}: {path} is not there"

    return held


def is_run_by(test: str, *words: str) -> Callable[[str], None]:
    """Another test runs the command: it is there, and says the command's words."""

    def held(command: str) -> None:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        (function,) = [
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name
        ]
        said = {node.value for node in ast.walk(function) if isinstance(node, ast.Constant)}
        assert set(words) <= said, f"{test} says nothing of {set(words) - said}"
        assert all(word in command for word in words)

    return held


def runs(command: str) -> None:
    """It is really run, below; that it is among those is checked there."""
    assert any(re.match(pattern, command) for pattern in (*RUN, *SERVED)), f"{command}: says that it is run, and is not"


WHOLE = "tests/flows/test_whole_run.py"
PAGES = "tests/flows/test_pages.py"
KINDS: tuple[tuple[str, Callable[[str], None]], ...] = (
    (r"make [a-z]", is_a_target),
    (r"\. \.venv/bin/activate$", is_run_by("tests/test_readme.py::test_the_environment_is_where_make_puts_it", ".venv/bin/activate")),
    (r"fedmed (run|init \S+) --cohort ", is_a_public_cohort),
    (r"fedmed (ui|schedule)$", is_in_the_help),
    (r"fedmed run --force$", is_in_the_help),
    (r"fedmed data (fetch|describe|partition|add NAME|add$|check --site SITE$)", is_in_the_help),
    (r"fedmed-site serve ", is_in_the_agents_help),
    (r"prefect --no-prompt deploy --all$", is_run_by(f"{PAGES}::test_prefect_deploys_all_without_a_question", "prefect", "--no-prompt", "deploy", "--all")),
    (r"dvc exp run ", is_run_by(f"{WHOLE}::test_an_experiment_runs_from_the_command_line_of_dvc", "dvc", "exp", "run", "-S", "training.learning_rate=0.05")),
    (r"pip install -c ", installs_what_is_there),
    (r"pre-commit ", has_a_file(".pre-commit-config.yaml")),
    (r"PYTHONPATH=\. python tests/", is_a_program_of_the_tree),
    (r"", runs),
)  # fmt: skip


# What is really run, in this order, and by what it is known to have worked. In a document's words, what stands for
# something else is replaced; what would take long is made short.

RUN: dict[str, Callable[[str], bool]] = {
    r"fedmed run$": lambda printed: "champion" in printed,
    r"fedmed (--json )?status$": lambda printed: all(site in printed for site in SITES),
    r"dvc repro$": lambda printed: "up to date" in printed,
    r"git checkout params\.yaml && dvc repro$": lambda printed: "up to date" in printed,
    r"dvc metrics show$": lambda printed: "accuracy" in printed,
    r"dvc plots show$": lambda printed: "index.html" in printed,
    r"fedmed predict --site cleveland rows\.csv$": lambda printed: "predictions" in printed,
    r"fedmed models$": lambda printed: "champion" in printed,
    r"fedmed data list$": lambda printed: all(name in printed for name in PUBLIC_COHORTS),
    r"fedmed compare --strategies \S+ --seeds \d+$": lambda printed: "fedprox" in printed,
    r"fedmed init consortium$": lambda printed: "consortium" in printed,
    r"fedmed data add --site NAME FILE$": lambda printed: "303" in printed,
    r"fedmed data check --site NAME$": lambda printed: "cleveland" in printed,
    r"python -c .*docs/parameters\.md$": lambda _: True,
    r"python -m flows\.cli\.reference ": lambda _: True,
}
SERVED = (r"export MLFLOW_TRACKING_URI=", r"mlflow models serve ", r"curl ")
"""The three lines with which a champion is served and asked."""
SHORTER = (
    (r"--strategies \S+ --seeds \d+", "--strategies fedavg,fedprox --seeds 1"),
    (r"--site NAME FILE", "--site cleveland ../rows.csv"),
    (r"--site NAME", "--site cleveland"),
)


def in_order(pattern: str) -> list[str]:
    """The documents' commands that a pattern of `RUN` knows."""
    return [command for command in EVERY if re.match(pattern, command)]


@pytest.mark.parametrize("command", EVERY)
def test_a_command_of_the_documents_is_run_or_held_to_what_it_names(command: str) -> None:
    held = next(held for pattern, held in KINDS if re.match(pattern, command))
    held(command)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_block_is_passed_over(document: str) -> None:
    blocks = FENCE.findall((ROOT / document).read_text(encoding="utf-8"))
    assert blocks
    for language, block in blocks:
        assert language in NO_COMMANDS or in_block(language, block), f"{document}: no command found in\n{block}"
        assert language not in NO_COMMANDS or not re.search(rf"^\$ {PROGRAMS}", block, re.MULTILINE), block


def test_nothing_is_run_that_no_document_says() -> None:
    assert [pattern for pattern in (*RUN, *SERVED) if not in_order(pattern)] == []


def test_a_command_that_nobody_knows_is_noticed() -> None:
    for command in ("make dmeo", "fedmed rum", "fedmed ui --port 1", "fedmed run --cohort atlantis", "dvc destroy"):
        held = next(held for pattern, held in KINDS if re.match(pattern, command))
        with pytest.raises(AssertionError):
            held(command)


def test_the_environment_is_where_make_puts_it() -> None:
    folder, _, _ = ".venv/bin/activate".partition("/")
    assert f"VENV ?= {folder}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def run_in(place: Workplace, command: str) -> str:
    for pattern, replacement in SHORTER:
        command = re.sub(pattern, replacement, command)
    return place.call("/bin/bash", "-euo", "pipefail", "-c", command).stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workspace in git, as `fedmed init` makes it, with fewer rounds and resamples; and some rows to predict."""
    place = Workplace(tmp_path_factory.mktemp("readme") / "work")
    place.root.mkdir()
    run_in(place, "git init -q")
    place.call("fedmed", "init")
    place.parameters(training__rounds=2, evaluation__resamples=100)
    (place.root / "docs").mkdir()
    write_rows(place.root / "rows.csv", embedded_rows("cleveland"))
    run_in(place, "git add -A && git -c user.name=t -c user.email=t@example.org commit -qm start")
    return place


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_can_run_here_runs(place: Workplace) -> None:
    """One after the other, as a reader would: what comes later needs what came before."""
    for pattern, worked in RUN.items():
        where = place
        if "--site NAME" in pattern:  # at a hospital of the workspace that was just made
            where = Workplace(place.root / "consortium")
        for command in in_order(pattern):
            printed = run_in(where, command)
            assert worked(printed), f"{command} printed\n{printed}"
    (predicted,) = (place.root / "sites" / "cleveland" / "predictions").glob("*.csv")
    with predicted.open() as file:
        assert len(list(csv.DictReader(file))) == len(embedded_rows("cleveland"))
    assert (place.root / "docs" / "parameters.md").read_text() == describe()
    assert (place.root / "docs" / "cli.md").read_text() == reference()


@pytest.fixture
def served(place: Workplace) -> Iterator[str]:
    """The champion, served as README says but at a free port; gives the question that README asks there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (export,), (serve,), (ask,) = (in_order(pattern) for pattern in SERVED)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    server = subprocess.Popen(
        ["/bin/bash", "-euc", f"{export}\nexec {serve.replace('5002', port)}"],
        cwd=place.root,
        env={**clean, "PATH": f"{BIN}:{clean['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield ask.replace("5002", port)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_champion_answers_as_a_service(place: Workplace, served: str) -> None:
    if not (place.root / "coordinator" / "mlflow" / "mlflow.db").exists():  # where this test is run alone
        run_in(place, "fedmed run")
    answer, until = "", time.monotonic() + 180
    while not answer and time.monotonic() < until:
        answer = place.call("/bin/bash", "-c", served, check=False).stdout
        time.sleep(0.0 if answer else 1.0)
    (told,) = json.loads(answer)["predictions"]
    assert 0 < told["probability"] < 1
