"""How many different questions a site answers about one fit: counted by what is asked, whatever the run is called.

Each answer is a sum over the same people under other weights. Enough of them could be solved for those people, and a
coordinator could ask for ever under new run names. A question asked again, word for word, is free: it tells nothing
new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from client.rows.context import SiteContext
from ecgshared.errors import RefusalCode, Refused
from ecgshared.service.files import append_line
from ecgshared.wire.protocol import Request

FOLDER = "questions"


def spend_score(site: SiteContext, request: Request) -> None:
    """Count the frozen artefacts (``<step>.<array>``) that a request comes with; a step judges one score.

    Two scores that rank but one patient otherwise, or two thresholds with one patient between them, tell of that
    patient when any two figures are subtracted, however large the groups are.

    Raises
    ------
    Refused : ``BUDGET_SPENT`` where the step was asked about another score before.
    """
    spend(site, request, "score", cap=1, of=[name for name in request.arrays if "." in name])


def spend(site: SiteContext, request: Request, topic: str, *, cap: int, of: Iterable[str] | None = None) -> None:
    """Count a question before it is answered; refuse the one past ``cap``.

    Parameters
    ----------
    topic : what the cap holds for (phase and model, say).
    of : names of the arrays that tell one question from another; None: all.

    Raises
    ------
    Refused : ``BUDGET_SPENT``. Only another study, which the site approves anew, starts a new count.
    """
    arrays = {name: request.arrays[name] for name in (request.arrays if of is None else of)}
    spend_of(site, f"{request.study_hash[:32]}-{request.step}", topic, arrays, cap=cap)


def spend_of(site: SiteContext, account: str, topic: str, arrays: Mapping[str, Any], *, cap: int) -> None:
    """Count a question as :func:`spend` does, in an account of another name than the study's and the step's."""
    digest = hashlib.sha256(topic.encode() + b"\0")
    for name in sorted(arrays):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name]).tobytes())
    path = site.settings.state / FOLDER / f"{account}.log"
    asked = set(path.read_text(encoding="ascii").split("\n")) if path.exists() else set()
    head = hashlib.sha256(topic.encode()).hexdigest()[:16]
    line = f"{head} {digest.hexdigest()}"
    if line in asked:
        return
    if sum(known.startswith(head) for known in asked) >= cap:
        raise Refused(
            RefusalCode.BUDGET_SPENT,
            "the questions of this study about this fit are spent",
            value=topic,
            allowed=f"{cap} different ones",
        )
    append_line(path, line)
