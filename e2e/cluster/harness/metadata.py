"""The metadata service of an EC2 instance, in version 2 alone: who asks for the role or its keys has to show a session, and a session is
given for a PUT that says how long it is to last.

    metadata.py ADDRESS:PORT DIRECTORY

DIRECTORY/role.json says whose keys it hands out (`write_role`). One JSON line in DIRECTORY/questions.jsonl for every answer. It needs the
standard library alone: a copy of this file runs inside the cluster's namespaces.
"""

import json
import secrets
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

SESSION = "/latest/api/token"
ROLES = "/latest/meta-data/iam/security-credentials/"
LIFE, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
"""Names of headers: how long a session is to last, which also its answer says, and the session."""
LIFE_MAX = 21600
"""Seconds, as for LIFE."""


def write_role(directory: Path, name: str, access_key: str, secret_key: str, token: str, expiration: str) -> None:
    """The role's name, and its temporary keys in the words of the service."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    keys = {"AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": token, "Expiration": expiration}
    document = {"Code": "Success", "LastUpdated": since, "Type": "AWS-HMAC", **keys}
    (directory / "role.json").write_text(json.dumps({"name": name, "document": document}))


def questions(directory: Path) -> list[dict]:
    """Method, path and status of all that was asked, in the order of the answers."""
    log = directory / "questions.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        life = self.headers.get(LIFE, "")
        if self.path != SESSION:
            self._answer(404)
        elif "X-Forwarded-For" in self.headers:
            self._answer(403)
        elif not (life.isascii() and life.isdecimal() and 1 <= int(life) <= LIFE_MAX):
            self._answer(400)
        else:
            self._answer(200, self.server.new_session(int(life)), {LIFE: life})

    def do_GET(self) -> None:
        role = json.loads((self.server.directory / "role.json").read_text())
        if not self.server.has_session(self.headers.get(TOKEN, "")):
            self._answer(401)
        elif self.path == ROLES:
            self._answer(200, role["name"])
        elif self.path == ROLES + role["name"]:
            self._answer(200, json.dumps(role["document"], indent=2))
        else:
            self._answer(404)

    def _answer(self, status: int, text: str = "", headers: dict[str, str] | None = None) -> None:
        self.server.note(method=self.command, path=self.path, status=status)
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words) -> None:
        """What is asked is in a file."""


class Service(socketserver.ThreadingTCPServer):
    """Listens, and knows its sessions. The library's own HTTP server would ask for the name of its address, which nobody here knows."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, listen: tuple[str, int], directory: Path):
        super().__init__(listen, Answer)
        self.directory = directory
        self._log = (directory / "questions.jsonl").open("a", buffering=1)
        self._sessions: dict[str, float] = {}

    def new_session(self, seconds: int) -> str:
        session = secrets.token_urlsafe(42)
        self._sessions[session] = time.monotonic() + seconds
        return session

    def has_session(self, session: str) -> bool:
        return time.monotonic() < self._sessions.get(session, 0.0)

    def note(self, **question) -> None:
        self._log.write(json.dumps(question) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    host, _, port = sys.argv[1].rpartition(":")
    with Service((host, int(port)), Path(sys.argv[2])) as service:
        service.serve_forever()
