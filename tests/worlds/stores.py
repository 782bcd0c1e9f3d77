"""An S3 server of this machine: moto's, in a process of its own, with a log of its requests."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 40  # in which the server must be ready, on a busy machine
BUCKET = "scans"
_REQUEST = re.compile(r'"([A-Z]+) /(\S*?)(\?\S*)? HTTP/1\.1" (\d+)')


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

    def pause(self) -> None:
        """Stop answering."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Answer again."""
        os.kill(self.process.pid, signal.SIGCONT)

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
