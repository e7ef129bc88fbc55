"""Owns the small server behind a page: it listens on this machine only, unless asked otherwise, answers its own page
only, and ends by Ctrl-C.

starlette and uvicorn are an extra, so nothing of them is imported before `require_web`.
"""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint.errors import InpaintError, UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST, DEFAULT_PORT = "127.0.0.1", 8000
_EVERY_ADDRESS = ("0.0.0.0", "::")
# What a browser of this machine calls it, through a tunnel too; any other name is a page elsewhere that had it resolve
# to this address (DNS rebinding).
_OWN_NAMES = {"127.0.0.1", "localhost", "[::1]"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # On this port another page may be served tomorrow.
    "Cache-Control": "no-store",
}
_PATIENCE_S = 2


def require_web(command: str) -> None:
    """UsageError unless starlette and uvicorn are here."""
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UsageError(f"{command} needs {' and '.join(missing)}: pip install 'inpaint[web]'")


def application(
    routes: Sequence[BaseRoute],
    static: Path,
    statuses: Mapping[type[InpaintError], int] | None = None,
    host: str = HOST,
) -> Starlette:
    """The page: `static/index.html` at `/`, its other files beside it, and `routes` before them.

    An `InpaintError` is answered as `{"error": its line}`, with 400 for a `UsageError` and else 500.

    Args:
        statuses: of other kinds of it.
        host: where it will be served, see `serve`.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    of_kinds: dict[type[InpaintError], int] = {InpaintError: 500, UsageError: 400, **(statuses or {})}
    handlers: Any = {kind: _told(status) for kind, status in of_kinds.items()}
    files = Mount("/", StaticFiles(directory=static, html=True))
    return Starlette(routes=[*routes, files], middleware=[Middleware(OwnPageOnly, host)], exception_handlers=handlers)


class OwnPageOnly:
    """Refuses, with 403, whatever a page of another origin has sent for; says how browsers are to treat the answers."""

    def __init__(self, app: ASGIApp, host: str = HOST) -> None:
        self._app = app
        # Where every address of the machine is listened on, its name is one too. And numbers need no resolving, so no
        # page elsewhere can have had them resolve to this machine.
        self._takes_numbers = host in _EVERY_ADDRESS
        own = socket.gethostname() if self._takes_numbers else _bracketed(host)
        self._names = {*_OWN_NAMES, own.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        fault = self._fault(Headers(scope=scope)) if scope["type"] == "http" else "only HTTP is spoken here"
        if fault:
            await PlainTextResponse(f"refused: {fault}\n", 403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _fault(self, headers: Mapping[str, str]) -> str:
        """Why a request is not of our own page; "" if it is, or of no browser's page at all."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name.lower() not in self._names and not (self._takes_numbers and _is_number(name)):
            return f"the host {host!r} is not {' or '.join(sorted(self._names))}"
        if origin is not None and origin != f"http://{host}":
            return f"it was sent by a page of {origin}"
        # What a page embeds has no Origin. Who follows a link to this page may come from anywhere.
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
        if site not in ("none", "same-origin") and mode != "navigate":
            return "it was sent by a page of another origin"
        return ""


def serve(app: ASGIApp, port: int | None, announce: Callable[[str], None], host: str = HOST) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        app: such as `application` makes.
        port: where; 0 is any free one; None is `DEFAULT_PORT`, or a free one if it is in use.
        announce: called with the page's address, once browsers can connect.
        host: this machine's address or name that is listened on; 0.0.0.0 or :: are all that it has. `application` has
            to be told of it, too.

    Raises:
        InpaintError: the port is in use, or not to be had, or the address is not this machine's.
        UsageError: it is no port.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_PATIENCE_S,
    )
    with _listen(host, port) as listener, _sigterm_is_ctrl_c():
        try:
            announce(f"http://{_bracketed(host)}:{listener.getsockname()[1]}/")
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            return  # the way to end it


def _listen(host: str, port: int | None) -> socket.socket:
    if port is not None and not 0 <= port <= 65535:
        raise UsageError(f"--port is {port}; it must be 0 (any free one) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def listen(number: int) -> socket.socket:
        return socket.create_server((host, number), family=family)

    try:
        return listen(DEFAULT_PORT if port is None else port)
    except OSError as error:
        if error.errno in (socket.EAI_NONAME, errno.EADDRNOTAVAIL):
            raise InpaintError(
                f"--host is {host!r}, which is no address of this machine; give one that it has, or 0.0.0.0 for all"
            ) from error
        if error.errno == errno.EADDRINUSE and port is None:
            return listen(0)
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise InpaintError(f"port {port} of {host} {why}; give another --port, or 0 for any free one") from error


def _bracketed(host: str) -> str:
    """As it stands in an address."""
    return f"[{host}]" if ":" in host else host


def _is_number(name: str) -> bool:
    """Whether it is an IP address, as a Host header has it."""
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not reach it
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(request: Request, error: Exception) -> JSONResponse:
        from starlette.responses import JSONResponse

        return JSONResponse({"error": str(error)}, status)

    return answer
