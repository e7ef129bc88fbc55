"""Owns the counting of what processes say to the store where they meet: a relay in front of it, on this machine."""

from __future__ import annotations

import selectors
import socket
import threading


class CountingRelay:
    """Hands on all that comes to `port` of its own to the store's; leaving the `with` block closes it.

    Attributes:
        num_connections: made so far.
        num_messages: pieces that came from processes; a message is sent as one, and two at once may come as one.
        num_about_groups: those of `num_messages` in which gloo's groups connect their processes.
        num_bytes: from the processes and to them.
    """

    def __init__(self, store_port: int) -> None:
        self.num_connections = self.num_messages = self.num_about_groups = self.num_bytes = 0
        self._store = ("127.0.0.1", store_port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listening.getsockname()[1]
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(self._listening, selectors.EVENT_READ)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> CountingRelay:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._waiting.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def counted(self) -> dict[str, int]:
        return {
            "connections": self.num_connections,
            "messages": self.num_messages,
            "about groups": self.num_about_groups,
            "bytes": self.num_bytes,
        }

    def _run(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._waiting.select(timeout=0.1):
                if key.fileobj is self._listening:
                    self._accept()
                else:
                    self._hand_on(key.fileobj, *key.data)  # type: ignore[arg-type]

    def _accept(self) -> None:
        process, _ = self._listening.accept()
        store = socket.create_connection(self._store)
        for one, other, is_process in ((process, store, True), (store, process, False)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._waiting.register(one, selectors.EVENT_READ, (other, is_process))
        self.num_connections += 1

    def _hand_on(self, source: socket.socket, target: socket.socket, is_process: bool) -> None:
        try:
            data = source.recv(1 << 16)
            if data:
                target.sendall(data)
                self.num_messages += is_process
                self.num_about_groups += is_process and b"/group/" in data
                self.num_bytes += len(data)
                return
        except OSError:  # one of the two is gone, and so is their connection
            pass
        for end in (source, target):
            self._waiting.unregister(end)
            end.close()
