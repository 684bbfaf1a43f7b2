"""A Grid that calls the ClientApp in this process: the federation of a laptop, by the code of the hospital.

Each site's requests wait until the coordinator pulls; then one is computed, so that progress shows site by site.
What travels is bytes (``ecgshared/wire/bytes.py``), so that no site can change another's request.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from server.rounds.flower_insides import Run, TaskIdentity

_RUN_ID, _SERVER_NODE = 1, 1


class InProcessGrid(Grid):
    """Nodes 2, 3, ... are the sites of ``site_files``, in their order."""

    def __init__(self, app: ClientApp, site_files: Iterable[Path]) -> None:
        self._app = app
        self._contexts = {
            node: Context(_RUN_ID, node, {"site": str(path)}, RecordDict(), {})
            for node, path in enumerate(site_files, start=2)
        }
        self._waiting: dict[str, Message] = {}
        self._run = Run.create_empty(_RUN_ID)
        # Flower stamps messages with the identity of the task it runs them in; here the process is that task.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, _SERVER_NODE

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; kept for Flower's interface."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; return their ids."""
        ids = []
        for message in messages:
            message_id = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Compute and return the reply to the first of ``message_ids`` that waits."""
        for message_id in message_ids:
            if message_id in self._waiting:
                message = self._waiting.pop(message_id)
                return [self._app(message, self._contexts[message.metadata.dst_node_id])]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, compute all, and return the replies."""
        ids = list(self.push_messages(messages))
        return [reply for message_id in ids for reply in self.pull_messages([message_id])]
