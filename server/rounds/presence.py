"""Which node is which site, and which of them would answer: learned by greeting nodes, and forgotten where one parted.

In a federation of hospitals the coordinator's registry says which site a node is; a hello that claims another name is
not heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

from ecgshared.errors import RunError
from ecgshared.study.study import Study
from ecgshared.wire.bytes import MESSAGE_TYPE_HELLO, encode_request, refusal_of, to_records
from ecgshared.wire.protocol import Request

POLL_SECONDS = 0.05
_HELLO_AGAIN_SECONDS = 15.0
_LATECOMERS_SECONDS = 3.0


class Presence:
    """The sites of one run that are there.

    Parameters
    ----------
    hello : what nodes are greeted with.
    site_of : which site a node is, by the key it was let in with; None where every node is believed.

    Attributes
    ----------
    nodes : node by site. unapproved : those of them that have not approved the study.
    """

    def __init__(self, grid: Grid, study: Study, hello: Request, site_of: Callable[[int], str | None] | None) -> None:
        self._grid, self._study, self._hello, self._site_of = grid, study, hello, site_of
        self.nodes: dict[str, int] = {}
        self.unapproved: set[str] = set()
        self._refusing: dict[str, tuple[int, str]] = {}
        self._greeted: dict[int, float] = {}
        self._hellos: dict[str, int] = {}

    def connect(
        self, wanted: tuple[str, ...], seconds: float, check: Callable[[], None], *, enough: int | None = None
    ) -> None:
        """Learn which node is which site, until all of ``wanted`` are known or ``seconds`` are over.

        Once ``enough`` of them are known the others have a few seconds more. ``check`` may end the wait by raising.
        """
        end = time.monotonic() + seconds
        for site in set(wanted) & set(self._refusing):
            self.part(site)
        while not set(wanted) <= {*self.nodes, *self._refusing} and time.monotonic() < end:
            check()
            if enough is not None and len(set(wanted) & set(self.nodes)) >= enough:
                end, enough = min(end, time.monotonic() + _LATECOMERS_SECONDS), None
            if not self.greet():
                time.sleep(POLL_SECONDS)

    def refusal_of(self, site: str) -> str | None:
        """Return why a site refused to be greeted; None where it did not."""
        refused = self._refusing.get(site)
        return None if refused is None else refused[1]

    def greet(self) -> bool:
        """Ask unknown nodes who they are, and hear those that answer; return whether there was any."""
        at, known = time.monotonic(), set(self.nodes.values())
        due = at - _HELLO_AGAIN_SECONDS
        new = [n for n in self._grid.get_node_ids() if n not in known and self._greeted.get(n, due) <= due]
        self._greeted |= dict.fromkeys(new, at)
        if new:
            hello = to_records(encode_request(self._hello))
            pushed = self._grid.push_messages([Message(hello, node, MESSAGE_TYPE_HELLO, ttl=120.0) for node in new])
            self._hellos |= {message_id: node for message_id, node in zip(pushed, new, strict=True) if message_id}
        replies = list(self._grid.pull_messages(list(self._hellos))) if self._hellos else []
        for reply in replies:
            self._introduce(reply, self._hellos.pop(reply.metadata.reply_to_message_id))
        return bool(new or replies)

    def part(self, site: str) -> None:
        """Know no longer which node a site is: it may come back as another, or have approved more."""
        for node in (self.nodes.pop(site, None), self._refusing.pop(site, (None, ""))[0]):
            if node is not None:
                self._greeted.pop(node, None)
        self.unapproved.discard(site)

    def _introduce(self, reply: Message, node: int) -> None:
        if not reply.has_content():
            return
        refusal = refusal_of(reply.content)
        if refusal is not None:
            # A site that has not approved the code or the envelope says so instead of its name's study.
            site, code = refusal
            if self._site_of is None or self._site_of(node) == site:
                self._refusing[site] = node, code.value
            return
        if "hello" not in reply.content.config_records:
            return
        hello = reply.content.config_records["hello"]
        site = str(hello.get("site", ""))
        if site not in self._study.sites.all:
            return
        if self._site_of is not None:
            if self._site_of(node) != site:
                return
        elif self.nodes.get(site, node) != node:
            raise RunError(f"two nodes both say they are site {site!r}", remedy="give each site file a name of its own")
        self.nodes[site] = node
        self._refusing.pop(site, None)
        self.unapproved.discard(site)
        if hello.get("study") != self._study.sha256:
            self.unapproved.add(site)
