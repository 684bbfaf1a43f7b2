"""Questions on the side: a site that was away when the others were asked is asked for what is missing once it is back.

Nobody waits for these answers. They are asked while a step goes on, and heard at its next turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from ecgshared.errors import RefusalCode
from ecgshared.wire.bytes import MESSAGE_TYPE_ASK, encode_request, to_records
from ecgshared.wire.protocol import Request
from server.rounds.presence import Presence
from server.rounds.replies import FINAL, SiteState, read_reply
from server.rounds.step_context import Replies

_TTL_SECONDS = 3600.0


class AsideQuestions:
    """The questions of one run that wait for answers on the side.

    Parameters
    ----------
    heard : is told of each answer, and of its size, as it comes.
    """

    def __init__(self, grid: Grid, presence: Presence, heard: Callable[[Request, SiteState], None]) -> None:
        self._grid, self._presence, self._heard = grid, presence, heard
        self._open: dict[tuple[str, str], dict[str, SiteState]] = {}

    def ask(self, request: Request, stage: str, sites: tuple[str, ...]) -> Replies:
        """Ask those of ``sites`` that are there and were not asked yet; return what came back so far."""
        states = self._open.setdefault((request.step, request.phase), {})
        states |= {site: SiteState(site) for site in sites if site not in states}
        wanted = [state for site, state in states.items() if site in sites and not state.answered and state.able]
        if any(state.name not in self._presence.nodes for state in wanted):
            self._presence.greet()
        self._hear(request, stage, [state for state in wanted if state.message])
        self._send(request, [state for state in wanted if not state.message and state.able and not state.answered])
        return Replies(
            {site: state.payload for site, state in states.items() if site in sites and state.answered},
            {site: state.why for site, state in states.items() if site in sites and state.why},
        )

    def _send(self, request: Request, states: list[SiteState]) -> None:
        ready = []
        for state in states:
            if state.name not in self._presence.nodes:
                state.why = self._presence.refusal_of(state.name) or "not-connected"
            elif state.name in self._presence.unapproved:
                state.why = RefusalCode.STUDY_NOT_APPROVED
            else:
                ready.append(state)
        records = to_records(encode_request(request))
        asked = [Message(records, self._presence.nodes[s.name], MESSAGE_TYPE_ASK, ttl=_TTL_SECONDS) for s in ready]
        for state, message_id in zip(ready, self._grid.push_messages(asked) if asked else (), strict=True):
            if message_id:
                state.sent(message_id)

    def _hear(self, request: Request, stage: str, states: list[SiteState]) -> None:
        waiting = {state.message: state for state in states}
        for reply in list(self._grid.pull_messages(list(waiting))) if waiting else ():
            state = waiting[reply.metadata.reply_to_message_id]
            read: Any = read_reply(reply, state, request, stage)
            if isinstance(read, str):
                state.miss(read)
                if read not in FINAL:
                    self._presence.part(state.name)
            else:
                state.heard(read)
                self._heard(request, state)
