"""A new workspace's parameters: the template with a cohort's preset in it, every comment kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.cohort import read_cohort
from fedmed.errors import SettingsError
from fedmed.models.networks import network_for
from fedmed.public.records import PUBLIC_COHORTS
from fedmed.settings import read_settings
from fedmed.template.parameters import overridden, parameters_for, presets, template

ROOT = Path(__file__).parents[2]
TEXT = """\
# about all
a: 1         # about a

b:           # about b
  c: [1, 2]  # about c
  # about d
  d: x
  e: {f: 1}
g:
  - 1
  - 2        # two
"""


@pytest.mark.parametrize("name", PUBLIC_COHORTS)
def test_every_preset_gives_valid_parameters_for_the_cohorts_hospitals(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(parameters_for(name))
    settings = read_settings(path)
    assert settings.cohort == f"cohorts/{name}.yaml"
    assert settings.federation.sites == tuple(PUBLIC_COHORTS[name].sites)
    cohort = read_cohort(ROOT / settings.cohort)
    assert sum(tensor.numel() for tensor in network_for(cohort, settings.network).parameters()) < 100_000


def test_the_template_is_the_workspace_of_the_table_that_ships_with_fedmed():
    assert parameters_for("heart_disease") == template("params.yaml") == (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize("name", presets())
def test_comments_of_the_template_stay(name):
    def comments(text: str) -> list[str]:
        return [line.partition("#")[2] for line in text.splitlines() if "#" in line]

    assert comments(parameters_for(name)) == comments(template("params.yaml"))


def test_a_cohort_without_a_preset():
    with pytest.raises(SettingsError, match=r"no preset for the cohort '\.\./mine': expected one of eicu_demo"):
        parameters_for("../mine")


def test_values_are_replaced_in_place_and_comments_keep_their_column():
    changed = overridden(TEXT, {"a": 20, "b": {"c": [3], "e": {"f": 2}}, "g": ["x"]})
    assert changed.splitlines() == [
        "# about all",
        "a: 20        # about a",
        "",
        "b:           # about b",
        "  c: [3]     # about c",
        "  # about d",
        "  d: x",
        "  e: {f: 2}",
        "g:",
        "  [x]        # two",
    ]


def test_new_keys_go_to_the_end_of_their_section():
    changed = overridden(TEXT, {"b": {"new": 0.5}, "h": {"i": 1, "j": [a := "k"]}})
    assert yaml.safe_load(changed) == {
        **yaml.safe_load(TEXT),
        "b": {"c": [1, 2], "d": "x", "e": {"f": 1}, "new": 0.5},
        "h": {"i": 1, "j": [a]},
    }
    assert "  e: {f: 1}\n  new: 0.5\ng:" in changed
    assert changed.endswith("  - 2        # two\nh:\n  i: 1\n  j: [k]\n")


VALUES = (
    st.integers() | st.booleans() | st.text("abc:#' \"-", max_size=6) | st.lists(st.integers(), max_size=3) | st.none()
)


@given(st.dictionaries(st.sampled_from("abghz"), VALUES), st.dictionaries(st.sampled_from("cdexy"), VALUES))
def test_what_is_read_back_is_the_merged_mapping(outer, inner):
    before = yaml.safe_load(TEXT)
    outer.pop("b", None)
    changed = yaml.safe_load(overridden(TEXT, {**outer, "b": inner}))
    assert changed == {**before, **outer, "b": {**before["b"], **inner}}


def test_a_template_that_is_no_mapping():
    with pytest.raises(SettingsError, match="no YAML mapping"):
        overridden("- 1\n", {"a": 1})
