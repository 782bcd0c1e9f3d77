"""An S3 server of this machine: moto's, in a process of its own, with a log of its requests."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS = 40  # in which the server must be ready, on a busy machine
BUCKET = "scans"
_REQUEST = re.compile(r'"(?:\x1b\[\d+m)*([A-Z]+) /(\S*?)(\?\S*)? HTTP/1\.1(?:\x1b\[\d+m)*" (\d+)')  # colours of the log


class Store:
    """A server with one bucket; `environment` is what programs need to reach it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "requests.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.environment = {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",  # what a failing request needs is octprep's to do
        }
        end = time.monotonic() + SECONDS
        while True:
            try:
                request = urllib.request.Request(f"{self.address}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=SECONDS).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.05)

    def requests(self, method: str, part: str = "") -> Counter[str]:
        """How often each object was asked for successfully, by its key. part: of the key."""
        found = _REQUEST.findall(self.log.read_text())
        return Counter(
            key for verb, key, query, status in found
            if verb == method and part in key and status < "300" and "list-type" not in query
        )  # fmt: skip

    def changes(self, part: str = "") -> list[tuple[str, str]]:
        """The successful requests that change something, in order: method and key. part: of the key."""
        found = _REQUEST.findall(self.log.read_text())
        return [
            (verb, key)
            for verb, key, _, status in found
            if verb in ("PUT", "DELETE") and part in key and status < "300"
        ]

    def stop(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.wait()


@contextmanager
def s3_server(folder: Path) -> Iterator[Store]:
    """A server that is gone after the block."""
    store = Store(folder)
    try:
        yield store
    finally:
        store.stop()


class Proxy:
    """A way to the server that can be closed: `port` forwards every connection as long as it is open.

    hold_at_put: from the PUT request of this number on, counted from 1 and only those whose first line has `part`,
    nothing is forwarded to the server any more; `held` is set then.
    """

    def __init__(self, store: Store, part: str = "", hold_at_put: int = 0) -> None:
        self.is_open = True
        self.held, self._stopped = threading.Event(), threading.Event()
        self._target = store.port
        self._part, self._left = part.encode(), hold_at_put or -1
        self._counting = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.getsockname()[1]}"}
        threading.Thread(target=self._accept, daemon=True).start()

    def close_way(self) -> None:
        """Break all connections, and each new one at once."""
        self.is_open = False
        while self._sockets:
            with suppress(OSError):
                self._sockets.pop().shutdown(socket.SHUT_RDWR)

    def open_way(self) -> None:
        """Forward again."""
        self.is_open = True

    def stop(self) -> None:
        """End the proxy."""
        self._stopped.set()
        self.close_way()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if not self.is_open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(*pair, pair[0] is client), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if to_server and self._is_held(data):
                    self.held.set()
                    self._stopped.wait()
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def _is_held(self, data: bytes) -> bool:
        line = data.partition(b"\r\n")[0]
        with self._counting:
            if self._left > 0 and line.startswith(b"PUT ") and self._part in line:
                self._left -= 1
            return self._left == 0
