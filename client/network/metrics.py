"""What a site's daemon tells a Prometheus on the same machine: counts, sizes and times of its answers, never a value.

Served on 127.0.0.1 only, from a registry of its own. Labels are stages, phases, refusal codes and names of studies
the site approved: words of the study or of this program, never of the data.
"""

from __future__ import annotations

import re
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from ecgshared.errors import RefusalCode, RunError

LOOPBACK = "127.0.0.1"
_LABEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
"""From a count of a small cohort to a night of training."""


class SiteMetrics:
    """The metrics of one site's daemon, served as long as it is open.

    Parameters
    ----------
    port : on 127.0.0.1; 0 picks a free one.

    Attributes
    ----------
    port : the port they are served on, under ``/metrics``.

    Raises
    ------
    RunError : the port is taken or out of range.
    """

    def __init__(self, port: int) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._answers = Histogram(
            "ecgfed_site_answer_seconds",
            "Seconds to compute an answer.",
            ["stage", "phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._bytes = Counter(
            "ecgfed_site_released_bytes", "Bytes that left the site in answers.", ["stage", "phase"], registry=registry
        )
        self._refusals = Counter(
            "ecgfed_site_refusals", "Requests the site declined, by code.", ["code"], registry=registry
        )
        self._connected = Gauge("ecgfed_site_connected", "1 while the coordinator answers.", registry=registry)
        self._paused = Gauge("ecgfed_site_paused", "1 while the operator has paused the site.", registry=registry)
        self._disk = Gauge("ecgfed_site_disk_free_bytes", "Room left for the site's state.", registry=registry)
        self._build = Gauge(
            "ecgfed_site_build_info", "1; version and code of the software.", ["version", "code"], registry=registry
        )
        self._registry = registry
        self._last: Gauge | None = None
        self._certificate = Gauge(
            "ecgfed_site_certificate_not_after_timestamp_seconds",
            "Time at which the site's certificate expires.",
            registry=registry,
        )
        self._budget = Gauge(
            "ecgfed_site_epsilon_spent", "Epsilon spent by a study at this site.", ["study"], registry=registry
        )
        # Not 0: an alarm that waits for an old certificate must not ring before there is one.
        self._certificate.set(float("nan"))
        for code in RefusalCode:
            self._refusals.labels(code.value)
        try:
            self._server, self._thread = start_http_server(port, addr=LOOPBACK, registry=registry)
        except (OSError, OverflowError) as error:
            raise RunError(
                "metrics cannot be served", where=f"{LOOPBACK}:{port}", remedy="choose another metrics_port"
            ) from error
        self.port = int(self._server.server_port)

    def answered(self, stage: str, phase: str, seconds: float, bytes_out: int) -> None:
        """Count an answer: how long it took to compute, and how many bytes left."""
        self._answers.labels(_label(stage), _label(phase)).observe(seconds)
        self._bytes.labels(_label(stage), _label(phase)).inc(bytes_out)
        if self._last is None:
            # Not before there is an answer: 0 would be one in 1970.
            self._last = Gauge(
                "ecgfed_site_last_answer_timestamp_seconds", "Time of the last answer.", registry=self._registry
            )
        self._last.set(time.time())

    def refused(self, code: str) -> None:
        """Count a refusal by its code; a word that is no code counts as ``other``."""
        self._refusals.labels(code if code in set(RefusalCode) else "other").inc()

    def connected(self, connected: bool) -> None:
        """Say whether the coordinator answers."""
        self._connected.set(connected)

    def disk(self, free_bytes: int) -> None:
        """Say how much room is left for the site's state."""
        self._disk.set(free_bytes)

    def build(self, version: str, code: str) -> None:
        """Say which software this is."""
        self._build.labels(_label(version), code[:12]).set(1)

    def paused(self, paused: bool) -> None:
        """Say whether the operator has paused the site."""
        self._paused.set(paused)

    def budget(self, study_name: str, epsilon: float) -> None:
        """Say how much epsilon a study has spent here, over all its runs."""
        self._budget.labels(_label(study_name)).set(epsilon)

    def certificate(self, not_after_epoch: float) -> None:
        """Say when the site's certificate expires, in seconds since 1970."""
        self._certificate.set(not_after_epoch)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _label(text: str) -> str:
    return text if _LABEL.match(text) else "other"
