"""A site file to start from: every key of the settings with its meaning, made from the settings themselves."""

from __future__ import annotations

import json
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from client.site.settings import NetworkConfig, SiteSettings
from ecgshared.study.columns import ANATOMY, STANDARD_COLUMNS

_TOP = """\
# The file of one hospital. It never leaves the hospital. Paths are relative to this file.
# Every key is here with its default; `null` means none. Change records and table first, then run:
#   ecgfed site check THIS_FILE
"""

_EXAMPLES: dict[str, Any] = {
    "records.folder": "records",
    "table.path": "table.csv",
    "table.columns": {"file": "file", "patient_id": "patient", "age": "age", "sex": "sex"},
}
"""What has no default, or whose default is not enough to read a table with."""


def site_template(
    site: str,
    network: dict[str, str] | None = None,
    *,
    given: dict[str, Any] | None = None,
    guessed: dict[str, str] | None = None,
) -> str:
    """Return a site file with every key explained; it is valid, but for the data it names.

    Parameters
    ----------
    network : of the ``network:`` section, which is null where there is none.
    given : values by key (``table.path``) in place of examples and defaults.
    guessed : what a value rests on, by key; each line of it is marked GUESSED.
    """
    given = {**_EXAMPLES, **(given or {}), "site": site, **{f"network.{key}": v for key, v in (network or {}).items()}}
    columns = ", ".join(name for name in STANDARD_COLUMNS if name not in {column.name for column in ANATOMY})
    notes = {
        "table.columns": f"standard columns: {columns}; `ecgfed site columns` explains them and lists those of anatomy",
        "limits.min_patients": "no figure about fewer patients leaves",
        "limits.min_events": "nor about fewer patients with the event, or without it",
    }
    for key, why in (guessed or {}).items():
        notes[key] = "\n".join([notes.get(key, ""), *(f"GUESSED: {line}" for line in why.split("\n"))])
    return _TOP + "\n".join(_lines(SiteSettings, "", given, notes, 0)) + "\n"


def network_lines(network: dict[str, str]) -> str:
    """Return the ``network:`` section alone, for a site file that has none."""
    lines = ["# How this site joins a federation of hospitals.", "network:"]
    return "\n".join(lines + _lines(NetworkConfig, "", dict(network), {}, 1)) + "\n"


def _lines(model: type[BaseModel], path: str, given: dict[str, Any], notes: dict[str, str], depth: int) -> list[str]:
    lines: list[str] = []
    for name, field in model.model_fields.items():
        full = f"{path}{name}"
        indent = "  " * depth
        inner = _section(field)
        about = field.description or (_first_sentence(inner) if inner is not None else "")
        for text in (about, _allowed(field), *notes.get(full, "").split("\n")):
            lines += [f"{indent}# {line}" for line in _wrapped(text, 110 - len(indent))]
        if inner is not None and _is_left_out(field, full, given):
            lines.append(f"{indent}{name}: null")
        elif inner is not None:
            lines.append(f"{indent}{name}:")
            lines += _lines(inner, f"{full}.", given, notes, depth + 1)
        else:
            value = given[full] if full in given else _default(field)
            lines += [f"{indent}{line}" for line in _as_yaml(name, value)]
        if depth == 0:
            lines.append("")
    return lines


def _is_left_out(field: FieldInfo, full: str, given: dict[str, Any]) -> bool:
    """Tell whether a section may be absent and nothing is given for it."""
    return not field.is_required() and field.default is None and not any(key.startswith(f"{full}.") for key in given)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        raise TypeError("a key of the settings without a default needs an example")
    return str(value) if isinstance(value, PurePath) else list(value) if isinstance(value, tuple) else value


def _allowed(field: FieldInfo) -> str:
    """Return the choices of a key that has few."""
    kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
    choices = [choice for kind in kinds for choice in get_args(kind) if isinstance(choice, str)]
    if not choices or any(get_origin(kind) in (dict, tuple, list) for kind in kinds):
        return ""
    none = " | null" if NoneType in kinds else ""
    return "one of: " + " | ".join(json.dumps(choice) for choice in choices) + none


def _as_yaml(name: str, value: Any) -> list[str]:
    text = yaml.safe_dump({name: value}, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000)
    return text.rstrip("\n").split("\n")


def _first_sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(" ".join(text.split()), width) if text else []
