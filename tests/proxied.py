"""Sites with certificates, and a proxy (nginx, or the small one of our own) before a server that says what it got."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.requests import Request
from starlette.responses import Response

from server.coordinator import proxy
from server.coordinator.authority import Authority, fingerprint, read_request


def request_of(
    folder: Path, name: str, *, curve: ec.EllipticCurve | None = None, names: tuple[str, ...] | None = None
) -> tuple[Path, ec.EllipticCurvePrivateKey]:
    """Make a site's key and write its certificate request."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(curve or ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in (names if names is not None else (name,))])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA384())
    path = folder / f"{name}.csr"
    path.write_bytes(csr.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    return path, key


@dataclass
class Member:
    """A site with a key and a certificate of some authority."""

    name: str
    folder: Path
    node_key: bytes
    mark: str

    @classmethod
    def of(cls, authority: Authority, folder: Path, name: str, *, days: float = 1.0) -> Member:
        """Make a site that ``authority`` admitted."""
        request, key = request_of(folder, name)
        certificate = authority.admit(read_request(request), days=days)
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        flower_key = public_key_to_bytes(key.public_key())
        assert flower_key == key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return cls(name, folder, flower_key, fingerprint(certificate))

    def context(self, ca: Path) -> ssl.SSLContext:
        """Return the TLS settings of this site's client."""
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(self.folder / f"{self.name}.crt", self.folder / f"{self.name}.key")
        return context

    @property
    def header(self) -> dict[str, str]:
        """The header in which Flower claims a node's key."""
        return {proxy.NODE_KEY_HEADER: base64.b64encode(self.node_key).decode()}


class Upstream:
    """Stands where the SuperLink stands: answers with what it got, or with 401 where ``/v1/fleet/get-run`` is asked."""

    def __init__(self, key: Path, certificate: Path) -> None:
        self.port, self.seen = free_port(), []  # type: int, list[tuple[str, str]]
        self.certificates: list[list[str]] = []
        config = uvicorn.Config(
            self._answer, host="127.0.0.1", port=self.port, log_level="error", lifespan="off", ws="none",
            interface="asgi3", ssl_certfile=str(certificate), ssl_keyfile=str(key),
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        self.seen.append((request.method, target))
        self.certificates.append(request.headers.getlist(proxy.CERTIFICATE_HEADER))
        code = 401 if scope["path"].endswith("get-run") else 200
        await Response(body, code, {"x-key": request.headers.get(proxy.NODE_KEY_HEADER, "")})(scope, receive, send)

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(10)


class Proxied:
    """An authority, an upstream, and a proxy of one ``kind`` ("nginx" or "own") before it, at ``host``."""

    def __init__(self, folder: Path, kind: str, host: str = "127.0.0.1") -> None:
        self.folder, self.kind, self.host, self.port = folder, kind, host, free_port()
        self.authority = Authority.create(folder / "authority", "test")
        self.ca = self.authority.certificate_file
        for name in ("server", "loopback"):
            self.authority.serve(
                folder / f"{name}.key", folder / f"{name}.crt", ["127.0.0.1", "localhost", "::1"], days=1
            )
        self.upstream = Upstream(folder / "loopback.key", folder / "loopback.crt")
        self.members: dict[str, Member] = {}
        self.proxy_folder = folder / "proxy"
        proxy.write_config(
            self.proxy_folder,
            listen=f"{host}:{self.port}",
            upstream_port=self.upstream.port,
            certificate=folder / "server.crt",
            key=folder / "server.key",
            ca=self.ca,
            sites={},
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the proxy."""
        if self.kind == "nginx":
            nginx = proxy.find_nginx(None)
            assert nginx is not None
            proxy.check(nginx, self.proxy_folder)
            command = proxy.command(nginx, self.proxy_folder)
        else:
            program = (
                "import sys, uvicorn; from pathlib import Path; from server.coordinator.asgi_proxy import configured;"
                "f = Path(sys.argv[1]);"
                "uvicorn.Server(configured(sys.argv[2], certificate=f/'server.crt', key=f/'server.key',"
                " ca=f/'authority'/'ca.crt', sites=f/'proxy'/'sites.map', upstream_port=int(sys.argv[3]))).run()"
            )
            listen = f"{self.host}:{self.port}"
            command = [sys.executable, "-c", program, str(self.folder), listen, str(self.upstream.port)]
        with (self.folder / "proxy.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._listens)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "proxy.log").read_text()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as probe:
            return probe.connect_ex((self.host.strip("[]"), self.port)) == 0

    def let_in(self, *members: Member) -> None:
        """Say who is let in, to a running proxy too."""
        proxy.write_sites(self.proxy_folder, {m.mark: m.node_key for m in members})
        if self.kind == "nginx" and self.process is not None:
            assert proxy.reload(self.proxy_folder)

    def client(self, member: Member | None, *, ca: Path | None = None) -> httpx.Client:
        """Return a client with a site's certificate, or with none."""
        context = ssl.create_default_context(cafile=str(self.ca)) if member is None else member.context(ca or self.ca)
        headers = {} if member is None else member.header
        return httpx.Client(
            base_url=f"https://{self.host}:{self.port}", verify=context, headers=headers, timeout=20, trust_env=False
        )

    def raw(self, member: Member, target: str, method: str = "POST") -> int:
        """Send a request line as it is, which no client would write; return the status."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            member.context(self.ca).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            (name, value), *_ = member.header.items()
            tls.sendall(
                f"{method} {target} HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\nContent-Length: 0\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            return int(tls.recv(4096).split(b" ")[1])

    def close(self) -> None:
        """End proxy and upstream."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
        self.upstream.close()


def free_port() -> int:
    """Return a port of the loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
