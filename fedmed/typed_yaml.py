"""Read a YAML file into a typed, frozen record, or say which key is wrong and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedmed.errors import FedMedError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$")]
Code = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


R = TypeVar("R", bound=BaseModel)


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own rule, which PyYAML does not enforce: a key stands once in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} stands twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


def read(path: Path, record: type[R], error: type[FedMedError], what: str) -> R:
    """The record that the file at `path` describes.

    Args:
        path: a YAML file in UTF-8.
        record: the pydantic model that says what may stand in it.
        error: the class to raise.
        what: what the file is, for messages.

    Raises:
        FedMedError: of class `error`, naming the file, each wrong key with its path, and what was expected.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506  # a SafeLoader
    except FileNotFoundError:
        raise error(f"{what}: there is no file {path}. `fedmed init` writes one.") from None
    except UnicodeDecodeError:
        raise error(f"{what} {path}: expected UTF-8 text") from None
    except OSError as problem:
        raise error(f"{what} {path}: cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{what} {path}: a value cannot be read ({type(problem).__name__})") from None
    except yaml.YAMLError as problem:
        raise error(f"{what} {path}: not valid YAML: {problem}") from None
    if not isinstance(raw, dict):
        raise error(f"{what} {path}: expected a mapping of keys, got {type(raw).__name__}")
    try:
        return record.model_validate(raw)
    except ValidationError as problem:
        raise error(f"{what} {path}:\n{describe(problem)}") from None


def describe(problem: ValidationError) -> str:
    """One line for each wrong key: its path, what is wrong, what came."""
    lines = []
    for entry in problem.errors():
        message = "unknown key" if entry["type"] == "extra_forbidden" else entry["msg"]
        came = "" if entry["type"] in {"missing", "extra_forbidden"} else f" (got {_short(entry['input'])})"
        lines.append(f"  {_dotted(entry['loc'])}: {message}{came}")
    return "\n".join(lines)


def complain(what: str, lacking: Sequence[str], foreign: Sequence[str]) -> None:
    """Refuse keys that do not go together.

    Args:
        what: what has them, for the message.
        lacking: keys that it needs and does not have.
        foreign: keys that it has and must not.

    Raises:
        ValueError: there are any.
    """
    words = [f"needs {' and '.join(lacking)}"] if lacking else []
    words += [f"has no {', no '.join(foreign)}"] if foreign else []
    if words:
        raise ValueError(f"{what} {' and '.join(words)}")


def rising(name: str, limits: Iterable[float]) -> None:
    """Refuse limits of which the lower is not below the upper.

    Raises:
        ValueError: naming the key.
    """
    low, high = limits
    if low >= high:
        raise ValueError(f"`{name}` must be [low, high] with low < high")


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path) or "(whole file)"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
