"""A throw-away coordinator for a site's tests: an authority, and a real SuperLink of Flower behind TLS on loopback.

The SuperLink is Flower's own application with its state in memory, in a process of its own; it demands a client
certificate, as the coordinator's proxy does. What a ServerApp would do is done on its state directly.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from federation import SmallFederation
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity

from client.approval import register as approvals
from client.network import enrol
from client.network.status import read_status
from client.site.settings import SiteSettings, load_site
from ecgshared.errors import RefusalCode
from ecgshared.service.fingerprint import code_sha256
from ecgshared.study.study import Study, load_study
from ecgshared.wire.bytes import body_of, encode_request, refusal_of, to_records
from ecgshared.wire.protocol import Request
from server.coordinator.envelope import envelope

_DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority of its own, and what it signs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP384R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away authority")])
        self.certificate = self._sign(name, self.key.public_key(), authority=True, issuer=name)
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        server = ec.generate_private_key(ec.SECP384R1())
        self.server_key, self.server_certificate = folder / "server.key", folder / "server.crt"
        self.server_key.write_bytes(
            server.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), server.public_key(), server=True
        )
        self.server_certificate.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, request: Path, *, days: float = 1.0, name: str | None = None, key: Any = None) -> bytes:
        """Sign a request, as a coordinator would; ``name`` and ``key`` put others in the place of its own."""
        asked = x509.load_pem_x509_csr(request.read_bytes())
        subject = asked.subject if name is None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key or asked.public_key(), days=days)
        return certificate.public_bytes(Encoding.PEM)

    def _sign(
        self, subject: x509.Name, key: Any, *, authority: bool = False, server: bool = False, days: float = 1.0,
        issuer: x509.Name | None = None,
    ) -> x509.Certificate:  # fmt: skip
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * _DAY)
            .not_valid_after(now + days * _DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if server:
            import ipaddress

            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA384())


class SuperLink:
    """Flower's application and its state in memory, in a process of its own; what is given and returned is pickled."""

    def __init__(self, port: int, ca: Path, certificate: Path, key: Path) -> None:
        import uvicorn
        from flwr.superlink.main import create_app

        app = create_app()
        app.state.enable_supernode_auth = True
        self.state = app.state.linkstate_factory.state()
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=port,
            log_level="error",
            lifespan="off",
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            ssl_ca_certs=str(ca),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
        )
        self._server = uvicorn.Server(config)
        threading.Thread(target=self._server.run, daemon=True).start()
        end = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > end:
                raise AssertionError("the SuperLink did not start")
            time.sleep(0.01)

    def register(self, public_key: bytes) -> int:
        return int(self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 0))

    def unregister(self, node_id: int) -> None:
        self.state.delete_node(NOOP_FLWR_AID, node_id)

    def node_status(self, node_id: int) -> str:
        return str(self.state.get_node_info(node_ids=[node_id])[0].status)

    def run(self, fab: bytes, fab_hash: str | None, overrides: dict[str, Any]) -> int:
        genuine = Fab(_sha256(fab), fab, {})
        stored = self.state.store_fab(genuine)
        self.state.fab_store[stored] = genuine
        if fab_hash is not None:
            self.state.fab_store[fab_hash] = self.state.fab_store[stored]
        run_id = self.state.create_run(
            "ecgfed/envelope",
            "0.1.0",
            fab_hash or stored,
            overrides,
            NOOP_FEDERATION_ID,
            None,
            NOOP_FLWR_AID,
            TaskType.SERVER_APP,
        )
        task = self.state.run_ids[run_id].run.primary_task_id
        # A ServerApp's heartbeats would keep its task alive.
        assert self.state.claim_task(task)
        assert self.state.activate_task(task)
        self.state.task_token_store[task].active_until += datetime.timedelta(days=1)
        return int(run_id)

    def finish(self, run_id: int) -> None:
        assert self.state.stop_run(run_id)

    def push(self, run_id: int, node_id: int, body: bytes, kind: str, ttl: float) -> str:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, 1
        message = Message(to_records(body), node_id, kind, ttl=ttl)
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = get_all_nested_objects(message)
        session = self.state.start_session(run_id)
        stored, wanted = self.state.store_message_and_object_tree(
            remove_content_from_message(message), get_object_tree(message), session
        )
        assert stored
        for object_id in wanted:
            assert self.state.store_object(run_id, session, object_id, objects[object_id].deflate())
        return str(message.metadata.message_id)

    def spoil(self, object_id: str) -> None:
        self.state.object_store.store[object_id].content += b"x"

    def peek(self, run_id: int, message_id: str) -> tuple[str, dict[str, bytes]] | None:
        reply_id = self.state.message_ins_id_to_message_res_id.get(message_id)
        if reply_id is None:
            return None
        tree = self.state.object_store.get_object_tree(reply_id)
        contents = {t.object_id: self.state.get_object(run_id, t.object_id) for t in iterate_object_tree(tree)}
        return (reply_id, contents) if all(contents.values()) else None


class _Manager(BaseManager):
    pass


_Manager.register("SuperLink", SuperLink)


class Coordinator:
    """A SuperLink, and the part of a ServerApp that pushes questions and pulls answers."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.authority = Authority(folder)
        self.port = port or free_port()
        self.fab = envelope()
        self.start()

    def start(self) -> None:
        """Start with an empty state, as after a crash."""
        self._manager = _Manager(ctx=multiprocessing.get_context("spawn"))
        self._manager.start()
        a = self.authority
        self.link: Any = self._manager.SuperLink(self.port, a.ca, a.server_certificate, a.server_key)  # type: ignore[attr-defined]

    def stop(self) -> None:
        """End its process; all its state is lost."""
        self._manager.shutdown()

    def register(self, key: Path) -> int:
        """Let a site's key in; return its node's id."""
        return int(self.link.register(public_key_to_bytes(enrol.read_key(key).public_key())))

    def run(
        self, *, fab: bytes | None = None, fab_hash: str | None = None, overrides: dict[str, Any] | None = None
    ) -> int:
        """Start a run that ships ``fab``; ``fab_hash`` claims another hash than its own."""
        return int(self.link.run(fab or self.fab, fab_hash, overrides or {}))

    def finish(self, run_id: int) -> None:
        """End a run."""
        self.link.finish(run_id)

    def ask(
        self,
        run_id: int,
        node_id: int,
        study_hash: str,
        *,
        kind: str = "query.ask",
        run: str = "r",
        step: str = "s",
        phase: str = "p",
        round: int = 0,
        ttl: float = 60.0,
        **arrays: np.ndarray,
    ) -> str:
        """Put a request where the site will fetch it; return the message's id."""
        request = Request(study_hash, run, step, phase, round, arrays)
        return str(self.link.push(run_id, node_id, encode_request(request), kind, ttl))

    def answer(self, run_id: int, message_id: str, seconds: float = 60.0) -> Message:
        """Wait for the answer to a question."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            reply = self.peek(run_id, message_id)
            if reply is not None:
                return reply
            time.sleep(0.02)
        raise AssertionError("no answer")

    def peek(self, run_id: int, message_id: str) -> Message | None:
        """Return the answer to a question if it has come whole."""
        found = self.link.peek(run_id, message_id)
        if found is None:
            return None
        message = inflate_object_from_contents(*found)
        assert isinstance(message, Message)
        return message


def join(coordinator: Coordinator, site_file: Path, site: str = "north") -> SiteSettings:
    """Enrol a site by the very functions of ``ecgfed site``; return its settings, nothing approved yet."""
    site_file.parent.mkdir(parents=True, exist_ok=True)
    kit = site_file.parent / f"{site}.kit.yaml"
    kit.write_text(
        yaml.safe_dump(
            {
                "format_version": 1,
                "site": site,
                "coordinator": f"127.0.0.1:{coordinator.port}",
                "ca": coordinator.authority.ca.read_text(),
                "envelope_sha256": _sha256(coordinator.fab),
                "code_sha256": code_sha256(),
                "invited": "2026-01-01T00:00:00Z",
            }
        )
    )
    enrolled = enrol.start(kit, site_file)
    settings = load_site(site_file)
    sent = site_file.parent / "sent.crt"
    sent.write_bytes(coordinator.authority.issue(enrolled.request))
    enrol.install_certificate(settings, sent)
    return settings


def approve_all(settings: SiteSettings, *studies: Path) -> None:
    """Approve code, envelope and studies without a question."""
    approvals.record(settings.state, "code", code_sha256(), "test")
    approvals.record(settings.state, "envelope", enrol.network_of(settings).envelope, "test")
    for study in studies:
        approvals.approve_study(settings.state, study)


class DaemonProcess:
    """``ecgfed site start`` as a process of its own, its output kept."""

    def __init__(self, site_file: Path, log: Path, **environment: str) -> None:
        self._site_file, self.log, self._environment = site_file, log, environment
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "ecgshared", "site", "start", str(self._site_file)],
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | self._environment,
            )

    def restart(self) -> None:
        """Start it again, after it was killed."""
        self.process = self._start()

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Wait until it has said something."""
        end = time.monotonic() + seconds
        while text not in self.log.read_text():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"{text!r} was not said (status {self.process.poll()}):\n{self.log.read_text()}")
            time.sleep(0.05)

    def end(self) -> int:
        """End it as systemd would; return its status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class AskedSite:
    """One site with its daemon, and a coordinator to ask it."""

    def __init__(
        self, hospitals: Path, folder: Path, coordinator: Coordinator, *, ports: bool = False, **environment: str
    ) -> None:
        (folder / "twin").mkdir(parents=True)
        self.federation = SmallFederation(hospitals, folder)
        study_file = self.federation.study()
        (self.file,) = self.federation.sites(("north",))
        self.coordinator = coordinator
        self.settings: SiteSettings = join(coordinator, self.file)
        if ports:
            data = yaml.safe_load(self.file.read_text())
            data["network"] |= {"health_port": free_port(), "metrics_port": free_port()}
            self.file.write_text(yaml.safe_dump(data))
            self.settings = load_site(self.file)
        approve_all(self.settings, study_file)
        self.study: Study = load_study(study_file)
        self.node = coordinator.register(self.settings.network.key)
        self.log = folder / "daemon.log"
        self.environment = environment

    def start(self) -> DaemonProcess:
        self.daemon = DaemonProcess(self.file, self.log, **self.environment)
        self.daemon.wait_for("connected to the coordinator")
        return self.daemon

    def restart(self) -> None:
        """Start the daemon again; in a checkout the code may be another one by now."""
        approvals.record(self.settings.state, "code", code_sha256(), "test")
        self.daemon.restart()

    def ask(self, run_id: int, round: int, *, kind: str = "query.ask", **arrays: np.ndarray) -> str:
        """Ask for the counts of the describe step."""
        return self.coordinator.ask(
            run_id, self.node, self.study.sha256, kind=kind, step="cohorts", phase="counts", round=round, **arrays
        )

    def counts(self, run_id: int, round: int) -> bytes:
        return body_of(self.coordinator.answer(run_id, self.ask(run_id, round)).content)

    def refusal(self, run_id: int, round: int, *, kind: str = "query.ask", **arrays: np.ndarray) -> RefusalCode:
        reply = self.coordinator.answer(run_id, self.ask(run_id, round, kind=kind, **arrays))
        found = refusal_of(reply.content)
        assert found is not None
        assert found[0] == "north"
        return found[1]

    @property
    def status(self) -> dict[str, Any]:
        return read_status(self.settings.state)

    def inbox(self) -> list[Path]:
        return list((self.settings.state / "inbox").iterdir())

    def wait(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"waited in vain; {self.status}\n{self.log.read_text()}"
            time.sleep(0.02)
        return found

    def worker(self) -> int:
        return self.wait(lambda: self.status.get("worker_pid"))


def free_port() -> int:
    """Return a port of the loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
