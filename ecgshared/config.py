"""The base of every configuration model, and the reading of YAML into one with errors a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecgshared.errors import ConfigError

_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's safe loader where it is built in: a site reads its approved studies at every request."""

MOST_BYTES = 1 << 20
"""A file of this program is a few kilobytes; those that come from elsewhere are held to a size before they are read."""

_DEEPEST, _MOST_VALUES = 32, 50_000


class Config(BaseModel):
    """Frozen; an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


ConfigT = TypeVar("ConfigT", bound=Config)

Label = Annotated[
    str | None,
    # Where there is none it is no part of a study's content, nor of its hash.
    Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f]+$", exclude_if=lambda value: value is None),
]
"""How the report calls a thing, in words."""


def load_yaml(path: Path, *, aliases: bool = False) -> dict[str, Any]:
    """Read a YAML mapping of plain values; raise :class:`ConfigError` naming file, line and column.

    Files over :data:`MOST_BYTES` are refused, and what is nested deeper than any of ours.

    Parameters
    ----------
    aliases : whether ``*name`` may stand for what ``&name`` marked, as steps of a study that differ in little have it.
        With them 300 bytes can stand for gigabytes: such a file is held to what it stands for.
    """
    return parse_yaml(read_text(path), path, aliases=aliases)


def read_text(path: Path) -> str:
    """Read a file of text; raise :class:`ConfigError` where there is none, or it is too large or cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError("is too large for a configuration", where=path, allowed=f"{MOST_BYTES >> 10} KiB")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=path, remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})", where=path) from None


def parse_yaml(text: str, path: Path, *, aliases: bool = False) -> dict[str, Any]:
    """Return the YAML mapping that a file at ``path`` holds, as :func:`load_yaml` does."""
    try:
        _require_small(text, path, aliases)
        data = yaml.load(text, Loader=_SAFE_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(f"is not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
    except ValueError as error:
        # A date that is none, a number of too many digits: YAML's own reading of a value.
        raise ConfigError(f"holds a value that YAML cannot read: {error}", where=path) from None
    if not isinstance(data, dict):
        raise ConfigError("must hold keys and values", where=path, value=type(data).__name__)
    return data


def _require_small(text: str, path: Path, aliases: bool) -> None:
    """Look at the file's events, which cost no more than its length, before anything is made of them."""
    stands_for: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    nodes = 0
    for event in yaml.parse(text, Loader=_SAFE_LOADER):
        mark = event.start_mark
        where = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        if isinstance(event, yaml.AliasEvent):
            if not aliases:
                raise ConfigError(
                    "aliases are not read here", where=where, value=f"*{event.anchor}", remedy="write the value out"
                )
            nodes += stands_for.get(str(event.anchor), 1)
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, nodes))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                stands_for[anchor] = nodes - before + 1
        if len(open_nodes) > _DEEPEST:
            raise ConfigError("is nested too deeply", where=where, allowed=f"{_DEEPEST} levels")
        if nodes > _MOST_VALUES:
            raise ConfigError("holds too many values", where=where, allowed=f"{_MOST_VALUES:,}, aliases written out")


def validate(model: type[ConfigT], data: dict[str, Any], *, where: object) -> ConfigT:
    """Validate ``data``; every fault is listed in ONE :class:`ConfigError` by file, key, value, what is allowed."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            f"{error.error_count()} fault(s):\n" + "\n".join(_faults(error, model)), where=where
        ) from None


def load(model: type[ConfigT], path: Path, *, aliases: bool = False) -> ConfigT:
    """Read and validate one YAML file; see :func:`load_yaml`."""
    return validate(model, load_yaml(path, aliases=aliases), where=path)


def _faults(error: ValidationError, model: type[Config]) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key{_nearest(str(fault['loc'][-1]), model, fault['loc'][:-1])}"
        # A fault of a mapping, or of a list of them, names its key itself; they would drown it.
        value = fault["input"]
        whole = isinstance(value, dict) or (isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value))
        silent = fault["type"] in ("missing", "extra_forbidden") or whole
        shown = "" if silent else f" (found {_short(fault['input'])})"
        lines.append(f"  {key}: {message}{shown}" if key else f"  {message}")
    return lines


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(key: str, model: type[Config], parents: tuple[int | str, ...]) -> str:
    from difflib import get_close_matches

    fields: Any = model.model_fields
    for part in parents:
        annotation = fields[part].annotation if part in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        fields = annotation.model_fields
    close = get_close_matches(key, list(fields), n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; allowed: {', '.join(fields)}"
