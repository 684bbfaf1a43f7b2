"""One trail of a site: what was approved, asked, opened, paid and sent, from its chained logs, each verified first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from client.approval.register import FILE as APPROVALS
from client.egress import memory, questions
from client.egress.gate import RELEASES
from client.egress.ledger import Ledger
from client.site.keys import log_key
from client.site.lockbox import LOCKBOX_FILE
from client.site.logs import from_its_start
from client.site.settings import SiteSettings
from ecgshared.errors import EcgFedError
from ecgshared.service.chain import ChainedLog

_WHEN = ("at", "time")


@dataclass
class Trail:
    """What a site's logs tell.

    Attributes
    ----------
    logs : by log, how many lines it has, or what is wrong with it.
    entries : of all logs that hold, the oldest first: when, which log, what is said there.
    broken : the logs that are not what was written.
    """

    logs: dict[str, str] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, as JSON holds it."""
        return {"holds": not self.broken, "logs": self.logs, "entries": self.entries}

    def as_lines(self) -> list[str]:
        """Return it for reading."""
        lines = [f"{entry['at'] or '?':<25} {entry['log']:<10} {_said(entry['line'])}" for entry in self.entries]
        lines += [f"{name}: {told}" for name, told in self.logs.items()]
        end = f"NOT TO BE RELIED ON: {', '.join(self.broken)}" if self.broken else "every log is what was written"
        return [*lines, end]


def read_trail(settings: SiteSettings) -> Trail:
    """Verify every log of a site, and join those that hold."""
    state, trail = settings.state, Trail()
    for path in sorted({state / APPROVALS, *state.glob("approvals-*.jsonl")}):
        _take(trail, path.stem, lambda p=path: from_its_start(p).lines())  # type: ignore[misc]
    _take(trail, "lockbox", lambda: from_its_start(state / LOCKBOX_FILE).lines())
    _take(trail, "releases", lambda: from_its_start(state / RELEASES).lines())
    for name, module in (("questions", questions), ("groups", memory)):
        path, anchor = state / module.FOLDER / module.FILE, state / "keys" / module.ANCHOR
        chain = ChainedLog(path, anchor, lambda m=module: log_key(state, m.FOLDER))  # type: ignore[misc]
        _take(trail, name, chain.lines)
    _take(trail, "privacy", lambda: [{"kind": "charge", **asdict(charge)} for charge in Ledger(state).entries()])
    trail.entries.sort(key=lambda entry: entry["at"] or "")
    return trail


def _take(trail: Trail, name: str, lines: Callable[[], list[dict[str, Any]]]) -> None:
    try:
        found = lines()
    except (EcgFedError, OSError) as error:
        trail.logs[name] = getattr(error, "what", None) or str(error)
        trail.broken.append(name)
        return
    trail.logs[name] = f"{len(found)} line(s)"
    for line in found:
        at = next((str(line[key]).replace("+00:00", "Z") for key in _WHEN if line.get(key)), None)
        trail.entries.append({"at": at, "log": name, "line": line})


def _said(line: dict[str, Any]) -> str:
    shown = {key: value for key, value in line.items() if key not in (*_WHEN, "fields") and not isinstance(value, dict)}
    return ", ".join(f"{key} {str(value)[:40]}" for key, value in shown.items() if value not in ("", None, False))
