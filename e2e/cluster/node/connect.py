"""An HTTP proxy that tunnels (CONNECT) to one place, which has a name that it alone knows.

    connect.py LISTEN-ADDRESS:PORT NAME:PORT SERVER-ADDRESS:PORT DIRECTORY

One JSON line in DIRECTORY/connects.jsonl for every CONNECT: the `host` that it names, with its port, and the `status` that it was given.
DIRECTORY/status, if it is there, holds the status that every CONNECT is given, such as 403; it is read again for each. Runs inside the
cluster's namespaces.
"""

import json
import socket
import socketserver
import sys
import threading
from pathlib import Path

from relay import address_of, head_of

CHUNK = 64 << 10
ESTABLISHED, NOT_ALLOWED, NO_GATEWAY = 200, 405, 502


class Tunnel(socketserver.StreamRequestHandler):
    """One client's connection."""

    rbufsize = 0
    """What follows the head is read from the socket itself."""
    disable_nagle_algorithm = True

    def handle(self) -> None:
        try:
            # Who only looks whether somebody listens says nothing.
            if head := head_of(self.rfile):
                method, host, _ = head[0].decode("latin-1").split(" ", 2)
                self._answer(method, host)
        except OSError:
            # Whoever left has no further questions.
            pass

    def _answer(self, method: str, host: str) -> None:
        status = self.server.decide(method, host)
        if status != ESTABLISHED:
            self.server.note(host=host, status=status)
            self.wfile.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        with socket.create_connection(self.server.upstream) as upstream:
            self.server.note(host=host, status=status)
            self.wfile.write(f"HTTP/1.1 {status} Connection established\r\n\r\n".encode())
            back = threading.Thread(target=_pump, args=(upstream, self.connection), daemon=True)
            back.start()
            _pump(self.connection, upstream)
            back.join()


class Proxy(socketserver.ThreadingTCPServer):
    """Listens; two threads per tunnel."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, listen: tuple[str, int], name: str, upstream: tuple[str, int], directory: Path):
        super().__init__(listen, Tunnel)
        self._name, self.upstream, self._directory = name, upstream, directory
        self._log = (directory / "connects.jsonl").open("a", buffering=1)

    def decide(self, method: str, host: str) -> int:
        if method != "CONNECT":
            return NOT_ALLOWED
        try:
            return int((self._directory / "status").read_text())
        except FileNotFoundError:
            return ESTABLISHED if host == self._name else NO_GATEWAY

    def note(self, **line) -> None:
        self._log.write(json.dumps(line) + "\n")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Passes bytes on until there are no more, and says so."""
    try:
        while chunk := source.recv(CHUNK):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # One end is gone: the other one learns it from its own socket.
        for it in (source, sink):
            _end(it)


def _end(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It has ended already.
        pass


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    with Proxy(address_of(sys.argv[1]), sys.argv[2], address_of(sys.argv[3]), Path(sys.argv[4])) as proxy:
        proxy.serve_forever()
