"""A store that knows accounts: another Versity, with its wire, where beside the root there are accounts whose rights are the bucket's policy,
and whose log says who asked for what."""

import json
import shutil
from dataclasses import dataclass
from urllib.parse import unquote

from .cluster import Cluster
from .command import output
from .store import ACCESS_KEY, ADDRESS, BUCKET, SECRET_KEY, Store

DIRECT, COUNTED = f"http://{ADDRESS}:7090", f"http://{ADDRESS}:7091"
"""Endpoints of the one server: its own, and the wire's."""


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
    """The server, its wire, its objects and its accounts."""

    NAME, PROGRAM, WIRE = "accounts", "accounts", "accounts-relay"
    ENDPOINTS = (DIRECT, COUNTED)

    def __init__(self, cluster: Cluster):
        super().__init__(cluster)
        self._log = self._directory / "access.log"

    def start(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        for name in ("data", "iam"):
            (self._directory / name).mkdir(parents=True)
        self._start()

    def start_server(self) -> None:
        # What is taken away is gone at once.
        self._start_versity("--iam-dir", self._inside / "iam", "--iam-cache-disable", "--access-log", self._inside / "access.log")

    def add_account(self, name: str, secret: str) -> None:
        """An account without any right. Its name is the id of its key."""
        admin = ["versitygw", "admin", "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--endpoint-url", DIRECT]
        self._cluster.inside(*admin, "create-user", "--access", name, "--secret", secret, "--role", "user")

    def allow(self, *names: str) -> None:
        """Lets these accounts list and read the bucket, which is there, and nobody else; `*` is everybody, with keys or without."""
        policy = json.dumps(_policy(names)) if names else ""
        output(self._client("policy", BUCKET, policy))

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
