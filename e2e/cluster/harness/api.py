"""Looks at the API server over one connection that is kept. Scenarios look many times a second, and a run of kubectl, with what enters the
cluster's namespaces before it, costs more processor time than all that it looks at. As the same administrator, and with the same names
of kinds; whatever is changed goes by way of the real kubectl (`kubectl.py`)."""

import ctypes
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

from .outcome import Failure
from .paths import STATE
from .store import ADDRESS

PORT = 443
PATIENCE = 60
"""Seconds for an answer."""
BUSY, BUSY_FOR = 429, 20
"""Status of a server that wants to be asked again, as one does whose kind is a moment old, and seconds in which it is."""
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""All kinds in one answer."""
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class _Kind:
    name: str
    version: str
    root: str
    plural: str
    is_namespaced: bool


class Api:
    """Objects are named as in `kubectl.py`."""

    def __init__(self):
        self._connection: http.client.HTTPConnection | None = None
        self._owner = 0
        self._kinds: dict[str, _Kind] = {}

    def find(self, namespace: str, kind: str, name: str) -> dict | None:
        """The object, or nothing if there is none."""
        path = f"{self._place(namespace, kind)}/{name}"
        status, body = self._ask(path)
        if status == 404 and _is_there_no_such_object(body):
            return None
        return self._understood(path, status, body)

    def all(self, namespace: str, kind: str, **selectors: str) -> list[dict]:
        """All objects of a kind: of a namespace, of none ("") or of all ("*")."""
        path = f"{self._place(namespace, kind)}?{urlencode(selectors)}"
        found, it = self._understood(path, *self._ask(path)), self._kind(kind)
        return [{"kind": it.name, "apiVersion": it.version, **one} for one in found["items"]]

    def _understood(self, path: str, status: int, body: bytes) -> dict:
        if status != 200:
            # A kind may have gone.
            self._kinds.clear()
            raise Failure(f"GET {path} is answered with {status}: {body.decode(errors='replace')[:500]}")
        return json.loads(body)

    def _place(self, namespace: str, kind: str) -> str:
        it = self._kind(kind)
        where = f"/namespaces/{namespace or 'default'}" if it.is_namespaced and namespace != "*" else ""
        return f"{it.root}{where}/{it.plural}"

    def _kind(self, name: str) -> _Kind:
        key = name.lower()
        if key not in self._kinds:
            self._kinds = self._all_kinds()
        if key not in self._kinds:
            raise Failure(f"the API server has no kind {name}")
        return self._kinds[key]

    def _all_kinds(self) -> dict[str, _Kind]:
        """By each of their names. Where two have the same, the first counts: those of Kubernetes itself."""
        kinds: dict[str, _Kind] = {}
        for root in ("/api", "/apis"):
            for group in self._understood(root, *self._ask(root, AGGREGATED))["items"]:
                for name, kind in _named(root, group):
                    kinds.setdefault(name, kind)
        return kinds

    def _ask(self, path: str, accept: str = "application/json") -> tuple[int, bytes]:
        until = time.monotonic() + BUSY_FOR
        while True:
            status, body = self._answer(path, accept)
            if status != BUSY or time.monotonic() > until:
                return status, body
            time.sleep(1)

    def _answer(self, path: str, accept: str) -> tuple[int, bytes]:
        """A connection that was kept may have ended; a new one that fails says that the server is away."""
        was_kept = self._connection is not None and self._owner == os.getpid()
        try:
            return self._exchange(path, accept)
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            if not was_kept:
                raise Failure(f"the API server does not answer GET {path}: {error!r}") from None
        return self._answer(path, accept)

    def _exchange(self, path: str, accept: str) -> tuple[int, bytes]:
        # A connection is one process's: a scenario that runs beside others has its own.
        if self._connection is None or self._owner != os.getpid():
            self._connection, self._owner = _connect(), os.getpid()
        self._connection.request("GET", path, headers={"Accept": accept})
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def _named(root: str, group: dict) -> Iterator[tuple[str, _Kind]]:
    """Kinds of a group by their names, the preferred version first."""
    suffix = group.get("metadata", {}).get("name", "")
    for version in group["versions"]:
        full = f"{suffix}/{version['version']}" if suffix else version["version"]
        for it in version.get("resources", []):
            plural, singular = it["resource"], it.get("singularResource", "")
            kind = _Kind(it["responseKind"]["kind"], full, f"{root}/{full}", plural, it["scope"] == "Namespaced")
            for name in (plural, singular, *it.get("shortNames", [])):
                yield name, kind
                yield f"{name}.{suffix}", kind


def _is_there_no_such_object(body: bytes) -> bool:
    """Or is there no such kind?"""
    try:
        return "name" in json.loads(body).get("details", {})
    except ValueError:
        return False


def _connect() -> http.client.HTTPConnection:
    keys = STATE / "pki"
    context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    # The authority of the tests has no identifier of its own.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
    with _network_of((STATE / "init.pid").read_text().strip()):
        plain = socket.create_connection((ADDRESS, PORT), PATIENCE)
    connection = http.client.HTTPConnection(ADDRESS, PORT)
    # It would connect outside of the cluster's network.
    connection.auto_open = 0
    connection.sock = context.wrap_socket(plain, server_hostname=ADDRESS)
    return connection


@contextmanager
def _network_of(process: str) -> Iterator[None]:
    """This thread is in the network of a process meanwhile: a socket stays where it was made."""
    with open("/proc/thread-self/ns/net") as own, open(f"/proc/{process}/ns/net") as other:
        _enter(other.fileno())
        try:
            yield
        finally:
            _enter(own.fileno())


def _enter(network: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
