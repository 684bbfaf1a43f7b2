"""Why a call to the coordinator failed: one of six kinds a daemon can act on, in plain words for the operator."""

from __future__ import annotations

import socket
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx

from client.network.flower_insides import ApiErrorCode, FlowerError
from ecgshared.errors import EcgFedError

_GATEWAY = (502, 503, 504)
_RUN_OVER = (ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, ApiErrorCode.FLEET_GET_RUN_FAILED)


class LinkError(EcgFedError):
    """A call to the coordinator failed; the text is plain words for the operator."""


class Unreachable(LinkError):
    """Nobody answered, or only a proxy did: try again soon."""


class NotAdmitted(LinkError):
    """The coordinator answers but does not know this site's key or node: activate again."""


class CertificateRefused(LinkError):
    """One side refused the other's certificate: only people can mend that."""


class SessionWaits(LinkError):
    """An earlier session of this site was heard a moment ago: asked again, it comes in once that one is silent."""


class StateForked(LinkError):
    """The coordinator knows a later session than this state does: a copy, or an old backup. People must decide."""


class RunOver(LinkError):
    """The run has ended or is not known any more."""


def clock_skew(response: httpx.Response) -> float | None:
    """Return this machine's clock minus the answering one's, seconds; None where the answer has no date."""
    try:
        return time.time() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None


def transport_failure(error: httpx.TransportError) -> LinkError:
    """Say in plain words why a connection failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"the coordinator's certificate is not accepted here: {cause.verify_message}",
                remedy="is the address right, is the kit's authority the coordinator's, is a proxy in between?",
            )
        if isinstance(cause, ssl.SSLError) and "ALERT" in str(cause.reason or ""):
            return CertificateRefused(
                "the coordinator refuses this site's certificate", remedy="has it expired, or was it revoked?"
            )
        if isinstance(cause, socket.gaierror):
            return Unreachable(
                f"the coordinator's name is not found ({cause.strerror})",
                remedy="does this machine's name server work?",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ProxyError):
        return Unreachable("the proxy of HTTPS_PROXY does not let this site through", remedy="ask its administrators")
    if isinstance(error, httpx.TimeoutException):
        return Unreachable("the coordinator did not answer in time")
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return Unreachable("the connection was cut; so does a coordinator that refuses this site's certificate")
    return Unreachable(f"the coordinator cannot be reached ({type(error).__name__})")


def session_failure(response: httpx.Response) -> LinkError:
    """Say in plain words why a session was not let in."""
    if response.status_code != 409:
        return answer_failure(response)
    if "wait" in response.text:
        return SessionWaits(
            "another daemon of this site was connected a moment ago, elsewhere; this one waits for its silence",
            remedy="one daemon to a site: end the other one",
        )
    return StateForked(
        "this folder of state is a copy, or older than what the coordinator has seen of this site: it is not let in",
        remedy="end this daemon if the original runs elsewhere; where this is a restored backup, see 'Two copies of a "
        "site' in the runbook, then have the coordinator say: ecgfed coordinator accept SITE",
    )


def answer_failure(response: httpx.Response) -> LinkError:
    """Say in plain words what an answer with an error's status means, the coordinator's own or its proxy's."""
    known = FlowerError.from_json(response.text)
    if known is not None and known.code in _RUN_OVER:
        return RunOver("the run has ended at the coordinator")
    if known is not None and known.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return NotAdmitted(
            "the coordinator does not let this site in: its key is not registered, or it counts it as connected still",
            remedy="a site that was just killed waits some seconds; else ask whether it was admitted or revoked",
        )
    if response.status_code == 409 and known is None:
        return session_failure(response)
    if response.status_code == 429:
        return Unreachable("the coordinator's proxy holds this site back: it asks too much at once")
    if response.status_code == 401:
        return NotAdmitted(
            "the coordinator does not know this site's key, or the clocks differ by minutes",
            remedy="was the site admitted? compare the clocks: `ecgfed site check`",
        )
    if response.status_code in (400, 403, 495, 496) and known is None:
        return CertificateRefused(
            "the coordinator refuses this site's certificate: revoked, expired, or not that of its key",
            remedy="see its dates with `ecgfed site check`; ask the coordinator for a new one",
        )
    if response.status_code in _GATEWAY:
        return Unreachable("the coordinator's proxy answers, the coordinator behind it does not")
    return Unreachable(f"the coordinator answered with status {response.status_code}")
