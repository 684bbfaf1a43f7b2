"""JSON Schemas and key references of the three files that people write: a study, a site file, a scenario.

Both are made from the models that read the files, so that what an editor completes is what ecgfed accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

FILES = ("study", "site", "scenario")

Schema = dict[str, Any]


def schema(file: str) -> Schema:
    """Return the JSON Schema (draft 2020-12) of one of :data:`FILES`.

    Raises
    ------
    KeyError : there is no such file.
    """
    made = {"study": _study, "site": _site, "scenario": _scenario}[file]()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _site() -> Schema:
    from client.site.settings import SiteSettings

    return SiteSettings.model_json_schema()


def _scenario() -> Schema:
    from simulations.patients.scenario import Scenario

    made: Schema = Scenario.model_json_schema()
    # What another scenario says need not be said again.
    needed = [key for key in made["required"] if key not in ("name", "purpose")]
    made["required"] = ["name", "purpose"]
    made["anyOf"] = [{"required": ["like"]}, {"required": needed}]
    return made


def _study() -> Schema:
    """The study's own schema, with the steps told apart by the stage that they name."""
    from ecgshared.study.registry import STAGES, shared_room
    from ecgshared.study.study import Study

    rooms = {stage: shared_room(stage) for stage in STAGES}
    mode: JsonSchemaMode = "validation"
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Study, mode), *((r.Config, mode) for r in rooms.values())]
    found, defined = models_json_schema(models, by_alias=True)
    definitions = defined["$defs"]
    steps = []
    for stage, room in rooms.items():
        reference = found[room.Config, mode]
        step = definitions[reference["$ref"].rsplit("/", 1)[-1]]
        step["properties"]["stage"] = {"const": stage, "description": (room.__doc__ or stage).strip().split("\n")[0]}
        step["title"] = f"Step: {stage}"
        steps.append(reference)
    study: Schema = definitions.pop(found[Study, mode]["$ref"].rsplit("/", 1)[-1])
    study["properties"]["steps"]["items"] = {"oneOf": steps, "discriminator": {"propertyName": "stage"}}
    return {**study, "$defs": definitions}


def reference(file: str) -> str:
    """Return every key of one of :data:`FILES` as Markdown: what it holds, what it is where it is left out."""
    whole = schema(file)
    lines = [
        f"# Keys of a {file} file",
        "",
        f"Made by `ecgfed schema {file} --markdown` from the models that read the file. A key that is not listed is an",
        "error. *required* marks what has no default.",
    ]
    for title, part in [(file, whole), *sorted(whole.get("$defs", {}).items())]:
        if part.get("properties"):
            lines += ["", f"## {part.get('title', title)}", *_about(part), "", "| key | holds | default | meaning |"]
            lines += ["| --- | --- | --- | --- |", *_rows(part, whole)]
    return "\n".join(lines) + "\n"


def _about(part: Schema) -> list[str]:
    text = _cell(str(part.get("description", "")).split("\n\n")[0])
    return ["", text] if text else []


def _rows(part: Schema, whole: Schema) -> Iterator[str]:
    required = set(part.get("required", ()))
    for name, value in part["properties"].items():
        default = "*required*" if name in required or (name == "stage" and "const" in value) else _default(value)
        yield f"| `{name}` | {_cell(_holds(value, whole))} | {default} | {_cell(value.get('description', ''))} |"


def _default(value: Schema) -> str:
    found = value.get("default")
    if isinstance(found, dict) and found:
        return "see there"
    return "none" if found in (None, [], {}, "") else f"`{json.dumps(found)}`"


def _holds(value: Schema, whole: Schema) -> str:
    """Say in words what a value may be."""
    if "$ref" in value:
        target = whole["$defs"][value["$ref"].rsplit("/", 1)[-1]]
        return f"[{target.get('title', 'mapping')}](#{_anchor(target.get('title', ''))})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{v}`" for v in value["enum"])
    for several in ("anyOf", "oneOf"):
        if several in value:
            parts = [_holds(v, whole) for v in value[several] if v.get("type") != "null"]
            return " or ".join(dict.fromkeys(parts))
    kind = value.get("type", "anything")
    if kind == "array":
        inner = _holds(value["items"], whole) if "items" in value else _several(value, whole)
        return f"list of {inner}"
    if kind == "object":
        patterns = list(value.get("patternProperties", {}).values())
        inside = patterns[0] if patterns else value.get("additionalProperties")
        return f"name: {_holds(inside, whole)}" if isinstance(inside, dict) else "mapping"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return words.get(kind, str(kind)) + _bounds(value)


def _several(value: Schema, whole: Schema) -> str:
    return ", ".join(_holds(v, whole) for v in value.get("prefixItems", ())) or "values"


def _bounds(value: Schema) -> str:
    said = [
        f"{words} {value[key]:g}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in value
    ]
    return f", {', '.join(said)}" if said else ""


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _cell(text: str) -> str:
    """One line; a docstring's marks become Markdown's, and no bar ends the cell."""
    plain = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return " ".join(plain.split()).replace("|", "\\|")
