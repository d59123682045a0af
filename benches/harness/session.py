"""Runs suites, and writes down what they found."""

import argparse
import json
import sys
import time
import traceback

from . import chart, contest, machine, peers, table
from .suite import Bench, Result
from .suites import SUITES

QUICK_SECONDS = 540
"""No suite begins later in a quick run."""


def run(args: argparse.Namespace) -> int:
    """What was asked for; 1 if a suite broke."""
    contest.DATA = args.root / "data"
    contest.DATA.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.root, args.reps or (2 if args.quick else 9), args.quick, _say, args.strongest, args.lane)
    about = {**machine.description(), "versions": peers.versions(), "reps": bench.reps, "quick": args.quick, "started": time.strftime("%Y-%m-%d")}
    _say(f"{about['cpu']} ({about['vectors']}), {about['memory_bytes'] >> 30} GiB, Linux {about['kernel']}")
    _say(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    end = time.monotonic() + QUICK_SECONDS if args.quick else float("inf")
    results = [_one(name, bench, end) for name in args.suites or SUITES]
    report = "\n".join(table.text(result) for result in results)
    print(report)
    if args.json:
        args.json.write_text(json.dumps({"machine": about, "results": [result.to_json() for result in results]}, indent=1) + "\n")
    if args.chart:
        chart.draw(results, args.chart, f"{about['cpu']}, one machine for client and server, medians of {bench.reps} runs; ✓ verifies content")
    broken = [result.suite for result in results if any(note.startswith("BROKEN") for note in result.notes)]
    for name in broken:
        _say(f"benches/run: {name} did not end; see its note")
    return 1 if broken else 0


def _one(name: str, bench: Bench, end: float) -> Result:
    """A suite's result; one that breaks says so and does not take the others along."""
    start = time.monotonic()
    module = SUITES[name]
    if start > end:
        return Result(name, module.__doc__.splitlines()[0], notes=["not run: the time of a quick run was used up; name the suite to run it"])
    _say(f"\n=== {name}: {module.__doc__.splitlines()[0]}")
    try:
        result = module.run(bench)
    except Exception as error:
        traceback.print_exc()
        result = Result(name, module.__doc__.splitlines()[0], notes=[f"BROKEN: {error!r}"])
    _say(f"=== {name}: {time.monotonic() - start:.0f} s")
    return result


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
