"""Whoever closes a site's link leaves no connection behind, also while another thread is within a request."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from client.network.closing_client import ClosingClient


@pytest.fixture
def slow():
    """A server that answers when it is told to; ``asked`` is set when a question is there."""
    asked, answer = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.set()
            answer.wait(10)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked, answer
    answer.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_connection_in_use_while_the_client_closes_is_closed_too(slow):
    url, asked, answer = slow
    client = ClosingClient(trust_env=False)
    connections = client._transport._pool

    def ask():
        # The pool may already be empty when the answer comes: that is an error of this request, and no open socket.
        with suppress(RuntimeError, OSError, httpx.TransportError):
            client.get(url)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(10)
    client.close()
    answer.set()
    thread.join(10)
    assert not thread.is_alive()
    assert connections.connections == []
    assert client._busy == 0


def test_a_connection_opened_after_the_client_was_closed_is_closed_too(slow, monkeypatch):
    url, _, answer = slow
    answer.set()
    client = ClosingClient(trust_env=False)
    opened = []
    real = client._transport._pool.handle_request

    def closed_meanwhile(request):
        # Another thread closes the client between the check that it is open and the opening of a connection.
        client.close()
        response = real(request)
        opened.extend(client._transport._pool.connections)
        return response

    monkeypatch.setattr(client._transport._pool, "handle_request", closed_meanwhile)
    assert client.get(url).text == "ok"
    assert len(opened) == 1
    assert client._transport._pool.connections == []
    assert opened[0].is_closed()


def test_a_connection_that_was_being_made_while_the_client_closed_is_closed_too(slow, monkeypatch):
    """The pool forgets a connection that is not there yet; whoever made it closes it."""
    url, _, answer = slow
    answer.set()
    client, made = ClosingClient(trust_env=False), []
    backend = client._transport._pool._network_backend
    real = backend.connect_tcp

    def closed_meanwhile(*arguments, **options):
        made.append(real(*arguments, **options))
        client.close()
        return made[0]

    monkeypatch.setattr(backend, "connect_tcp", closed_meanwhile)
    with suppress(RuntimeError, httpx.TransportError):
        client.get(url)
    assert [stream.get_extra_info("socket").fileno() for stream in made] == [-1]


def test_one_that_is_not_closed_keeps_its_connection(slow):
    url, _, answer = slow
    answer.set()
    with ClosingClient(trust_env=False) as client:
        client.get(url)
        client.get(url)
        assert len(client._transport._pool.connections) == 1
