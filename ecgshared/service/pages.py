"""The ground under the pages of both roles: who may sign in, what a browser may do, how a page is laid out.

A page is served to people who sit at this machine, or come through the operator's own proxy. So it binds to loopback,
answers to the host names it was told, lets in who has the token, and runs no script but its own: a page that was left
open in a browser must not be one that any other site can press buttons on.

Source: the OWASP cheat sheets on session management, CSRF prevention and content security policy.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ecgshared.errors import ConfigError, EcgFedError, RunError
from ecgshared.service.files import private_folder, write_atomically

COOKIE = "ecgfed"
SESSION_SECONDS = 8 * 3600.0
LARGEST_FORM = 1_000_000
"""Bytes of a form, a study file among its fields; a study of a hundred steps has 20 kB."""
_FOLDER = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # With no-referrer a browser would hide a form's origin, which is looked at.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Handler = Callable[["Visit"], Response]
"""Runs on a thread of its own: it may read tables and wait for a cache."""


@dataclass
class _Session:
    csrf: str
    until: float
    said: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Visit:
    """One request of somebody who is signed in: its form, and what becomes of it.

    ``form``: the fields of a POST, files as bytes. ``fault`` and ``done`` are said on the page that is shown next.
    """

    request: Request
    pages: Pages
    session: _Session
    form: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a field of the form, or of the address, without blanks around it; "" where there is none."""
        value = self.form.get(name, self.request.query_params.get(name, ""))
        return value.strip() if isinstance(value, str) else ""

    def done(self, text: str, to: str) -> Response:
        """Say what was done, on the page ``to``."""
        self.session.said.append(("done", text))
        return RedirectResponse(to, status_code=303)

    def fault(self, text: str, to: str) -> Response:
        """Say what went wrong, on the page ``to``."""
        self.session.said.append(("fault", text))
        return RedirectResponse(to, status_code=303)

    def show(self, template: str, **values: Any) -> Response:
        """Return a page."""
        said, self.session.said = self.session.said, []
        page = self.pages.templates.get_template(template).render(
            csrf=self.session.csrf, said=said, here=self.request.url.path, menu=self.pages.menu,
            title=self.pages.title, role=self.pages.role, **values,
        )  # fmt: skip
        return HTMLResponse(page)


class Pages:
    """An application of pages behind one token.

    Parameters
    ----------
    title, role : shown at the head of every page: whose it is, and whose work it is for.
    folder : of the templates; each extends ``layout.html``.
    views : path -> handler of GET; actions : path -> handler of POST, whose form carries the session's CSRF token.
    menu : (path, words) of the pages, in order.
    hosts : names this server answers to; an address that a stranger's name leads here by is none of them.
    """

    def __init__(
        self,
        title: str,
        role: str,
        folder: Path,
        views: Mapping[str, Handler],
        actions: Mapping[str, Handler],
        menu: tuple[tuple[str, str], ...],
        token: str,
        hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]"),
    ) -> None:
        self.title, self.role, self.menu = title, role, menu
        self.templates = Environment(
            loader=ChoiceLoader([FileSystemLoader(folder), FileSystemLoader(_FOLDER)]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._token, self._sessions = token, dict[str, _Session]()
        routes = [
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._guarded(self._sign_out, form=True), methods=["POST"]),
            *(Route(path, self._guarded(handler, form=False), methods=["GET"]) for path, handler in views.items()),
            *(Route(path, self._guarded(handler, form=True), methods=["POST"]) for path, handler in actions.items()),
            Mount("/static", StaticFiles(directory=_FOLDER)),
        ]
        self.app = Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))])

    async def _sign_in(self, request: Request) -> Response:
        """Let in who has the token, from the address that the command printed or from the form."""
        given = request.query_params.get("token", "")
        if request.method == "POST":
            given = str((await _form(request)).get("token", ""))
        if not given or not hmac.compare_digest(given.encode(), self._token.encode()):
            page = self.templates.get_template("sign_in.html").render(
                title=self.title, role=self.role, wrong=bool(given)
            )
            return _secured(HTMLResponse(page, status_code=403 if given else 200))
        now = time.monotonic()
        self._sessions = {name: kept for name, kept in self._sessions.items() if kept.until > now}
        name = secrets.token_urlsafe(32)
        self._sessions[name] = _Session(secrets.token_urlsafe(32), now + SESSION_SECONDS)
        answer = RedirectResponse("/", status_code=303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(COOKIE, name, httponly=True, samesite="strict", secure=secure, path="/")
        return _secured(answer)

    def _sign_out(self, visit: Visit) -> Response:
        self._sessions.pop(visit.request.cookies.get(COOKIE, ""), None)
        return RedirectResponse("/sign-in", status_code=303)

    def _guarded(self, handler: Handler, *, form: bool) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            session = self._sessions.get(request.cookies.get(COOKIE, ""))
            if session is None or session.until < time.monotonic():
                return _secured(RedirectResponse("/sign-in", status_code=303))
            fields: Mapping[str, Any] = {}
            if form:
                fields = await _form(request)
                given = str(fields.get("csrf", ""))
                if not hmac.compare_digest(given.encode(), session.csrf.encode()) or not _same_origin(request):
                    return _secured(HTMLResponse("This form was not made by this page.", status_code=403))
            visit = Visit(request, self, session, fields)
            try:
                return _secured(await run_in_threadpool(handler, visit))
            except EcgFedError as error:
                if form:
                    return _secured(visit.fault(str(error), _back(request)))
                return _secured(visit.show("fault.html", text=str(error)))

        return answer


async def _form(request: Request) -> Mapping[str, Any]:
    """Return the fields of a form; one that is too large is refused before it is read."""
    size = request.headers.get("content-length", "")
    if not size.isdigit() or int(size) > LARGEST_FORM:
        return {}
    found: dict[str, Any] = {}
    async with request.form(max_files=1, max_fields=40, max_part_size=LARGEST_FORM) as fields:
        for name, value in fields.items():
            found[name] = value if isinstance(value, str) else await value.read()
    return found


def _same_origin(request: Request) -> bool:
    """Whether a form comes from a page of this server; a browser says so in ``Origin``, other clients need not."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


def _back(request: Request) -> str:
    """Return the page the form stood on: the address of the action, less its last word."""
    return request.url.path.rsplit("/", 1)[0] or "/"


def _secured(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def kept_token(state: Path) -> str:
    """Return the token that opens the page, made at the first call and kept for its owner alone.

    Raises
    ------
    ConfigError : the file cannot be read, or is too short to be one of ours.
    """
    path = private_folder(state) / "page.token"
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        write_atomically(path, f"{token}\n".encode(), private=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the page's token cannot be read ({type(error).__name__})", where=path) from None
    if len(token) < 32:
        raise ConfigError("this is no token of a page", where=path, remedy="remove the file; a new one is made")
    return token


def serve(pages: Pages, port: int, said: Callable[[str], None], token: str) -> None:
    """Serve pages on loopback until Ctrl-C; ``said`` gets the address to open, once it can be.

    Raises
    ------
    RunError : the port is taken.
    """
    import uvicorn

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()  # whoever opens the address at once waits for the server instead of being refused
    except OSError as error:
        listener.close()
        raise RunError(
            f"the port cannot be used ({error.strerror})", value=port, remedy="name another by --port, or 0 for any"
        ) from None
    said(f"http://127.0.0.1:{listener.getsockname()[1]}/sign-in?token={token}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config = uvicorn.Config(pages.app, log_level="warning", access_log=False, server_header=False)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
