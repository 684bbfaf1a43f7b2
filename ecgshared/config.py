"""The base of every configuration model, and the reading of YAML into one with errors a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecgshared.errors import ConfigError

_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's safe loader where it is built in: a site reads its approved studies at every request."""


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


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with ``safe_load``; raise :class:`ConfigError` naming file, line and column."""
    return parse_yaml(read_text(path), path)


def read_text(path: Path) -> str:
    """Read a file of text; raise :class:`ConfigError` where there is none, or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=path, remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})", where=path) from None


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """Return the YAML mapping that a file at ``path`` holds, as :func:`load_yaml` does."""
    try:
        data = yaml.load(text, Loader=_SAFE_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigError(f"is not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
    if not isinstance(data, dict):
        raise ConfigError("must hold keys and values", where=path, value=type(data).__name__)
    return data


def validate(model: type[ConfigT], data: dict[str, Any], *, where: object) -> ConfigT:
    """Validate ``data``; every fault is listed in ONE :class:`ConfigError` by file, key, value, what is allowed."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            f"{error.error_count()} fault(s):\n" + "\n".join(_faults(error, model)), where=where
        ) from None


def load(model: type[ConfigT], path: Path) -> ConfigT:
    """Read and validate one YAML file."""
    return validate(model, load_yaml(path), where=path)


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
