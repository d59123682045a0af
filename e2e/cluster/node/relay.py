"""A wire with a meter: passes HTTP requests on to an S3 server and writes down what was asked and how many bytes went back.

    relay.py LISTEN-ADDRESS:PORT SERVER-ADDRESS:PORT DIRECTORY

One JSON line in DIRECTORY/requests.jsonl when a request begins and one when it ends; `bytes` are those of the body that the
client's socket took, `last` is when it took the last of them. DIRECTORY/rate, if it is there, holds the most bytes per second of
all answers together, read again for every request. Heads pass unchanged, so signatures stay valid. Runs inside the cluster's
namespaces.
"""

import json
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path

CHUNK = 64 << 10


class Meter:
    """The log and the pace, which all connections share."""

    def __init__(self, directory: Path):
        self._log = (directory / "requests.jsonl").open("a", buffering=1)
        self._rate = directory / "rate"
        self._lock = threading.Lock()
        self._last = 0
        self._free_at = 0.0

    def begin(self, **about) -> int:
        with self._lock:
            self._last += 1
            self._write(id=self._last, event="begin", **about)
            return self._last

    def end(self, number: int, **about) -> None:
        with self._lock:
            self._write(id=number, event="end", **about)

    def _write(self, **line) -> None:
        self._log.write(json.dumps({"at": time.time(), **line}) + "\n")

    def rate(self) -> float:
        try:
            return float(self._rate.read_text())
        except FileNotFoundError:
            return 0.0

    def wait(self, count: int, rate: float) -> None:
        """Waits until `count` more bytes may pass; connections take turns."""
        if not rate:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / rate
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()))


class Exchange(socketserver.StreamRequestHandler):
    """One client's connection: requests in turn, each over a connection to the server of its own."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        try:
            while head := head_of(self.rfile):
                if not self._pass_on(head):
                    break
        except OSError:
            # Whoever left has no further questions; what was sent until then is written down.
            pass

    def _pass_on(self, head: list[bytes]) -> bool:
        """Passes one request on; whether the connection can take another."""
        method, target, _ = head[0].decode("latin-1").split(" ", 2)
        path, _, query = target.partition("?")
        number = self.server.meter.begin(method=method, path=path, query=query, range=_field(head, b"range").decode("latin-1"))
        self._sent, self._last, status = 0, 0.0, 0
        try:
            with socket.create_connection(self.server.upstream) as upstream, upstream.makefile("rb") as answer:
                upstream.sendall(b"".join(head))
                self._copy(self.rfile, upstream.sendall, int(_field(head, b"content-length") or 0))
                reply = head_of(answer)
                if not reply:
                    return False
                status = int(reply[0].split(b" ", 2)[1])
                self.wfile.write(b"".join(reply))
                closed = self._body(answer, reply, method == "HEAD" or status in (204, 304))
            return not closed and _field(reply, b"connection").lower() != b"close"
        finally:
            self.server.meter.end(number, status=status, bytes=self._sent, last=self._last)

    def _body(self, answer, reply: list[bytes], is_empty: bool) -> bool:
        """Sends a body; whether its end is the connection's."""
        if is_empty:
            return False
        if _field(reply, b"transfer-encoding").lower() == b"chunked":
            while size := int((line := answer.readline()).split(b";")[0], 16):
                self.wfile.write(line)
                self._send(answer, size)
                self.wfile.write(answer.readline())
            self.wfile.write(line + b"".join(head_of(answer)))
            return False
        length = _field(reply, b"content-length")
        self._send(answer, int(length) if length else sys.maxsize)
        return not length

    def _send(self, source, length: int) -> None:
        rate = self.server.meter.rate()

        def take(chunk: bytes) -> None:
            self.server.meter.wait(len(chunk), rate)
            self.wfile.write(chunk)
            self._sent += len(chunk)
            self._last = time.time()

        self._copy(source, take, length)

    @staticmethod
    def _copy(source, take, length: int) -> None:
        while length > 0 and (chunk := source.read(min(length, CHUNK))):
            take(chunk)
            length -= len(chunk)


class Relay(socketserver.ThreadingTCPServer):
    """Listens; one thread per connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, listen: tuple[str, int], upstream: tuple[str, int], meter: Meter):
        super().__init__(listen, Exchange)
        self.upstream, self.meter = upstream, meter


def head_of(stream) -> list[bytes]:
    """The lines of a head with the empty one, or nothing at the stream's end."""
    lines = []
    while line := stream.readline():
        lines.append(line)
        if line in (b"\r\n", b"\n"):
            return lines
    return []


def _field(head: list[bytes], name: bytes) -> bytes:
    for line in head[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with Relay(address_of(sys.argv[1]), address_of(sys.argv[2]), Meter(Path(sys.argv[3]))) as relay:
        relay.serve_forever()
