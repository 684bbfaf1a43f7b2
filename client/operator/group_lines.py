"""Whom a study's steps would speak of at this site, and which of them would be refused: read before it is approved."""

from __future__ import annotations

from client.dataset.data import SiteData
from client.dataset.opening import open_cohort
from client.egress.memory import Asked, GroupMemory
from client.rows.groups import GROUP, closed_in_study, groups_of, here_of
from client.site.settings import SiteSettings
from ecgshared.errors import EcgFedError
from ecgshared.study.study import Study


def group_lines(settings: SiteSettings, study: Study) -> list[str]:
    """Return lines for the terminal: the groups with their sizes, on this terminal only, and what is closed and why.

    All steps are held against each other, in their order, and against all that this site told before.
    """
    title = "groups: whom each step speaks of here, by split, and what would be refused"
    if settings.site not in study.sites.all:
        return []
    try:
        data, _ = open_cohort(settings, study, may_read=False)
        return ["", title, *_lines(settings, study, GroupMemory(settings.state), data)]
    except EcgFedError as error:
        why = error.what.split("\n")[0]
        return ["", title, f"  not known yet: {why}" + (f" ({error.remedy})" if error.remedy else "")]


def _lines(settings: SiteSettings, study: Study, memory: GroupMemory, data: SiteData) -> list[str]:
    trains, here = settings.site in study.sites.train, here_of(data)
    before: list[Asked] = []
    lines, refused = list[str](), 0
    for step in study.steps:
        if step.frozen is not None or settings.site not in study.members(step):
            continue
        own = groups_of(data, study, step, settings.limits, trains=trains)
        sizes = [f"{one.name}: {one.size} patient(s)" for one in own if one.topic == GROUP]
        lines += [f"  {step.id}: {text}" for text in sizes or ["nobody"]]
        judged = memory.judge([*before, *own], here=here)[len(before) :]
        why = closed_in_study(data, study, step, settings) or next((f.in_words() for f in judged if f is not None), "")
        if why and not settings.limits.withhold_nothing:
            refused += 1
            lines.append(f"  {step.id}: WOULD BE REFUSED: {why}")
        else:
            before += own
    lines.append(
        f"  {refused} step(s) would be refused here" if refused else "  no step would be refused for its group"
    )
    return lines
