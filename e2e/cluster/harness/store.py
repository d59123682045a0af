"""The object storage: Versity's S3 gateway inside the cluster's network, filled by Amazon's own client, and beside it a wire to
the same server that counts what it sends (`../node/relay.py`). What was downloaded is judged by that count alone."""

import json
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from .cluster import Cluster
from .command import output
from .outcome import until
from .paths import BIN, CACHE, INSIDE, REPOSITORY, STATE

BUCKET = "models"
ACCESS_KEY, SECRET_KEY = "tonnage", "tonnage-secret"
ADDRESS = "10.10.0.1"
DIRECT, COUNTED = f"http://{ADDRESS}:7070", f"http://{ADDRESS}:7071"
"""Endpoints of the one server: its own, and the wire's."""
TWICE = 1.05
"""Who gets more than this many times the size has got it twice; less is a late part that was asked for again."""


@dataclass(frozen=True)
class Traffic:
    """What the server sent in a while."""

    requests: list[dict]

    @property
    def bytes_by_key(self) -> dict[str, int]:
        """Bytes of content by key."""
        sums = defaultdict(int)
        for request in self._content:
            sums[_key(request["path"])] += request["bytes"]
        return dict(sums)

    @property
    def content(self) -> int:
        return sum(self.bytes_by_key.values())

    @property
    def objects(self) -> list[str]:
        """Keys of the objects that were asked for at all, with or without an answer; listings ask for none."""
        return sorted({key for request in self.requests if (key := _key(request["path"]))})

    @property
    def began(self) -> float:
        """When the first request for content was made, by the machine's clock."""
        return min(request["began"] for request in self._content)

    @property
    def last_byte(self) -> float:
        """When the last byte of content was sent."""
        return max(request["last"] for request in self._content)

    def is_one_of(self, size: int) -> bool:
        """Whether content of that size was sent, and once."""
        return size <= self.content <= size * TWICE

    @property
    def _content(self) -> list[dict]:
        """An answer of one byte is the proof that a pod may read, and no content."""
        sent = (it for it in self.requests if it["method"] == "GET" and it["bytes"] > 1 and it["status"] in (200, 206))
        return [it for it in sent if _key(it["path"])]

    def __str__(self) -> str:
        return f"{self.content} bytes of {len(self.bytes_by_key)} objects in {len(self.requests)} requests"


class Store:
    """The server, its wire and its objects."""

    NAME, PROGRAM, WIRE = "store", "versity", "relay"
    """Of its directory, and of what runs for it in the cluster: the server and the wire."""
    ENDPOINTS = (DIRECT, COUNTED)

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._directory, self._inside = STATE / self.NAME, INSIDE / self.NAME

    @staticmethod
    def build() -> None:
        """The server and the client that fills it, where they are not there yet."""
        output([REPOSITORY / "e2e/servers.sh", "build", "versity", "clients"], seconds=900)
        link(CACHE / "bin/versitygw")

    def start(self) -> None:
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        self._start()

    def start_server(self) -> None:
        self._start_versity()

    def stop_server(self) -> None:
        self._cluster.kill_component(self.PROGRAM)

    def stop(self) -> None:
        """Ends it and removes what it holds."""
        self._cluster.kill_component(self.WIRE)
        self.stop_server()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self) -> None:
        """The server and the wire, once the server has what it needs."""
        direct, counted = self.ENDPOINTS
        words = {"KIND": "s3", "ENDPOINT": direct, "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY, "REGION": "us-east-1"}
        (self._directory / "env").write_text("".join(f"{key}={value}\n" for key, value in words.items()))
        self.start_server()
        relay = ["python3", "/var/lib/conf/relay.py", place(counted), place(direct), self._inside]
        self._cluster.start_component(self.WIRE, *relay)
        until(f"the wire to {self.NAME} listens", 20, lambda: self._answers(counted))

    def _start_versity(self, *flags) -> None:
        direct = self.ENDPOINTS[0]
        command = ["versitygw", "--port", place(direct), "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--region", "us-east-1"]
        self._cluster.start_component(self.PROGRAM, *command, *flags, "--keep-alive", "--quiet", "posix", self._inside / "data")
        until(f"{self.NAME} answers", 30, lambda: self._answers(direct))

    def _answers(self, endpoint: str) -> bool:
        """Any HTTP status will do: who does not sign is refused."""
        ask = f"import urllib.request, urllib.error\ntry: urllib.request.urlopen('{endpoint}', timeout=2)\nexcept urllib.error.HTTPError: pass"
        return self._cluster.attempt("python3", "-c", ask).code == 0

    def put(self, directory: Path, prefix: str) -> None:
        """Uploads the files of a directory with Amazon's client, as a user would: the server keeps ETags of what is uploaded only."""
        output(self._client("put", BUCKET, prefix, directory))

    def _client(self, verb: str, *arguments) -> list:
        """A command of Amazon's client. Only the network is the cluster's: the client's library may lie where its mounts hide it."""
        pid = (STATE / "init.pid").read_text().strip()
        client = [CACHE / "clients/bin/python", REPOSITORY / "e2e/bucket.py", verb, self._directory / "env", *arguments]
        return ["nsenter", f"--net=/proc/{pid}/ns/net", *client]

    def remove(self, prefix: str) -> None:
        """Removes objects and what the server keeps of them."""
        shutil.rmtree(self._directory / "data" / BUCKET / prefix, ignore_errors=True)

    def limit(self, rate: int | None) -> None:
        """Most bytes per second on the wire that counts, from the next request on; none: no limit."""
        if rate is None:
            (self._directory / "rate").unlink(missing_ok=True)
        else:
            (self._directory / "rate").write_text(str(rate))

    def mark(self) -> int:
        """A moment, for `since`."""
        log = self._directory / "requests.jsonl"
        return log.stat().st_size if log.exists() else 0

    def since(self, mark: int) -> Traffic:
        """What was sent on the wire that counts since a moment; requests that still run are waited for."""
        return _traffic(*until("requests to the store end", 30, lambda: self._settled(mark)))

    def so_far(self, mark: int) -> Traffic:
        """What requests have brought since a moment that have ended; those that still run are left out."""
        return _traffic(*self._lines(mark))

    def _settled(self, mark: int) -> tuple[dict, dict] | None:
        begun, ended = self._lines(mark)
        return (begun, ended) if begun.keys() <= ended.keys() else None

    def _lines(self, mark: int) -> tuple[dict, dict]:
        """Requests that have begun, and those that have ended, by their numbers."""
        log = self._directory / "requests.jsonl"
        lines = []
        if log.exists():
            with log.open() as file:
                file.seek(mark)
                lines = [json.loads(line) for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
        begun = {line["id"]: line for line in lines if line["event"] == "begin"}
        ended = {line["id"]: line for line in lines if line["event"] == "end"}
        return begun, ended


def link(built: Path) -> None:
    """Puts a program beside the cluster's own, where its namespaces show it wherever the cache lies."""
    binary = BIN / built.name
    if not binary.exists() or not os.path.samefile(binary, built):
        binary.unlink(missing_ok=True)
        os.link(built, binary)


def place(endpoint: str) -> str:
    """Host and port."""
    return endpoint.removeprefix("http://")


def _traffic(begun: dict, ended: dict) -> Traffic:
    return Traffic([{**begun[number], "began": begun[number]["at"], **line} for number, line in ended.items() if number in begun])


def _key(path: str) -> str:
    """The key in a request's path, where it names an object and not a bucket."""
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    return key if bucket == BUCKET else ""
