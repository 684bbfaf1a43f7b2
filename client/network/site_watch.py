"""The site file beside a running daemon: what of it counts at once, what waits for a restart, and saying both.

The files of certificate and authority may be put in the place of others while it runs; the key may not.
"""

from __future__ import annotations

from client.network.enrol import RENEWED, RENEWED_AUTHORITY
from client.network.journal import Journal
from client.network.status import StatusFile
from client.site.current import FileMark, SiteFile
from client.site.settings import SiteSettings, network_of
from ecgshared.errors import EcgFedError, RefusalCode, Refused


class SiteWatch:
    """Looks at the site file, and at key and certificates of the connection.

    :meth:`look` is for one thread; any may call :meth:`require`.
    """

    def __init__(self, file: SiteFile, journal: Journal, status: StatusFile) -> None:
        self._file, self._journal, self._status = file, journal, status
        self._seen = file.now()
        network = network_of(self._seen)
        self._key = FileMark(network.key)
        kept = self._seen.link_state / "network"
        files = (network.ca, network.certificate, kept / RENEWED, kept / RENEWED_AUTHORITY)
        self._certificates = {path: FileMark(path) for path in files}
        self._told: tuple[str | None, tuple[str, ...]] = (None, ())

    def certificate_changed(self) -> bool:
        """Tell, once, whether the file of the certificate or of the authority holds another one."""
        changed = [path for path, mark in self._certificates.items() if mark.changed()]
        self._certificates |= {path: FileMark(path) for path in changed}
        return bool(changed)

    def require(self) -> SiteSettings:
        """Return the settings of this moment.

        Raises
        ------
        Refused : DATA_UNAVAILABLE where the file cannot be used, or belongs to another site than this daemon's.
        """
        try:
            return self._file.now()
        except EcgFedError as error:
            raise Refused(RefusalCode.DATA_UNAVAILABLE, error.what, where=error.where, remedy=error.remedy) from error

    def look(self) -> None:
        """Say what changed since the last look: once, in the journal, and as long as it is so in the status."""
        fault: str | None = None
        settings = self._seen
        try:
            settings = self._file.now()
        except EcgFedError as error:
            fault = error.what
        waiting = self._file.waiting_for_restart()
        waiting += ("the file of network.key",) if self._key.changed() else ()
        before, self._told = self._told, (fault, waiting)
        if self._told != before:
            self._status.set(site_file_fault=fault, restart_for=list(waiting))
        if fault is not None and fault != before[0]:
            text = f"nothing is answered: the site file cannot be used: {fault}"
            self._journal.tell("site-file", text, warn=True)
        elif fault is None and before[0] is not None:
            self._journal.tell("site-file", "the site file can be used again")
        if waiting and waiting != before[1]:
            text = f"changed, and counts only after a restart: {', '.join(waiting)}"
            self._journal.tell("restart-needed", text, warn=True)
        if settings is not self._seen:
            self._seen = settings
            self._journal.tell("site-file", "the site file changed; it counts from the next question on")
