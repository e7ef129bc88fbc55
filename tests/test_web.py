"""The server behind pages: who is answered, and what it says where it cannot be."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from inpaint import web
from inpaint.errors import InpaintError, UsageError


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    (tmp_path / "index.html").write_text("the page")

    async def act(request: object) -> PlainTextResponse:
        raise UsageError("not this")

    app = web.application([Route("/act", act, methods=["GET", "POST"])], tmp_path)
    return TestClient(app, base_url="http://localhost:8000")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Host": "localhost.evil.example:8000"},
        {"Host": "192.168.1.7:8000"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "https://localhost:8000"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=str,
)
def test_requests_of_other_pages_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    for path in ("/", "/act"):
        reply = client.post(path, headers=headers) if path == "/act" else client.get(path, headers=headers)
        assert reply.status_code == 403 and reply.text.startswith("refused: "), path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "127.0.0.1:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "LOCALHOST"},
        {"Host": "localhost:9000", "Origin": "http://localhost:9000", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
    ids=str,
)
def test_its_own_page_is_answered_and_kept_to_itself(client: TestClient, headers: dict[str, str]) -> None:
    reply = client.get("/", headers=headers)
    assert (reply.status_code, reply.text) == (200, "the page")
    assert reply.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    reply = client.post("/act", headers=headers)
    assert (reply.status_code, reply.json()) == (400, {"error": "not this"})


def test_with_another_address_the_same_holds_for_it(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the page")
    own = socket.gethostname()
    answered = {
        "192.168.1.7": ["192.168.1.7:8000", "localhost"],
        "fe80::7": ["[fe80::7]:8000"],
        "0.0.0.0": ["192.168.1.7:8000", "[fe80::7]:8000", own, f"{own}:8000", "127.0.0.1"],
        "::": ["10.0.0.1", own],
    }
    for host, names in answered.items():
        client = TestClient(web.application([], tmp_path, host=host))
        for name in names:
            assert client.get("/", headers={"Host": name, "Origin": f"http://{name}"}).text == "the page", name
            assert client.get("/", headers={"Host": name, "Origin": "http://10.0.0.9"}).status_code == 403
        for name in ("evil.example", "evil.example:8000", "192.168.1.7.evil.example", "10.0.0.1:80:80", ""):
            assert client.get("/", headers={"Host": name}).status_code == 403, name
    assert TestClient(web.application([], tmp_path, host="10.1.1.1")).get("/", headers={"Host": "10.1.1.2"}).is_error


def test_it_listens_where_it_is_told(client: TestClient) -> None:
    said: list[str] = []

    def announce(address: str) -> None:
        said.append(address)
        raise KeyboardInterrupt

    web.serve(client.app, 0, announce, "0.0.0.0")
    web.serve(client.app, 0, announce, "127.0.0.2")
    assert [address.rpartition(":")[0] for address in said] == ["http://0.0.0.0", "http://127.0.0.2"]
    for host in ("203.0.113.9", "no such host"):
        with pytest.raises(InpaintError, match=f"--host is '{host}', which is no address of this machine"):
            web.serve(client.app, 0, announce, host)


def test_a_port_that_cannot_be_had_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    # Such as this process has: a test of training may have left another one than the default.
    before = signal.getsignal(signal.SIGTERM)

    def announce(address: str) -> None:
        said.append(address)
        raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(InpaintError, match=f"port {taken} of 127.0.0.1 is in use; give another --port"):
            web.serve(client.app, taken, announce)
        monkeypatch.setattr(web, "DEFAULT_PORT", taken)
        web.serve(client.app, None, announce)
    assert len(said) == 1 and said[0] != f"http://127.0.0.1:{taken}/"
    with pytest.raises(UsageError, match="--port is 70000"):
        web.serve(client.app, 70000, announce)
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    web.require_web("inpaint rate")
    monkeypatch.setattr(web, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(UsageError, match=r"inpaint rate needs uvicorn: pip install 'inpaint\[web\]'"):
        web.require_web("inpaint rate")
