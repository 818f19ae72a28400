"""The model in MLflow's own format: our code file, two files of weights and description, signature, requirements."""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed import __version__
from fedmed.registry.options import RegistryOptions
from fedmed.registry.release import Release
from fedmed.registry.store import marks_of, quietly

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature

    from fedmed.data.cohort import Cohort
    from fedmed.models.bundle import ModelBundle, ModelDescription
    from fedmed.models.networks import NetworkOptions

_SERVING_CODE = Path(__file__).parents[1] / "serving" / "mlflow_model.py"
_SERVING_NEEDS = ("mlflow", "numpy", "pandas", "pydantic", "PyYAML", "safetensors", "torch")


def packaged(
    client: MlflowClient, run: Run, release: Release, options: RegistryOptions, bundle: ModelBundle
) -> LoggedModel:
    """The run's model in MLflow's own format; one whose files were not written to the end is made anew."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run_id, experiment = run.info.run_id, run.info.experiment_id
    for known in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if known.status == LoggedModelStatus.READY:
            return known
        client.delete_logged_model(known.model_id)
    description = bundle.description
    made = client.create_logged_model(
        experiment,
        name=options.model,
        source_run_id=run_id,
        tags=marks_of(release.run, bundle),
        params={"network": description.network.name, "round": str(description.round)},
        model_type="federated",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        _save(folder, release.model_folder, description, run_id, made.model_id)
        client.log_model_artifacts(made.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=description.round)])
    return client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)


def _save(folder: Path, bundle_folder: Path, description: ModelDescription, run_id: str, model_id: str) -> None:
    """Write MLflow's model folder: our code file, the two files of the bundle, signature, example and requirements."""
    from fedmed.models.bundle import DESCRIPTION_FILE, WEIGHTS_FILE
    from fedmed.serving.prediction import example

    cohort, network = description.cohort, description.network
    with quietly():
        from mlflow.models import Model
        from mlflow.pyfunc import save_model

        save_model(
            folder,
            python_model=str(_SERVING_CODE),
            artifacts={
                "description": str(bundle_folder / DESCRIPTION_FILE),
                "weights": str(bundle_folder / WEIGHTS_FILE),
            },
            signature=_signature(cohort, network),
            input_example=example(cohort),
            # Named, or MLflow would import the model in another process to find them out.
            pip_requirements=[f"fedmed-flows=={__version__}", *(_pinned(name) for name in _SERVING_NEEDS)],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )


def _signature(cohort: Cohort, network: NetworkOptions) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from fedmed.serving.prediction import answer_columns

    def spec(name: str) -> ColSpec:
        column = cohort.columns[name]
        kinds = {"category": DataType.string, "image": DataType.binary, "series": DataType.binary}
        return ColSpec(kinds.get(column.type, DataType.double), name, required=column.missing == "refuse")

    answers = [ColSpec(DataType.double, name, required=False) for name in answer_columns(cohort.target, network)]
    outputs = Schema([*answers, ColSpec(DataType.string, "reason")])
    return ModelSignature(inputs=Schema([*map(spec, cohort.columns)]), outputs=outputs)


def _pinned(package: str) -> str:
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"
