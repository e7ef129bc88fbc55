"""The loopback Hub's requests, answers and errors, before and after they are bytes on a socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request. `segments` is the path split at "/" and then unquoted, so a branch may hold a slash (%2F)."""

    method: str
    path: str
    segments: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(data: object, status: int = 200, **headers: str) -> Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, json.dumps(data).encode(), {"Content-Type": "application/json", **names})


class HubError(Exception):
    """A refusal in the Hub's own form: the client picks its exception by status and X-Error-Code."""

    def __init__(self, status: int, code: str | None, message: str, **headers: str) -> None:
        super().__init__(message)
        extra = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}
        self.response = json_response({"error": message}, status)
        self.response.headers.update(extra)


def file_response(content: bytes, request: Request, headers: dict[str, str]) -> Response:
    """A file, or the one byte range that was asked for ("bytes=a-b" or "bytes=a-")."""
    wanted = request.headers.get("Range", "")
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    if not wanted.startswith("bytes="):
        return Response(200, content, headers)
    first, last = wanted.removeprefix("bytes=").split("-")
    begin, end = int(first), min(int(last or len(content)), len(content) - 1)
    if begin > end:
        return Response(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    return Response(206, content[begin : end + 1], {**headers, "Content-Range": f"bytes {begin}-{end}/{len(content)}"})
