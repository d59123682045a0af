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
ACCOUNTS, ACCOUNTS_COUNTED = f"http://{ADDRESS}:7090", f"http://{ADDRESS}:7091"
"""The same of the server that has accounts."""
TWICE = 1.05
"""Who gets more than this many times the size has got it twice; less is a late part that was asked for again."""
SET_POLICY = """import pathlib, sys
sys.path.insert(0, sys.argv[1])
from bucket import S3
env = dict(line.split("=", 1) for line in pathlib.Path(sys.argv[2]).read_text().splitlines())
bucket, policy = sys.argv[3:]
client = S3(env).client
if policy:
    client.put_bucket_policy(Bucket=bucket, Policy=policy)
else:
    client.delete_bucket_policy(Bucket=bucket)
"""
"""Amazon's client, with which a bucket's policy is written or, where it is empty, removed."""


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

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._directory = STATE / "store"

    @staticmethod
    def build() -> None:
        """The server and the client that fills it, where they are not there yet."""
        output([REPOSITORY / "e2e/servers.sh", "build", "versity", "clients"], seconds=900)
        # Beside the cluster's own programs, where its namespaces show it wherever the cache lies.
        binary = BIN / "versitygw"
        if not binary.exists() or not os.path.samefile(binary, CACHE / "bin/versitygw"):
            binary.unlink(missing_ok=True)
            os.link(CACHE / "bin/versitygw", binary)

    def start(self) -> None:
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        words = {"KIND": "s3", "ENDPOINT": DIRECT, "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY, "REGION": "us-east-1"}
        (self._directory / "env").write_text("".join(f"{key}={value}\n" for key, value in words.items()))
        self.start_server()
        relay = ["python3", "/var/lib/conf/relay.py", f"{ADDRESS}:7071", f"{ADDRESS}:7070", INSIDE / "store"]
        self._cluster.start_component("relay", *relay)
        until("the store's wire listens", 20, lambda: self._answers(COUNTED))

    def start_server(self) -> None:
        command = ["versitygw", "--port", f"{ADDRESS}:7070", "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--region", "us-east-1"]
        self._cluster.start_component("versity", *command, "--keep-alive", "--quiet", "posix", INSIDE / "store/data")
        until("the store answers", 30, lambda: self._answers(DIRECT))

    def stop_server(self) -> None:
        self._cluster.kill_component("versity")

    def _answers(self, endpoint: str) -> bool:
        """Any HTTP status will do: who does not sign is refused."""
        ask = f"import urllib.request, urllib.error\ntry: urllib.request.urlopen('{endpoint}', timeout=2)\nexcept urllib.error.HTTPError: pass"
        return self._cluster.attempt("python3", "-c", ask).code == 0

    def put(self, directory: Path, prefix: str) -> None:
        """Uploads the files of a directory with Amazon's client, as a user would: the server keeps ETags of what is uploaded only."""
        self._client(REPOSITORY / "e2e/bucket.py", "put", self._directory / "env", BUCKET, prefix, directory)

    def _client(self, *arguments) -> None:
        """Runs Python with the clients' libraries. Only the network is the cluster's: the libraries may lie where its mounts hide them."""
        pid = (STATE / "init.pid").read_text().strip()
        output(["nsenter", f"--net=/proc/{pid}/ns/net", CACHE / "clients/bin/python", *arguments])

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


@dataclass(frozen=True)
class Asked:
    """A request in the server's own log; who did not sign it has no name there."""

    operation: str
    requester: str
    target: str

    @classmethod
    def parse(cls, line: str) -> "Asked | None":
        """A line in the format of S3's access logs, where the time is two words; other lines are none."""
        words = line.split(" ")
        return cls(words[7], words[5].removeprefix("-"), unquote(words[9])) if len(words) > 9 else None


class Accounts(Store):
    """Another such server, for a scenario of its own: beside its root it has accounts, whose rights are the bucket's policy."""

    def __init__(self, cluster: Cluster):
        super().__init__(cluster)
        self._directory = STATE / "accounts"
        self._log = self._directory / "access.log"

    def start(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        for name in ("data", "iam"):
            (self._directory / name).mkdir(parents=True)
        words = {"KIND": "s3", "ENDPOINT": ACCOUNTS, "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY, "REGION": "us-east-1"}
        (self._directory / "env").write_text("".join(f"{key}={value}\n" for key, value in words.items()))
        self.start_server()
        relay = ["python3", "/var/lib/conf/relay.py", _place(ACCOUNTS_COUNTED), _place(ACCOUNTS), INSIDE / "accounts"]
        self._cluster.start_component("accounts-relay", *relay)
        until("the wire to the store with accounts listens", 20, lambda: self._answers(ACCOUNTS_COUNTED))

    def start_server(self) -> None:
        inside = INSIDE / "accounts"
        command = ["versitygw", "--port", _place(ACCOUNTS), "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--region", "us-east-1"]
        # What is taken away is gone at once.
        accounts = ["--iam-dir", inside / "iam", "--iam-cache-disable", "--access-log", inside / "access.log"]
        self._cluster.start_component("accounts", *command, *accounts, "--keep-alive", "--quiet", "posix", inside / "data")
        until("the store with accounts answers", 30, lambda: self._answers(ACCOUNTS))

    def stop_server(self) -> None:
        self._cluster.kill_component("accounts")

    def stop(self) -> None:
        """Ends it and removes what it holds."""
        self._cluster.kill_component("accounts-relay")
        self.stop_server()
        shutil.rmtree(self._directory, ignore_errors=True)

    def add_account(self, name: str, secret: str) -> None:
        """An account without any right. Its name is the id of its key."""
        admin = ["versitygw", "admin", "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--endpoint-url", ACCOUNTS]
        self._cluster.inside(*admin, "create-user", "--access", name, "--secret", secret, "--role", "user")

    def allow(self, *names: str) -> None:
        """Lets these accounts list and read the bucket, which is there, and nobody else; `*` is everybody, with keys or without."""
        policy = json.dumps(_policy(names)) if names else ""
        self._client("-B", "-c", SET_POLICY, REPOSITORY / "e2e", self._directory / "env", BUCKET, policy)

    def mark_log(self) -> int:
        """A moment, for `asked_since`."""
        return self._log.stat().st_size

    def asked_since(self, mark: int, prefix: str) -> list[Asked]:
        """Requests since a moment for what is below a prefix, listings of it included."""
        with self._log.open() as file:
            file.seek(mark)
            asked = [Asked.parse(line) for line in file]
        return [it for it in asked if it and prefix in it.target]


def _policy(names: tuple[str, ...]) -> dict:
    who = "*" if names == ("*",) else {"AWS": list(names)}
    resources = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    read = {"Effect": "Allow", "Principal": who, "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": resources}
    return {"Version": "2012-10-17", "Statement": [read]}


def _place(endpoint: str) -> str:
    return endpoint.removeprefix("http://")


def _traffic(begun: dict, ended: dict) -> Traffic:
    return Traffic([{**begun[number], "began": begun[number]["at"], **line} for number, line in ended.items() if number in begun])


def _key(path: str) -> str:
    """The key in a request's path, where it names an object and not a bucket."""
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    return key if bucket == BUCKET else ""
