"""Sockets, threads and faults: the loopback Hub as a server to start, to break on purpose and to ask what it saw."""

from __future__ import annotations

import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from .api import Api
from .messages import HubError, Request, Response, json_response
from .state import Account, Commit, Repository, State
from .storage import storage_response

Cut = Literal["request", "response"]


@dataclass
class Fault:
    """What goes wrong with requests whose path matches, `times` times after `skip` that go through.

    Exactly one of: `status` (answered with it, nothing is done), `cut="request"` (the connection breaks in the middle
    of the body, nothing is done), `cut="response"` (the request IS carried out, then the answer breaks off), `hang`
    (never answered, nothing is done). `delay_s` may stand alone: late, but right.
    """

    path: str
    method: str | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: Cut | None = None
    hang: bool = False
    delay_s: float = 0.0
    times: int = 1
    skip: int = 0
    num_hit: int = 0

    def matches(self, method: str, path: str) -> bool:
        return self.method in (None, method) and re.search(self.path, path) is not None

    def __str__(self) -> str:
        return (
            f"status {self.status}"
            if self.status
            else f"cut {self.cut}"
            if self.cut
            else "hang"
            if self.hang
            else "late"
        )


@dataclass(frozen=True)
class Seen:
    """One request as the log holds it. `status` is None where no full answer was sent."""

    method: str
    path: str
    status: int | None
    fault: str | None = None


class LoopbackHub:
    """A Hub for one test: `with LoopbackHub() as hub:` and then `hub.endpoint`, `hub.token`, `hub.fault(...)`.

    Two accounts: `token` is alice's, who also owns the organization "landscapes"; `other_token` is bob's.
    """

    token = "hf_" + "AliceTestOnly" * 2 + "12345678"
    other_token = "hf_" + "BobTestOnly" * 3 + "1"

    def __init__(self) -> None:
        self.state = State({self.token: Account("alice", ("landscapes",)), self.other_token: Account("bob")})
        self.log: list[Seen] = []
        self._faults: list[Fault] = []
        self._released = threading.Event()
        self._servers = [_Server(self) for _ in range(2)]
        # Of another name, not only another port: clients tell the Hub from its storage by the host.
        self.endpoint, self.storage_url = (
            f"http://{name}:{server.server_port}"
            for name, server in zip(("127.0.0.1", "localhost"), self._servers, strict=True)
        )
        self._api = Api(self.state, self.endpoint, self.storage_url)
        answers: list[Callable[[Request], Response]] = [
            self._api.response,
            lambda request: storage_response(self.state, request),
        ]
        for server, answer in zip(self._servers, answers, strict=True):
            server.answer = answer

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point the client of another process here, with alice's token and a cache under `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",  # else each fault costs a test a minute
        }

    def fault(self, path: str, **details: object) -> Fault:
        """Let requests whose path matches the regular expression go wrong; see `Fault` for the details."""
        fault = Fault(path, **details)  # type: ignore[arg-type]
        with self.state.lock:
            self._faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        """All is well from now on; requests that hang are cut off."""
        with self.state.lock:
            self._faults.clear()
            self._released.set()
            self._released = threading.Event()

    def repository(self, name: str, kind: str = "models") -> Repository:
        """Raises KeyError where there is none."""
        return self.state.repositories[kind, name]

    def head(self, name: str, kind: str = "models") -> Commit:
        return self.repository(name, kind).head

    def requests(self, path: str = "", method: str | None = None) -> list[Seen]:
        with self.state.lock:
            return [seen for seen in self.log if re.search(path, seen.path) and method in (None, seen.method)]

    def take_fault(self, method: str, path: str) -> tuple[Fault | None, threading.Event]:
        """The fault that this request meets, counted, and the event that ends a hang."""
        with self.state.lock:
            for fault in self._faults:
                if fault.matches(method, path):
                    fault.num_hit += 1
                    if fault.skip < fault.num_hit <= fault.skip + fault.times:
                        return fault, self._released
            return None, self._released

    def record(self, seen: Seen) -> None:
        with self.state.lock:
            self.log.append(seen)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    answer: Callable[[Request], Response]

    def __init__(self, hub: LoopbackHub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error here: tests kill clients. Anything else is printed as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        hub, address = self.server.hub, urlsplit(self.path)
        fault, released = hub.take_fault(self.command, address.path)
        if fault and fault.delay_s:
            released.wait(fault.delay_s)
        if fault and fault.cut == "request":
            next(self._body(), None)
            return self._give_up(fault)
        body = b"".join(self._body())
        if fault and fault.hang:
            released.wait()
            return self._give_up(fault)
        segments = tuple(unquote(part) for part in address.path.strip("/").split("/"))
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        request = Request(self.command, address.path, segments, query, self.headers, body)  # type: ignore[arg-type]
        if fault and fault.status:
            response = json_response({"error": "injected fault"}, fault.status)
            response.headers |= fault.headers
        else:
            response = self._answer(request)
        if fault and fault.cut == "response":
            self.wfile.write(self._encoded(response)[: -max(1, len(response.body) // 2)])
            return self._give_up(fault)
        hub.record(Seen(self.command, address.path, response.status, str(fault) if fault else None))
        self.wfile.write(self._encoded(response))
        return None

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 (the names that http.server looks for)

    def _answer(self, request: Request) -> Response:
        try:
            with self.server.hub.state.lock:
                return self.server.answer(request)
        except HubError as error:
            return error.response

    def _body(self) -> Iterator[bytes]:
        """The request's body, in two pieces or more, so that a cut can come between."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self._exactly(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            size = int(self.headers.get("Content-Length", 0))
            yield self._exactly(size // 2)
            yield self._exactly(size - size // 2)

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the client went away")
        return data

    def _encoded(self, response: Response) -> bytes:
        headers = {"Content-Length": str(len(response.body)), "Connection": "keep-alive", **response.headers}
        lines = [f"HTTP/1.1 {response.status} -", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + (b"" if self.command == "HEAD" else response.body)

    def _give_up(self, fault: Fault) -> None:
        """Break the connection at once, with a reset as a dying peer or a firewall sends it."""
        self.server.hub.record(Seen(self.command, urlsplit(self.path).path, None, str(fault)))
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr: `LoopbackHub.log` is the log."""
