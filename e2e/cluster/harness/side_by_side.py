"""Several clusters at once, which share the scenarios: each is a run of its own, in a directory of its own. Most scenarios wait most of
the time, for kubelet or for a rollout, and leave the processors to another cluster's. However this ends, no cluster is left."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .interrupt import held_back, ignore_signals
from .paths import STATE
from .work import EXACT, have_ended, new_claims

LOOK = 0.5
"""Seconds between two looks at whether the other clusters may start."""
PATIENCE = 400
"""Seconds in which a run that is told to end has to remove its cluster: one that is just starting it ends that first."""


def run(count: int, names: Sequence[str], driver: Path, seed: str) -> int:
    """Runs the scenarios on so many clusters; how many of the runs failed. Everything is built already."""
    claims = STATE.parent / "cluster-claims"
    new_claims(claims)
    shared = {"TONNAGE_BIN": str(driver), "TONNAGE_E2E_SEED": seed}
    runs: list[subprocess.Popen] = []
    try:
        _start(runs, claims, shared)
        _wait_until_others_may(runs[0], claims, [name for name in EXACT if name in names])
        for number in range(2, count + 1):
            _start(runs, claims, {**shared, "TONNAGE_E2E_DIR": str(STATE.parent / f"cluster-{number}")})
        return sum(it.wait() != 0 for it in runs)
    finally:
        _end([it for it in runs if it.poll() is None])
        shutil.rmtree(claims)


def _start(runs: list[subprocess.Popen], claims: Path, environment: dict[str, str]) -> None:
    """The same command line once more; what is said last counts. In a session of its own, so that a signal of the terminal comes by way of
    this process, and once."""
    words = [sys.executable, "-m", "harness", *sys.argv[1:], "--clusters=1", f"--claims={claims}", f"--number={len(runs) + 1}"]
    with held_back():
        runs.append(subprocess.Popen(words, env={**os.environ, **environment}, start_new_session=True))


def _wait_until_others_may(first: subprocess.Popen, claims: Path, exact: list[str]) -> None:
    while first.poll() is None and not have_ended(claims, exact):
        time.sleep(LOOK)


def _end(runs: list[subprocess.Popen]) -> None:
    """Tells them to end, and waits until they have removed their clusters."""
    if runs:
        ignore_signals()
    for it in runs:
        it.send_signal(signal.SIGINT)
    for it in runs:
        try:
            it.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            it.kill()
            it.wait()
            print(f"a run has not removed its cluster within {PATIENCE} s: e2e/cluster/node/down.sh --remove does", file=sys.stderr)
