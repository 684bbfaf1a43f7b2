"""What ``ecgfed study`` says of a study file: its steps as a graph, what sites must map for it, what would leave.

A study is read by :func:`ecgshared.study.study.load_study`; nothing here knows a stage by name.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from textwrap import wrap

from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically
from ecgshared.study.columns import STANDARD_COLUMNS
from ecgshared.study.needed import needed_columns
from ecgshared.study.registry import shared_room
from ecgshared.study.study import Study
from ecgshared.wire.protocol import StepConfig

SCHEMA_FILE = "study.schema.json"
"""Lies beside a study that was begun from a template, and its first line names it to editors."""


def templates() -> dict[str, str]:
    """Return the templates by name, each with the words of its first line."""
    found = sorted((path for path in files("ecgfed").joinpath("templates").iterdir()), key=lambda path: path.name)
    return {
        path.name.removesuffix(".yaml"): path.read_text(encoding="utf-8").split("\n")[0].lstrip("# ")
        for path in found
        if path.name.endswith(".yaml")
    }


def begin(
    template: str,
    out: Path,
    name: str,
    sites: tuple[str, ...] = (),
    rounds: int | None = None,
    *,
    replace: bool = False,
) -> list[str]:
    """Write a study from a template, and its schema beside it; return the names that were made up for its sites.

    ``rounds``: of every train step, where they are not to be the template's. ``replace``: also over a file there.

    Raises
    ------
    ConfigError : there is no such template, there is a file already, or the name is no name.
    """
    if template not in templates():
        raise ConfigError("there is no such template", value=template, allowed=", ".join(templates()))
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", name):
        raise ConfigError(
            "a study's name is lower case: letters, digits, _ and -, a letter first", value=name, remedy="give --name"
        )
    if out.exists() and not replace:
        raise ConfigError("there is a file of this name already", where=out, remedy="another --out, or --replace")
    text = files("ecgfed").joinpath("templates", f"{template}.yaml").read_text(encoding="utf-8")
    places = list(dict.fromkeys(re.findall(r"SITE_[A-Z]", text)))
    given = _placed(text, places, sites)
    for place in places:
        text = text.replace(place, given.get(place, place.lower()))
    text = text.replace("name: NAME", f"name: {name}", 1)
    if rounds is not None:
        text = re.sub(r"\brounds: \d+", f"rounds: {rounds}", text)
    from ecgfed._schema import schema

    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out.parent / SCHEMA_FILE, json.dumps(schema("study"), indent=1).encode())
    write_atomically(out, f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}".encode())
    return [place.lower() for place in places if place not in given]


def _placed(text: str, places: list[str], sites: tuple[str, ...]) -> dict[str, str]:
    """Give hospitals the template's places in order; those beyond them train beside the last that trains.

    In a template where nobody trains they stand beside the last place.
    """
    if len(sites) <= len(places):
        return dict(zip(places, sites, strict=False))
    trains = re.search(r"^sites:.*?train: \[(.*?)\]", text, re.M)
    crowded = places.index(trains[1].split(", ")[-1]) if trains else len(places) - 1
    after = len(places) - 1 - crowded
    several = ", ".join(sites[crowded : len(sites) - after])
    return dict(zip(places, (*sites[:crowded], several, *sites[len(sites) - after :]), strict=True))


def summary(study: Study) -> list[str]:
    """Return what a study would do, what each site must map, and what would leave, as lines."""
    lines = [
        f"study {study.name}: {study.about or 'no word about it'}",
        f"  hash      {study.sha256}",
        f"  trains    {', '.join(study.sites.train) or 'nobody'}",
        f"  judges    {', '.join(study.sites.zero_shot) or 'nobody else'}",
        "",
        "what each site must map (`ecgfed site columns` tells what a column holds):",
        *(f"  {name:<18} {_meaning(name)}; for {', '.join(why)}" for name, why in needed_columns(study).items()),
        "",
    ]
    for number, step in enumerate(study.steps, start=1):
        lines += _step(study, step, number)
    return lines


def _meaning(name: str) -> str:
    column = STANDARD_COLUMNS.get(name)
    return "a label of the site's own" if column is None else column.meaning


def _step(study: Study, step: StepConfig, number: int) -> list[str]:
    room = shared_room(step.stage)
    whom = "everybody eligible" if step.population is None else f"population {step.population}"
    sentence = (room.__doc__ or "").strip().split("\n")[0].removeprefix(f"{step.stage}: ")
    lines = [f"{number}. {step.id} ({step.stage}): {sentence}"]
    if step.frozen is not None:
        return [*lines, f"   taken from {step.frozen.file}; no site is asked"]
    lines.append(f"   asks {', '.join(study.members(step))} about {whom}")
    if step.opens_lockbox:
        lines.append("   OPENS THE LOCKBOX where the site trains")
    for words in dict.fromkeys(getattr(room, "LEAVES", {}).values()):
        lines += wrap(words, 100, initial_indent="   leaves: ", subsequent_indent="           ")
    return lines


def graph(study: Study, *, mermaid: bool = False) -> str:
    """Return the steps and what each uses: as a Mermaid flowchart, or as lines for a terminal."""
    if not mermaid:
        width = max(len(step.id) for step in study.steps)
        rows = [
            f"{step.id:<{width}}  {step.stage:<18} {'<- ' + ', '.join(step.uses) if step.uses else ''}".rstrip()
            for step in study.steps
        ]
        return "\n".join(rows)
    lines = ["flowchart LR"]
    lines += [f'  {step.id}["{step.label or step.id}<br><i>{step.stage}</i>"]' for step in study.steps]
    lines += [f"  {used} --> {step.id}" for step in study.steps for used in step.uses]
    return "\n".join(lines)
