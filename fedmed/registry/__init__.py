"""The one door to MLflow: a federated run, its model and how it was judged, as a run and a version in the registry.

    registering   a release becomes a run, a model and a version, once; who is champion then
      ├── run         what is logged          ├── figures    as names and numbers
      ├── packaging   the model's own folder  └── page       for people
    comparing     a comparison of strategies becomes a run with one below it for each variant
    versions      list, find, load, promote
    store         the folder, and MLflow opened on it
    options       what may be chosen, and the champion's rule
    release       the records that go in and come out

Importing it does not import MLflow, which takes seconds.
"""

from fedmed.registry.comparing import ComparisonRelease, RegisteredComparison, Trial, register_comparison
from fedmed.registry.options import ChampionRule, RegistryOptions, better
from fedmed.registry.registering import register
from fedmed.registry.release import Registered, Release, Version
from fedmed.registry.store import environment
from fedmed.registry.versions import load, models, promote

__all__ = [
    "ChampionRule",
    "ComparisonRelease",
    "Registered",
    "RegisteredComparison",
    "RegistryOptions",
    "Release",
    "Trial",
    "Version",
    "better",
    "environment",
    "load",
    "models",
    "promote",
    "register",
    "register_comparison",
]
