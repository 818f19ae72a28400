"""`params.yaml` as one typed record: every public parameter of a run, gathered from the modules that read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from fedmed import typed_yaml
from fedmed.data.split import SplitOptions
from fedmed.errors import SettingsError
from fedmed.models.networks import NetworkOptions
from fedmed.registry import RegistryOptions
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.typed_yaml import Record

SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class FederationOptions(Record):
    """Who takes part."""

    sites: tuple[SiteName, ...] = Field(min_length=1, description="the hospitals, each a folder under sites/")
    quorum: int = Field(2, ge=1, description="fewest hospitals with which a run, or a round, goes on")
    answer_within: float = Field(
        3600.0, gt=0, description="seconds until a hospital that does not answer is left out and not waited for"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("`sites` names a hospital twice")
        if {"coordinator", "everyone"} & set(self.sites):
            raise ValueError("`sites`: 'coordinator' and 'everyone' are taken")
        if self.quorum > len(self.sites):
            raise ValueError(f"`quorum` is {self.quorum}, but there are only {len(self.sites)} sites")
        return self


class PrivacyOptions(Record):
    """What may leave a hospital."""

    minimum_cell: int = Field(11, ge=5, description="smallest count that may leave a hospital; fewer is suppressed")


class EvaluationOptions(Record):
    """How the final model is measured at every hospital."""

    resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of each interval")
    own: bool = Field(True, description="also train each hospital's own model, to say whether federating helped")
    pooled: bool = Field(False, description="also train on all hospitals' rows together; only where that is lawful")


class Settings(Record):
    """Everything in `params.yaml`."""

    cohort: str = Field(description="the cohort's declaration, a path relative to the workspace")
    federation: FederationOptions
    split: SplitOptions = SplitOptions()
    privacy: PrivacyOptions = PrivacyOptions()
    network: NetworkOptions = NetworkOptions()
    training: TrainingOptions = TrainingOptions()
    aggregation: AggregationOptions = AggregationOptions()
    personal: PersonalOptions = PersonalOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    registry: RegistryOptions = RegistryOptions()


def read_settings(path: Path) -> Settings:
    """The settings in a `params.yaml`.

    Raises:
        SettingsError: naming every unknown key and every bad value by its path.
    """
    return typed_yaml.read(path, Settings, SettingsError, "parameters")


def describe() -> str:
    """The page `docs/parameters.md`: every key of `params.yaml` with its type, default, bounds and meaning."""
    types = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    limits = {
        "minimum": "≥ {}",
        "exclusiveMinimum": "> {}",
        "maximum": "≤ {}",
        "exclusiveMaximum": "< {}",
        "minItems": "at least {} in the list",
        "pattern": "matches `{}`",
    }
    schema = Settings.model_json_schema()
    records: dict[str, dict[str, Any]] = schema["$defs"]

    def named(entry: dict[str, Any]) -> dict[str, Any] | None:
        return records[entry["$ref"].rpartition("/")[2]] if "$ref" in entry else None

    def kind(entry: dict[str, Any]) -> str:
        if "enum" in entry:
            return " or ".join(f"`{choice}`" for choice in entry["enum"])
        if "additionalProperties" in entry:
            return "mapping"
        return f"list of {kind(entry['items'])}" if "items" in entry else types[entry["type"]]

    def bounds(entry: dict[str, Any]) -> str:
        own = [text.format(entry[key]) for key, text in limits.items() if key in entry]
        each = bounds(entry["items"]) if "items" in entry else ""
        return ", ".join(own + ([f"each {each}"] if each else []))

    def rows(record: dict[str, Any], path: str) -> Iterator[str]:
        for key, entry in record["properties"].items():
            if (inner := named(entry)) is not None:
                if path:
                    yield from rows(inner, f"{path}{key}.")
                continue
            default = f"`{json.dumps(entry['default'])}`" if "default" in entry else "required"
            yield f"| `{path}{key}` | {kind(entry)} | {default} | {bounds(entry)} | {entry['description']} |"

    head = ("| key | type | default | bounds | meaning |", "|---|---|---|---|---|")
    page = [
        "# Parameters",
        "",
        "Every key that may stand in a workspace's `params.yaml`. A key that is left out has its default; an unknown",
        "key or a value outside its bounds is an error that names the key's path. `fedmed init` writes a file to start",
        "from, in which some values differ from the defaults. This page is written by `fedmed.settings.describe`.",
        "",
        "Rules over several keys: `federation.sites` names no hospital twice and none `coordinator` or `everyone`;",
        "`federation.quorum` is at most the number of sites; `split.train` and `split.validation` sum to less than 1.",
        "",
        *head,
        *rows(schema, ""),
    ]
    for key, entry in schema["properties"].items():
        if (record := named(entry)) is not None:
            says = record["description"].partition("\n\n")[0]
            page += ["", f"## {key}", "", says, "", *head, *rows(record, f"{key}.")]
    return "\n".join(page) + "\n"
