"""Blocks of a study that stand for many steps: recipes compared in pairs, each hospital alone, one hospital left out.

::

    compare:
      recipes: {steps: [fedavg, fedprox, batchnorm], heads: [scd_1y]}
      federation: {steps: [fedavg], each_alone: true, heads: [scd_1y]}
    leave_one_out:
      unseen: {step: fedavg, heads: [scd_1y]}

A block is written out as train and contrast steps behind the study's own when the study is read, and nothing of it is
left but these: what a hospital approves is what runs. Differences are of AUCs on the same ECGs of the lockboxes and of
hospitals that never trained, paired, with interval and P, at each hospital and over each group of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import Field

from ecgshared.config import Config, Label, validate
from ecgshared.errors import ConfigError

_LONGEST = 40


class CompareBlock(Config):
    """Steps beside each other: the first against each of the others, one contrast step a head."""

    steps: tuple[str, ...] = Field(
        min_length=1,
        max_length=15,
        description="train steps, or calibrate steps; the first is compared with the others",
    )
    heads: tuple[str, ...] | None = Field(
        default=None, min_length=1, max_length=6, description="endpoints; those of the first train step where left out"
    )
    each_alone: bool = Field(
        default=False, description="also against the first step, a train step, done by each of its hospitals alone"
    )
    sites: tuple[str, ...] | str | None = Field(default=None, description="where they are judged; everywhere")
    population: str | None = Field(default=None, description="whose ECGs judge: one of the study's `populations`")
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    label: Label = Field(default=None, description="how the report calls it")


class LeaveOneOutBlock(Config):
    """A train step done again without each of its hospitals, and judged at the one left out beside the step itself."""

    step: str = Field(description="a train step of two hospitals or more")
    heads: tuple[str, ...] | None = Field(
        default=None, min_length=1, max_length=6, description="endpoints; those of the step where left out"
    )
    population: str | None = Field(default=None, description="whose ECGs judge: one of the study's `populations`")
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    label: Label = Field(default=None, description="how the report calls it")


def expand(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study as it is written, with its blocks as steps in place of ``compare`` and ``leave_one_out``.

    Raises
    ------
    ValueError : a block names what it cannot, or makes names that are too long or taken.
    """
    blocks = {key: study.get(key) or {} for key in ("compare", "leave_one_out")}
    steps = study.get("steps")
    if not any(blocks.values()) or not isinstance(steps, list | tuple):
        return dict(study)
    for key, value in blocks.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{key}: must name blocks, each with keys of its own")
    made = _Made([step if isinstance(step, Mapping) else step.model_dump(by_alias=True) for step in steps], study)
    for name, content in blocks["compare"].items():
        made.compare(name, _read(CompareBlock, content, f"compare.{name}"))
    for name, content in blocks["leave_one_out"].items():
        made.leave_one_out(name, _read(LeaveOneOutBlock, content, f"leave_one_out.{name}"))
    rest = {key: value for key, value in study.items() if key not in blocks}
    return {**rest, "steps": [*steps, *made.trained, *made.contrasts]}


def _read(model: type[Any], content: Any, where: str) -> Any:
    try:
        return validate(model, content if isinstance(content, dict) else {}, where=where)
    except ConfigError as error:
        raise ValueError(str(error)) from None


class _Made:
    """The steps that blocks become."""

    def __init__(self, steps: list[Mapping[str, Any]], study: Mapping[str, Any]) -> None:
        self._steps = {str(step.get("id")): step for step in steps}
        sites = study.get("sites")
        self._train = (
            list(sites.get("train") or ()) if isinstance(sites, Mapping) else list(getattr(sites, "train", ()))
        )
        self.trained: list[dict[str, Any]] = []
        self.contrasts: list[dict[str, Any]] = []

    def compare(self, name: str, block: CompareBlock) -> None:
        where = f"compare.{name}"
        first = self._step(where, block.steps[0])
        for other in block.steps:
            self._step(where, other)
        steps = list(block.steps)
        if block.each_alone:
            for site in self._members(where, first, least=2):
                what = f"{first.get('label') or first['id']}, {site} alone"
                steps.append(self._train_again(where, first, f"{first['id']}_alone_{site}", [site], what, name))
        if len(steps) < 2:
            raise ValueError(f"{where}: names one step, and nothing to compare it with; name another, or each_alone")
        asked = {key: getattr(block, key) for key in ("sites", "population", "max_age", "label")}
        heads = self._heads(where, block.heads, first)
        for head in heads:
            self._contrast(where, name, head, steps, heads, asked, name)

    def leave_one_out(self, name: str, block: LeaveOneOutBlock) -> None:
        where = f"leave_one_out.{name}"
        step = self._step(where, block.step)
        members = self._members(where, step, least=2)
        heads = self._heads(where, block.heads, step)
        for site in members:
            others = [other for other in members if other != site]
            what = f"{step.get('label') or step['id']}, without {site}"
            left = self._train_again(where, step, f"{step['id']}_without_{site}", others, what, name)
            words = f"{block.label or name.replace('_', ' ')}: {site} left out"[:80]
            asked = {"sites": [site], "population": block.population, "max_age": block.max_age, "label": words}
            for head in heads:
                self._contrast(where, f"{name}_{site}", head, [str(step["id"]), left], heads, asked, name)

    def _step(self, where: str, name: str) -> Mapping[str, Any]:
        found = self._steps.get(name)
        allowed = [key for key, step in self._steps.items() if step.get("stage") in ("train", "calibrate")]
        if found is None or name not in allowed:
            close = get_close_matches(name, allowed, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed) or '(there is none)'}"
            raise ValueError(f"{where}: {name!r} is no train step and no calibrate step of the study; {hint}")
        return found

    def _members(self, where: str, step: Mapping[str, Any], *, least: int) -> list[str]:
        if step.get("stage") != "train" or step.get("import") is not None:
            raise ValueError(f"{where}: {step['id']!r} is no step that is trained in this study")
        sites = step.get("sites") or "train"
        members = self._train if isinstance(sites, str) else [str(site) for site in sites]
        if len(members) < least:
            raise ValueError(f"{where}: {step['id']!r} is trained by fewer than {least} hospitals")
        return members

    def _heads(self, where: str, named: tuple[str, ...] | None, step: Mapping[str, Any]) -> tuple[str, ...]:
        heads = named or tuple(step.get("heads") or ()) or tuple(filter(None, [step.get("target")]))
        if not heads:
            raise ValueError(f"{where}: {step['id']!r} has no heads; name endpoints under heads")
        return heads

    def _train_again(
        self, where: str, step: Mapping[str, Any], name: str, sites: list[str], label: str, block: str
    ) -> str:
        """Add a train step as ``step`` is, at other sites, once; return its id."""
        copy = {**step, "id": self._id(where, name), "sites": sites, "label": label[:80], "block": block}
        if all(known["id"] != copy["id"] for known in self.trained):
            self.trained.append(copy)
        return str(copy["id"])

    def _contrast(
        self,
        where: str,
        name: str,
        head: str,
        steps: Iterable[str],
        heads: tuple[str, ...],
        asked: Mapping[str, Any],
        block: str,
    ) -> None:
        trained = {str(step["id"]): step for step in self.trained} | self._steps
        scores = [f"{step}.{head}" if trained[step].get("stage") == "train" else step for step in steps]
        self.contrasts.append(
            {
                "id": self._id(where, name if len(heads) == 1 else f"{name}_{head}"),
                "stage": "contrast",
                "uses": list(steps),
                "scores": scores,
                "outcomes": [head],
                "block": block,
                **{key: value for key, value in asked.items() if value is not None},
            }
        )

    def _id(self, where: str, name: str) -> str:
        if len(name) > _LONGEST:
            raise ValueError(
                f"{where}: would make a step {name!r} of more than {_LONGEST} characters; shorten its names"
            )
        if name in self._steps:
            raise ValueError(f"{where}: would make a step {name!r}, which the study has already; rename one")
        return name
