"""The proxy where nginx is absent: the same rules in Python, for trying things out; slower, and one process.

``python -m server.coordinator.asgi_proxy HOME`` reads the home's certificates and ``proxy/sites.map``, the latter
again whenever it was written anew. TLS demands a certificate of our authority; an expired or foreign one already
fails the handshake.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h11
import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.coordinator.proxy import (
    CERTIFICATE_HEADER,
    FLEET_PATHS,
    LARGEST_REQUEST_MB,
    NODE_KEY_HEADER,
    OWN_PATHS,
)

_CERTIFICATE = "client_certificate"
_OF_THE_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "host",
}  # fmt: skip
_PATHS = {*(f"/v1/fleet/{name}" for name in FLEET_PATHS), *(f"/v1/ecgfed/{name}" for name in OWN_PATHS)}
_HEADER_SECONDS, _BODY_SECONDS = 15.0, 60.0
"""How long a request's head may take in all, and how long its body may pause."""


class CertificateProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which tells the application the certificate of its client, and waits for no slow request.

    uvicorn itself would wait for ever: a client that sends a byte a minute holds a connection as long as it likes.
    """

    _deadline: asyncio.TimerHandle | None = None
    _reading_head = False

    def data_received(self, data: bytes) -> None:
        """Take in what came, and give the rest of it its time."""
        super().data_received(data)
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._give(_BODY_SECONDS, head=False)
        elif state is h11.IDLE and self.conn.trailing_data[0]:
            if not self._reading_head:
                self._give(_HEADER_SECONDS, head=True)
        else:
            self._give(None, head=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._give(None, head=False)
        super().connection_lost(exc)

    def _give(self, seconds: float | None, *, head: bool) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._reading_head = head
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the certificate of a new connection, which has to ask something soon."""
        super().connection_made(transport)
        self._give(_HEADER_SECONDS, head=True)
        tls, app = transport.get_extra_info("ssl_object"), self.app
        certificate = None if tls is None else tls.getpeercert(binary_form=True)

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, _CERTIFICATE: certificate}, receive, send)

        self.app = with_certificate


class Front:
    """The ASGI application: who may pass, and where to.

    Parameters
    ----------
    sites : the file that :func:`server.coordinator.proxy.write_sites` writes.
    upstream : the SuperLink's port on this machine.
    ca : certificate of the authority that signed the SuperLink's.
    """

    def __init__(self, sites: Path, upstream: int, ca: Path) -> None:
        self._sites, self._read_at, self._known = sites, -1, frozenset[tuple[str, str]]()
        self._client = httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{upstream}",
            verify=ssl.create_default_context(cafile=str(ca)),
            timeout=httpx.Timeout(60.0, connect=5.0),
            trust_env=False,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
            await response(scope, receive, send)
        except ClientDisconnect:
            return

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if path not in _PATHS or request.method != "POST":
            return PlainTextResponse("not found\n", 404)
        if not self._may_pass(request):
            return PlainTextResponse("this certificate is not let in for this node\n", 403)
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return PlainTextResponse("a request needs its length\n", 411)
        if int(length) > LARGEST_REQUEST_MB << 20:
            return PlainTextResponse("too large\n", 413)
        headers = [(k, v) for k, v in request.headers.items() if k not in {*_OF_THE_HOP, CERTIFICATE_HEADER}]
        headers.append((CERTIFICATE_HEADER, _mark(request.scope[_CERTIFICATE])))
        try:
            # The path is one of ours, not what was written; a query has no place in the fleet API.
            passed = self._client.build_request("POST", path, headers=headers, content=request.stream())
            answer = await self._client.send(passed, stream=True)
        except httpx.TimeoutException:
            return PlainTextResponse("the SuperLink is late\n", 504)
        except httpx.HTTPError:
            return PlainTextResponse("the SuperLink does not answer\n", 502)
        kept = {k: v for k, v in answer.headers.items() if k not in _OF_THE_HOP}
        return StreamingResponse(_stream(answer), answer.status_code, kept)

    def _may_pass(self, request: Request) -> bool:
        certificate = request.scope.get(_CERTIFICATE)
        if not certificate:
            return False
        mark = _mark(certificate)
        claimed = request.headers.getlist(NODE_KEY_HEADER)
        return len(claimed) == 1 and (mark, claimed[0]) in self._let_in()

    def _let_in(self) -> frozenset[tuple[str, str]]:
        try:
            written = self._sites.stat().st_mtime_ns
            if written != self._read_at:
                lines = self._sites.read_text(encoding="utf-8").splitlines()
                marks = (line.split('"')[1].partition(" ") for line in lines)
                self._known, self._read_at = frozenset((mark, key) for mark, _, key in marks), written
        except (OSError, IndexError):
            # What cannot be read lets nobody in.
            return frozenset()
        return self._known


def _mark(certificate: bytes) -> str:
    """Return the fingerprint by which nginx knows a certificate."""
    return hashlib.sha1(certificate, usedforsecurity=False).hexdigest()


async def _stream(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


def configured(
    listen: str, *, certificate: Path, key: Path, ca: Path, sites: Path, upstream_port: int
) -> uvicorn.Config:
    """Return the server's configuration; ``listen`` is address:port."""
    host, _, port = listen.rpartition(":")
    config = uvicorn.Config(
        Front(sites, upstream_port, ca),
        host=host.strip("[]"),
        port=int(port),
        interface="asgi3",
        http=CertificateProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        ssl_ca_certs=str(ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        timeout_graceful_shutdown=3,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


def main(home_folder: Path) -> None:
    """Serve a coordinator's home until told to end."""
    from server.coordinator.home import Home

    home = Home(home_folder)
    tls = home.path / "tls"
    uvicorn.Server(
        configured(
            home.config.listen,
            certificate=tls / "server.crt",
            key=tls / "server.key",
            ca=home.authority.certificate_file,
            sites=home.path / "proxy" / "sites.map",
            upstream_port=home.config.superlink_port,
        )
    ).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
