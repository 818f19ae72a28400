"""The parameters of a new workspace: the template, with a cohort's preset written into it and the comments kept."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import yaml

from fedmed.errors import SettingsError


class _Edit(NamedTuple):
    """Text to put in place of `text[start:end]`."""

    start: int
    end: int
    text: str


def presets() -> list[str]:
    """The cohorts that a workspace can be made for, by name."""
    folder = resources.files("fedmed.template").joinpath("presets")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def template(name: str) -> str:
    """A file of the template, as text."""
    return resources.files("fedmed.template").joinpath(name).read_text(encoding="utf-8")


def parameters_for(cohort: str) -> str:
    """The text of `params.yaml` for one of :func:`presets`.

    Raises:
        SettingsError: if there is none of that name.
    """
    if cohort not in presets():
        raise SettingsError(f"there is no preset for the cohort {cohort!r}: expected one of {', '.join(presets())}")
    return overridden(template("params.yaml"), yaml.safe_load(template(f"presets/{cohort}.yaml")))


def overridden(text: str, changes: Mapping[str, Any]) -> str:
    r"""A YAML text with other values, in which every comment stays where it is.

    A mapping among `changes` is merged; any other value replaces what stood there, and a new key goes to the end of its
    section.

    Raises:
        SettingsError: if the text is no YAML mapping.

    >>> print(overridden("a:       # first\n  b: 1   # one\n  c: 2\n", {"a": {"b": [2, 3], "d": "x"}}), end="")
    a:       # first
      b: [2, 3] # one
      c: 2
      d: x
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError("the template of params.yaml is no YAML mapping")
    for edit in sorted(_edits(text, node, changes, ""), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _edits(text: str, node: yaml.MappingNode, changes: Mapping[str, Any], indent: str) -> list[_Edit]:
    found = {key.value: value for key, value in node.value}
    edits, new = [], []
    for name, value in changes.items():
        old = found.get(name)
        if old is None:
            new.append(_entry(name, value, indent))
        elif isinstance(value, Mapping) and isinstance(old, yaml.MappingNode) and not old.flow_style:
            edits += _edits(text, old, value, " " * old.start_mark.column)
        else:
            edits.append(_replacement(text, old, value))
    if new:
        end = _line_end(text, _last(node))
        edits.append(_Edit(end, end, "".join(f"\n{line}" for line in new)))
    return edits


def _replacement(text: str, old: yaml.Node, value: Any) -> _Edit:
    """The new value, with the comment behind it kept in its column where there is room."""
    start, end = old.start_mark.index, _last(old)
    rest = text[end : _line_end(text, end)]
    blanks = len(rest) - len(rest.lstrip(" "))
    if not rest[blanks:].startswith("#"):
        return _Edit(start, end, _flow(value))
    room = _column(text, end + blanks) - _column(text, start) - 1
    return _Edit(start, end + blanks, _flow(value).ljust(room) + " ")


def _entry(name: str, value: Any, indent: str) -> str:
    if isinstance(value, Mapping) and not indent:
        return "\n".join([f"{name}:", *(f"  {key}: {_flow(inner)}" for key, inner in value.items())])
    return f"{indent}{name}: {_flow(value)}"


def _flow(value: Any) -> str:
    written: str = yaml.safe_dump([value], default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True)
    return written.strip()[1:-1]


def _last(node: yaml.Node) -> int:
    """Where the node's last value ends; a block's own end mark stands behind the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _last(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _last(node.value[-1])
    return int(node.end_mark.index)


def _column(text: str, position: int) -> int:
    return position - (text.rfind("\n", 0, position) + 1)


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end
