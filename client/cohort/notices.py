"""What to look at in table and opt-out list, in counts and lines: fit for any log, as no value of anybody is in it."""

from __future__ import annotations

import numpy as np

from client.cohort.link import LinkedRows, inspect
from client.cohort.recordings import Matches, Recordings
from client.cohort.table import CohortTable, read_cohort_table
from client.site.keys import load_keys
from client.site.settings import SiteSettings
from ecgshared.errors import EcgFedError


def unmatched_opt_outs(linked: LinkedRows) -> list[tuple[int, str]]:
    """Return line and id of everyone on the opt-out list whom no row of the table means."""
    met = {by for by in linked.by.values() if by}
    return [(number, name) for name, number in linked.opt_outs.listed.items() if name not in met]


def look_over(settings: SiteSettings) -> list[str]:
    """Return what of a site's table and opt-out list is to be looked at, without looking for any recording."""
    try:
        table = read_cohort_table(settings)
        nowhere = Recordings(settings.records.folder, ()), Matches(np.full(len(table), -1, dtype=np.int64), ())
        linked = inspect(settings, table, load_keys(settings), unlisted=nowhere)
    except EcgFedError as error:
        return [
            f"{error.where or settings.table.path}: {error.what.partition(chr(10))[0]}; until that is mended, "
            "questions about data are refused (ecgfed site check SITE.yaml)"
        ]
    said = lines_to_look_at(table, linked)
    wrong = len(table.faults) + len(linked.faults)
    return said + (
        [f"{table.path}: {wrong} fault(s); until they are mended, questions about data are refused"] if wrong else []
    )


def lines_to_look_at(table: CohortTable, linked: LinkedRows) -> list[str]:
    """Return what of table and opt-out list is to be looked at: counts and lines, fit for any log."""
    said = []
    unmatched = [number for number, _ in unmatched_opt_outs(linked)]
    if unmatched:
        lines = ", ".join(map(str, unmatched[:10])) + (", ..." if len(unmatched) > 10 else "")
        said.append(
            f"{linked.opt_outs.path}: {len(unmatched)} of {len(linked.opt_outs.listed)} ids that opted out are of "
            f"nobody in the table (lines {lines})"
        )
    likely = [place for place, by in linked.by.items() if by and linked.units[place] != by]
    if likely:
        lines = ", ".join(str(number) for number in sorted({linked.opt_outs.listed[linked.by[i]] for i in likely})[:10])
        said.append(
            f"{linked.opt_outs.path}: {len(likely)} patient id(s) of the table are near one that opted out, and are "
            f"left out too (lines {lines})"
        )
    if table.unread:
        cells = ", ".join(f"{name} {count}" for name, count in sorted(table.unread.items()))
        said.append(f"{table.path}: cells that cannot be read count as not known: {cells}")
    return said + (["`ecgfed site check SITE.yaml` shows the values"] if said else [])
