"""The command line behind `benches/run`."""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

from . import chart, contest, machine, peers, table
from .suite import Bench, Result
from .suites import SUITES


QUICK_SECONDS = 540
"""No suite begins later in a quick run."""


def main() -> int:
    args = _arguments()
    if args.list:
        for name, module in SUITES.items():
            print(f"{name:<14} {module.__doc__.splitlines()[0]}")
        return 0
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benches/run", description="Measures Tonnage beside its peers and beside the machine's limits.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="which suites; default: all (see --list)")
    parser.add_argument("--reps", type=int, help="turns of every contender [default: 9, with --quick 2]")
    parser.add_argument("--quick", action="store_true", help="small sizes, few turns; no suite begins after nine minutes")
    parser.add_argument("--strongest", action="store_true", help="only the strongest peers")
    parser.add_argument("--lane", choices=["hot", "idle"], help="only this state of memory, where a suite has several")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, raw values, limits and verdicts here")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the times here (.svg; a .png is put beside it)")
    parser.add_argument("--list", action="store_true", help="list the suites and their questions")
    parser.add_argument("--root", type=Path, required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in args.suites:
        if name not in SUITES:
            parser.error(f"no suite is called {name!r}; --list shows them")
    for path in (args.json, args.chart):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{path.parent} is not a directory")
    if args.reps is not None and args.reps < 1:
        parser.error("--reps is at least 1")
    args.json, args.chart = (path and path.absolute() for path in (args.json, args.chart))
    return args


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


sys.exit(main())
