"""The real MLflow on a store of its own, with a tiny model: what is registered, once, and who becomes champion."""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmed import registry
from fedmed.data.cohort import read_cohort
from fedmed.errors import RegistryError
from fedmed.evaluation.measurement import NOT_ESTIMABLE, SUPPRESSED, Measurement
from fedmed.models.bundle import ModelBundle, ModelDescription
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions, network_for
from fedmed.registry import ChampionRule, RegistryOptions, Release, better, load, models, promote, register
from fedmed.registry.store import opened
from fedmed.serving.prediction import example
from fedmed.weights import sha256, to_bytes

ROOT = Path(__file__).parents[2]
OPTIONS = RegistryOptions()
NOTHING_PICKLED = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


def tiny_bundle(run: str, seed: int = 0) -> ModelBundle:
    cohort = read_cohort(ROOT / "cohorts" / "heart_disease.yaml")
    ranges = {name: cohort.columns[name].range or (0.0, 1.0) for name in cohort.numbers()}
    statistics = InputStatistics(
        mean={name: (low + high) / 2 for name, (low, high) in ranges.items()},
        deviation={name: (high - low) / 6 for name, (low, high) in ranges.items()},
    )
    options = NetworkOptions()
    generator = torch.Generator().manual_seed(seed)
    network = network_for(cohort, options)
    weights = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in network.named_parameters()}
    description = ModelDescription(
        cohort=cohort, network=options, statistics=statistics, run=run, round=2, weights=sha256(to_bytes(weights))
    )
    return ModelBundle(description, weights)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run: MLflow takes a second or two to make one, a copy takes none."""
    folder = tmp_path_factory.mktemp("empty")
    with opened(folder, create=True):
        return folder


@pytest.fixture
def tracking(empty_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_store, tmp_path / "my store"))


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Release]:
    def made(run: str = "3f2a91c0", cleveland: float = 0.5, hungarian: float = 0.4, **changes: Any) -> Release:
        folder = tmp_path / run
        tiny_bundle(run, seed=int(run[:1], 16)).save(folder)
        kept = {"cleveland": {"validation_loss": cleveland}, "hungarian": {"validation_loss": hungarian}}
        worse = {site: {"validation_loss": 9.0, "loss": float("nan")} for site in kept}
        auroc = Measurement(value=0.9, low=0.8, high=0.95)
        content: dict[str, Any] = {
            "run": run,
            "model_folder": folder,
            "parameters": {"seed": 7, "training": {"rounds": 3, "learning_rate": 0.05}, "privacy": None},
            "rounds": [
                {"round": 1, "participants": ["cleveland", "hungarian"], "validation_loss": 9.0, "sites": worse},
                {"round": 2, "participants": ["cleveland", "hungarian"], "validation_loss": 0.45, "sites": kept},
                {"round": 3, "participants": ["cleveland"], "validation_loss": 9.0, "sites": worse},
            ],
            "admissions": {"cleveland": {"admitted": True}, "basel": {"admitted": False, "failed": ["age: range"]}},
            "evaluation": {
                "cleveland": {
                    "federated": {"rows": Measurement(value=37), "auroc": auroc, "accuracy": auroc},
                    "own": {"auroc": NOT_ESTIMABLE, "accuracy": auroc.model_dump()},
                },
                "hungarian": {
                    "federated": {"rows": Measurement(value=20), "auroc": SUPPRESSED, "accuracy": auroc},
                    "own": {"auroc": SUPPRESSED, "accuracy": auroc},
                },
            },
            "lineage": {
                "git_commit": "404af13",
                "parameters_hash": "ab" * 32,
                "sites": {
                    "cleveland": {"fingerprint": "c1" * 32, "dvc": "d1"},
                    "hungarian": {"fingerprint": "c2" * 32},
                },
            },
            "headline": ("accuracy", "auroc", "brier"),
            "findings": ["Federating made no clear difference to cleveland"],
        }
        return Release(**{**content, **changes})

    return made


@pytest.fixture
def client(tracking: Path) -> Iterator[Any]:
    with opened(tracking) as made:
        yield made


def all_runs(client: Any) -> list[Any]:
    experiments = [entry.experiment_id for entry in client.search_experiments()]
    return list(client.search_runs(experiments))


def test_first_version_is_champion(tracking: Path, release: Callable[..., Release]) -> None:
    registered = register(release(), OPTIONS, tracking)
    assert (registered.version, registered.champion, registered.reason) == (1, True, "there was no champion yet")
    assert registered.aliases == ("challenger", "champion")
    assert registered.page == f"/#/experiments/{registered.experiment_id}/runs/{registered.mlflow_run_id}"
    [version] = models(tracking)
    assert version.aliases == ("challenger", "champion")
    assert version.metrics["validation/cleveland/loss"] == 0.5


def test_registering_twice_changes_nothing(tracking: Path, release: Callable[..., Release], client: Any) -> None:
    first = register(release(), OPTIONS, tracking)
    assert register(release(), OPTIONS, tracking) == first
    assert len(all_runs(client)) == len(models(tracking)) == 1


def test_answer_stays_the_same_after_a_better_version(tracking: Path, release: Callable[..., Release]) -> None:
    first = register(release(), OPTIONS, tracking)
    assert register(release("77aa", cleveland=0.3), OPTIONS, tracking).champion
    assert register(release(), OPTIONS, tracking) == first
    assert [version.aliases for version in models(tracking)] == [("challenger", "champion"), ()]


@pytest.mark.parametrize(
    "step",
    [
        "create_logged_model",
        "log_model_artifacts",
        "finalize_logged_model",
        "log_inputs",
        "set_terminated",
        "create_registered_model",
        "create_model_version",
        "update_model_version",
        "set_model_version_tag",
        "set_registered_model_alias",
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
def test_killed_at_any_step_the_next_call_completes_it(
    tracking: Path,
    release: Callable[..., Release],
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,
) -> None:
    class Killed(BaseException):
        pass

    real = getattr(type(client), step)

    def kill(*args: Any, **kwargs: Any) -> None:
        if after:
            real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(client), step, kill)
        with pytest.raises(Killed):
            register(release(), OPTIONS, tracking)
    registered = register(release(), OPTIONS, tracking)
    assert (registered.champion, registered.version) == (True, 1)
    [run], [version] = all_runs(client), models(tracking)
    assert run.info.status == "FINISHED"
    assert version.aliases == ("challenger", "champion")
    assert len(client.get_metric_history(run.info.run_id, "validation_loss")) == 3
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert load(tracking, OPTIONS.model).description.run == "3f2a91c0"


def test_version_left_half_registered_does_not_take_the_aliases_back(
    tracking: Path, release: Callable[..., Release], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "set_registered_model_alias", kill)
        with pytest.raises(KeyboardInterrupt):
            register(release(cleveland=0.6), OPTIONS, tracking)
    register(release("77aa", cleveland=0.3), OPTIONS, tracking)
    late = register(release(cleveland=0.6), OPTIONS, tracking)
    assert not late.champion
    assert [version.aliases for version in models(tracking)] == [("challenger", "champion"), ()]


@pytest.mark.parametrize(
    ("challenger", "champion", "wins", "said"),
    [
        ({"a": 0.4, "b": 0.4}, {"a": 0.5, "b": 0.4}, True, "better by .050 than .450 of version 4"),
        ({"a": 0.5, "b": 0.4}, {"a": 0.5, "b": 0.4}, False, "no better than"),
        ({"a": 0.6, "b": 0.4}, {"a": 0.5, "b": 0.4}, False, "worse by .050"),
        ({"a": 0.2, "b": 0.5}, {"a": 0.5, "b": 0.4}, False, "b gets worse by .100 (at most .050)"),
        ({"a": 0.4, "new": 9.0}, {"a": 0.5, "gone": 0.1}, True, "over 1 hospital is .400"),
        ({"a": 0.4}, {"b": 0.5}, False, "no validation_loss at a hospital"),
    ],
)
def test_rule_for_the_champion(challenger: dict[str, float], champion: dict[str, float], wins: bool, said: str) -> None:
    verdict = better(ChampionRule(), challenger, champion, 4)
    assert verdict.passed is wins
    assert said in verdict.why


def test_rule_for_a_metric_that_should_be_high() -> None:
    rule = ChampionRule(metric="validation_accuracy", minimum_gain=0.02)
    assert better(rule, {"a": 0.85}, {"a": 0.80}, 1).passed
    assert not better(rule, {"a": 0.81}, {"a": 0.80}, 1).passed
    assert not better(rule, {"a": 0.75}, {"a": 0.80}, 1).passed


def test_worse_version_is_challenger_only_until_promoted_by_hand(
    tracking: Path, release: Callable[..., Release]
) -> None:
    register(release(), OPTIONS, tracking)
    second = register(release("77aa", cleveland=0.9), OPTIONS, tracking)
    assert (second.champion, second.aliases) == (False, ("challenger",))
    assert load(tracking, OPTIONS.model).description.run == "3f2a91c0"
    assert promote(tracking, OPTIONS.model, 2).aliases == ("challenger", "champion")
    assert load(tracking, OPTIONS.model).description.run == "77aa"
    assert load(tracking, OPTIONS.model, "1").description.run == "3f2a91c0"


def test_changed_records_are_named_in_the_reason(tracking: Path, release: Callable[..., Release]) -> None:
    register(release(), OPTIONS, tracking)
    lineage = {"sites": {"cleveland": {"fingerprint": "ff" * 32}, "hungarian": {"fingerprint": "c2" * 32}}}
    reason = register(release("77aa", cleveland=0.3, lineage=lineage), OPTIONS, tracking).reason
    assert reason.endswith("since then the partitions of cleveland have changed")


def test_losses_of_two_likelihoods_are_a_persons_decision(tracking: Path, release: Callable[..., Release]) -> None:
    register(release("1" * 8, parameters={"network": {"survival": "cox"}}), OPTIONS, tracking)
    registered = register(
        release("2" * 8, 0.1, 0.1, parameters={"network": {"survival": "discrete"}}), OPTIONS, tracking
    )
    assert not registered.champion
    assert "its loss is another than that of version 1" in registered.reason


def test_other_cohort_is_a_persons_decision(tracking: Path, release: Callable[..., Release]) -> None:
    register(release(), OPTIONS, tracking)
    other = release("77aa", cleveland=0.1)
    bundle = tiny_bundle("77aa")
    target = bundle.description.cohort.target.model_copy(update={"positive": "> 1"})
    cohort = bundle.description.cohort.model_copy(update={"target": target})
    description = bundle.description.model_copy(update={"cohort": cohort})
    ModelBundle(description, bundle.weights).save(other.model_folder)
    registered = register(other, OPTIONS, tracking)
    assert not registered.champion
    assert "a person has to decide" in registered.reason


def test_run_tells_parameters_curves_lineage_and_no_suppressed_figure(
    tracking: Path, release: Callable[..., Release], client: Any, tmp_path: Path
) -> None:
    plot = tmp_path / "convergence.png"
    plot.write_bytes(b"\x89PNG")
    registered = register(release(plots=[plot]), OPTIONS, tracking)
    run = client.get_run(registered.mlflow_run_id)
    assert run.data.params == {"seed": "7", "training.rounds": "3", "training.learning_rate": "0.05", "privacy": "null"}
    curve = client.get_metric_history(run.info.run_id, "hungarian/validation_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 9.0), (2, 0.4), (3, 9.0)]
    metrics = run.data.metrics
    assert metrics["test/cleveland/auroc"] == 0.9
    assert metrics["test/mean/accuracy"] == metrics["test own/mean/accuracy"] == 0.9
    assert not {"test/hungarian/auroc", "test/mean/auroc", "test/mean/rows", "cleveland/loss"} & metrics.keys()
    assert run.data.tags["mlflow.source.git.commit"] == "404af13"
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"cleveland", "hungarian"}
    folder = Path(run.info.artifact_uri)
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert names == {"admissions.json", "evaluation.json", "evaluation.html", "lineage.json", "plots/convergence.png"}
    assert json.loads((folder / "lineage.json").read_text())["participants"]["3"] == ["cleveland"]
    assert json.loads((folder / "evaluation.json").read_text())["hungarian"]["own"]["auroc"]["reason"] == "suppressed"
    page = (folder / "evaluation.html").read_text()
    assert "suppressed" in page
    assert ".900 (.800–.950)" in page
    description = client.get_model_version(OPTIONS.model, "1").description
    assert "| hungarian | federated | 20 | .900 (.800–.950) | suppressed |" in description
    assert "basel (age: range)" in description
    assert "no clear difference to cleveland" in description


def test_metrics_of_a_kind_spread_and_subgroups_are_told_without_a_suppressed_figure(
    tracking: Path, release: Callable[..., Release], client: Any
) -> None:
    index = Measurement(value=0.7, low=0.6, high=0.8)
    rounds = [
        {
            "round": 2,
            "participants": ["north"],
            "validation_loss": 3.1,
            "sites": {"north": {"metrics": {"c_index": 0.68}}},
        }
    ]
    evaluation = {
        "north": {"federated": {"rows": Measurement(value=90), "events": Measurement(value=30), "c_index": index}},
        "south": {
            "federated": {"rows": Measurement(value=80), "events": SUPPRESSED, "c_index": Measurement(value=0.6)}
        },
    }
    women = {"rows": Measurement(value=40), "c_index": index}
    subgroups = {"north": {"sex": {"0": women, "1": women}}, "south": {"sex": {"0": {"c_index": SUPPRESSED}}}}
    made = release(rounds=rounds, evaluation=evaluation, subgroups=subgroups, headline=("c_index", "integrated_brier"))
    run = client.get_run(register(made, OPTIONS, tracking).mlflow_run_id)
    metrics = run.data.metrics
    assert metrics["north/validation_c_index"] == metrics["validation/north/c_index"] == 0.68
    assert (metrics["test/worst/c_index"], metrics["test/gap/c_index"]) == (0.6, 0.1)
    assert metrics["test/north/sex/0/c_index"] == 0.7
    assert not [name for name in metrics if name.startswith(("test/south/sex", "test/mean/events"))]
    page = Path(run.info.artifact_uri, "evaluation.html").read_text()
    assert "<td>sex: female</td><td>40</td><td>.700 (.600–.800)</td>" in page
    assert "<td>C-index</td><td>.700 (north)</td><td>.600 (south)</td><td>.100</td>" in page
    description = client.get_model_version(OPTIONS.model, "1").description
    assert "| north | federated | 90 | 30 | .700 (.600–.800) |" in description
    assert "| south | sex: female |  | suppressed |" in description
    assert "C-index .650" in description


def test_registered_model_and_the_model_as_hospitals_use_it_are_told_apart(
    tracking: Path, release: Callable[..., Release], client: Any
) -> None:
    used, registered = Measurement(value=0.9, low=0.8, high=0.95), Measurement(value=0.85, low=0.7, high=0.9)
    evaluation = {
        "cleveland": {"federated": {"accuracy": used}, "global": {"accuracy": registered}, "own": {"accuracy": used}},
        "hungarian": {"federated": {"accuracy": used}, "global": {"accuracy": SUPPRESSED}, "own": {"accuracy": used}},
    }
    answer = register(release(evaluation=evaluation), OPTIONS, tracking)
    run = client.get_run(answer.mlflow_run_id)
    told = {key: value for key, value in run.data.metrics.items() if key.startswith("test")}
    assert told == {
        "test/cleveland/accuracy": 0.9,
        "test/hungarian/accuracy": 0.9,
        "test/mean/accuracy": 0.9,
        "test/worst/accuracy": 0.9,
        "test/gap/accuracy": 0.0,
        "test/deviation/accuracy": 0.0,
        "test global/cleveland/accuracy": 0.85,
        "test own/mean/accuracy": 0.9,
    }
    page = Path(run.info.artifact_uri, "evaluation.html").read_text()
    for text in (html.unescape(page), client.get_model_version(OPTIONS.model, "1").description):
        assert "“federated” is the model as each hospital uses it: with the hospital's own shift" in text
        assert "“global” is the very model that is registered, and served, without a hospital's shift." in text


def test_without_shifts_the_federated_rows_are_of_the_registered_model(
    tracking: Path, release: Callable[..., Release], client: Any
) -> None:
    register(release(), OPTIONS, tracking)
    description = client.get_model_version(OPTIONS.model, "1").description
    assert "“federated” is the very model that is registered and served" in description


def test_importing_the_registry_imports_neither_mlflow_nor_torch() -> None:
    code = "import sys, fedmed.registry; print({'mlflow', 'torch', 'pandas'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "set()\n"


def test_nothing_in_the_model_folder_is_a_pickle(
    tracking: Path, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(release(), OPTIONS, tracking)
    [folder] = (tracking / "artifacts" / "models").iterdir()
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"MLmodel", "weights.safetensors", "model.json", "mlflow_model.py"}
    for file in files:
        assert file.suffix in {".json", ".yaml", ".txt", ".py", ".safetensors", ""}
        assert not file.read_bytes().startswith((b"\x80", b"PK"))
    for key, value in {**NOTHING_PICKLED, **registry.environment(tracking)}.items():
        monkeypatch.setenv(key, value)
    import mlflow

    bundle = load(tracking, OPTIONS.model)
    row = example(bundle.description.cohort)
    served = mlflow.pyfunc.load_model(str(folder / "artifacts"))
    assert served.predict(row)["probability"].tolist() == bundle.predictions(row).tolist()


def test_example_is_made_up_from_the_declaration(tracking: Path, release: Callable[..., Release]) -> None:
    register(release(), OPTIONS, tracking)
    [file] = tracking.rglob("serving_input_example.json")
    split = json.loads(file.read_text())["dataframe_split"]
    row = dict(zip(split["columns"], split["data"][0], strict=True))
    assert (row["age"], row["sex"], row["chol"]) == (59.0, "0", 380.0)


def test_altered_weights_are_not_loaded(tracking: Path, release: Callable[..., Release]) -> None:
    register(release(), OPTIONS, tracking)
    [file] = tracking.rglob("weights.safetensors")
    other = tiny_bundle("3f2a91c0", seed=9)
    other.save(file.parent)  # a consistent bundle, but not the one that was registered
    with pytest.raises(RegistryError, match="not those that were registered"):
        load(tracking, OPTIONS.model)


def test_release_of_another_run_is_refused(tracking: Path, release: Callable[..., Release]) -> None:
    made = release()
    with pytest.raises(RegistryError, match="holds the model of run '3f2a91c0'"):
        register(release("77aa", model_folder=made.model_folder), OPTIONS, tracking)


def test_what_is_not_there_is_said_clearly(tracking: Path, release: Callable[..., Release], tmp_path: Path) -> None:
    assert models(tmp_path / "nowhere") == []
    with pytest.raises(RegistryError, match="no model registry here yet"):
        load(tmp_path / "nowhere", OPTIONS.model)
    with pytest.raises(RegistryError, match="no registered model 'heart-disease'; known: none"):
        load(tracking, OPTIONS.model)
    register(release(), OPTIONS, tracking)
    with pytest.raises(RegistryError, match="no registered model 'other'; known: heart-disease"):
        promote(tracking, "other", 1)
    with pytest.raises(RegistryError, match="heart-disease has no '7'; versions: 1; aliases: challenger, champion"):
        promote(tracking, OPTIONS.model, 7)


def test_two_releases_at_once_are_compared_with_each_other(tracking: Path, release: Callable[..., Release]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    releases = [release("aa11", cleveland=0.5), release("bb22", cleveland=0.45), release("cc33", cleveland=0.4)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda entry: register(entry, OPTIONS, tracking), releases))
    assert {answer.version for answer in answers} == {1, 2, 3}
    assert load(tracking, OPTIONS.model).description.run == "cc33"
    [newest] = [version for version in models(tracking) if "challenger" in version.aliases]
    assert newest.version == 3


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_served_champion_answers_as_the_bundle_does(tracking: Path, release: Callable[..., Release]) -> None:
    register(release(), OPTIONS, tracking)
    bundle = load(tracking, OPTIONS.model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, **registry.environment(tracking), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{OPTIONS.model}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        command, env=environment, cwd=tracking, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=2).close()  # loopback
                break
            except OSError:
                assert server.poll() is None, "the scoring server stopped"
                time.sleep(0.5)
        row = example(bundle.description.cohort).iloc[0].to_dict()
        partial = {key: value for key, value in row.items() if key not in ("chol", "thal")}
        rows = [{**row, "age": 60}, {**row, "chol": None}, {**row, "age": 7}, {**row, "sex": None}, {**row, "chol": 0}]
        answers = _post(address, {"dataframe_records": rows})["predictions"]
        [left_out] = _post(address, {"dataframe_records": [partial]})["predictions"]
        refused = _post(address, {"dataframe_records": [{**row, "age": "sixty-one"}]})
        assert "error_code" in refused
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        said = server.communicate(timeout=30)[0].decode()
    import pandas as pd

    expected = bundle.predictions(pd.DataFrame([rows[0], {**row, "chol": np.nan}, {**row, "chol": np.nan}]))
    told = [answers[place]["probability"] for place in (0, 1, 4)]
    assert told == expected.tolist()
    assert [answer["probability"] for answer in answers[2:4]] == [None, None]
    assert [answer["reason"] for answer in answers] == [
        "",
        "",
        "outside the contract: age",
        "outside the contract: sex",
        "",
    ]
    assert left_out["reason"] == ""
    assert "sixty-one" not in said


def _post(address: str, content: Any) -> Any:
    request = urllib.request.Request(f"{address}/invocations", json.dumps(content).encode())  # loopback
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # loopback
            return json.load(answer)
    except urllib.error.HTTPError as problem:
        return json.load(problem)
