"""Flower's SuperLink by its own command, with one thing added: its control API asks for the coordinator's secret.

Flower's control API knows no accounts. Who reaches it lets nodes in and starts runs, and a run may bring a program
along, which then runs as the coordinator's user. It listens on loopback, which every user of the machine reaches. What
is neither a site's call (signed by its key) nor a task's (with its token, or the executor's secret) needs the secret.

``python -m server.coordinator.superlink ...`` takes the arguments of ``flower-superlink``.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse

from server.rounds.flower_insides import ProtobufCall, ProtobufRequestContext, add_headers, run_superlink

HEADER = "ecgfed-control"
_OPEN = ("/v1/fleet/", "/v1/ecgfed/", "/v1/runtime/", "/health")
"""What Flower or :class:`SiteCalls` guards by itself, and what tells nothing."""


class AsksForSecret:
    """ASGI middleware: 401 for every other path without the secret."""

    def __init__(self, app: Any, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and not scope["path"].startswith(_OPEN):
            given = dict(scope["headers"]).get(HEADER.encode(), b"")
            if not hmac.compare_digest(given, self._secret):
                await PlainTextResponse("this is the coordinator's alone\n", 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class GivesSecret:
    """An interceptor of Flower's control client that sends the secret along."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> Any:
        """Add the header."""
        add_headers(context.request, {HEADER: self._secret})
        return call_next(context)


def main() -> None:
    """Run Flower's command, its application wrapped."""
    from server.coordinator.home import HOME_VARIABLE, Home
    from server.coordinator.site_calls import SiteCalls

    home = Home(Path(os.environ.get(HOME_VARIABLE, "")))
    secret = home.control_secret

    def guarded(app: Any) -> Any:
        app.add_middleware(SiteCalls, home=home)
        app.add_middleware(AsksForSecret, secret=secret)
        return app

    run_superlink(guarded)


if __name__ == "__main__":
    main()
