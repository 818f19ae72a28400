"""The code that MLflow copies beside a model's weights and runs to serve it ("models from code"): nothing is unpickled.

:mod:`fedmed.registry.packaging` hands MLflow this file's path; nothing in FedMed imports it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fedmed.models.bundle import load_bundle
from fedmed.serving.prediction import answer_columns, predict

# A refused request would otherwise be quoted in messages, and it is a patient's row. MLflow reads this at each request.
os.environ.setdefault("MLFLOW_DISABLE_SCHEMA_DETAILS", "true")


class FederatedModel(PythonModel):
    """A FedMed model bundle behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read weights and description from the model's own folder, checked against each other."""
        self._bundle = load_bundle(Path(context.artifacts["description"]).parent)

    def predict(
        self,
        context: PythonModelContext,  # MLflow's interface
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # MLflow's interface
    ) -> pd.DataFrame:
        """What the model says of every row, and `reason`; a row outside the contract has a reason and nothing else."""
        answers = predict(self._bundle, model_input)
        description = self._bundle.description
        numbers = answers[answer_columns(description.cohort.target, description.network)].astype("object")
        # None and not NaN, which the scoring server would write into its answer although JSON knows none.
        return numbers.where(numbers.notna(), None).assign(reason=answers["reason"])


set_model(FederatedModel())
