"""The S3 server of a suite: `tonnage-bench serve` over the data directory, with or without delays and troubles."""

import json
import subprocess
import urllib.request
from pathlib import Path

from . import machine


class Server:
    """A running server; use it in a `with`. `endpoint` is its URL, `ca` the authority that a TLS client is to trust."""

    def __init__(self, root: Path, *options: str, ca: Path | None = None):
        command = [machine.BENCH, "serve", str(root), *options]
        if ca:
            command += ["--ca-out", str(ca)]
        self.ca = ca
        self.root = root
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()
        if not self.endpoint:
            raise RuntimeError("the server did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    @property
    def address(self) -> str:
        return self.endpoint.split("://", 1)[1]

    def cpu_seconds(self) -> float:
        return machine.process_seconds(self.process.pid)

    def counts(self, command: str = "stats") -> dict:
        """What was sent since the last reset: object_bytes, gets, lists, connections."""
        context = None
        if self.ca:
            import ssl

            context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(f"{self.endpoint}/_{command}", context=context) as answer:
            return json.load(answer)

    def reset(self) -> None:
        self.counts("reset")
