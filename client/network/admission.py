"""What a site runs is decided here, before a message reaches the process that computes."""

from __future__ import annotations

from typing import Any

from flwr.app import RecordDict

from client.approval.amendments import amended_study
from client.approval.envelope import check_envelope
from client.approval.required import approved_study, require_approved
from client.network.fleet import FleetLink
from client.network.fleet_messages import Head
from client.network.status import is_paused
from client.site.settings import SiteSettings
from ecgshared.errors import RefusalCode, Refused
from ecgshared.service.fingerprint import code_sha256
from ecgshared.study.study import Study
from ecgshared.wire.bytes import MESSAGE_TYPE_ASK, hello_records


class Gate:
    """Holds every run and every request to the site's approvals of this moment; a withdrawal counts at once.

    Parameters
    ----------
    version : of the installed software, told in answers to hello.

    Attributes
    ----------
    version : of the installed software. code : its sha256 when the daemon started.
    """

    def __init__(self, settings: SiteSettings, version: str) -> None:
        self._settings, self.version = settings, version
        self._runs: dict[int, str] = {}
        self.code = code_sha256()

    def forget_runs(self) -> None:
        """Forget what was read about runs: a coordinator that was restarted counts anew."""
        self._runs.clear()

    def check_run(self, head: Head, link: FleetLink) -> None:
        """Refuse a run whose envelope or configuration is not what the site approved; its bytes are read once."""
        if head.run_id not in self._runs:
            fab_hash, overrides = link.run(head.run_id)
            if overrides:
                raise Refused(RefusalCode.OVERRIDES, "the run overrides its configuration")
            require_approved(self._settings, "envelope", fab_hash)
            check_envelope(link.envelope(head.run_id, fab_hash), fab_hash)
            self._runs[head.run_id] = fab_hash
        require_approved(self._settings, "envelope", self._runs[head.run_id])

    def check_request(self, head: Head, asked: dict[str, Any]) -> None:
        """Refuse a question while the site is paused, or whose study is not approved; ``asked`` is what it says."""
        if head.kind != MESSAGE_TYPE_ASK:
            raise Refused(RefusalCode.BAD_REQUEST, "a message of another type")
        if is_paused(self._settings.link_state):
            raise Refused(RefusalCode.PAUSED, "the operator has paused the site")
        require_approved(self._settings, "code", self.code)
        self._require_membership(approved_study(self._settings, str(asked["study_hash"])), asked)

    def hello(self, asked: dict[str, Any]) -> RecordDict:
        """Return the answer to hello: who this is, and the study's hash if it is approved.

        Raises
        ------
        Refused : the code is not approved, or the run's membership is another than this site approved.
        """
        require_approved(self._settings, "code", self.code)
        try:
            study = approved_study(self._settings, str(asked["study_hash"]))
        except Refused:
            return hello_records(self._settings.site, "", self.version)
        self._require_membership(study, asked)
        return hello_records(self._settings.site, study.sha256, self.version)

    def _require_membership(self, study: Study, asked: dict[str, Any]) -> None:
        amended_study(self._settings, study, str(asked["run"]), str(asked.get("amendment", "")))
