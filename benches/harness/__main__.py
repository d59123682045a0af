"""The command line behind `benches/run`. It needs nothing but Python until suites are to be run: the peers' packages are installed then."""

import argparse
import sys
from pathlib import Path

from .listing import questions


def main() -> int:
    args = _arguments()
    if args.list:
        for name, question in questions().items():
            print(f"{name:<14} {question}")
        return 0
    from .session import run

    return run(args)


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
        if name not in questions():
            parser.error(f"no suite is called {name!r}; --list shows them")
    for path in (args.json, args.chart):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{path.parent} is not a directory")
    if args.reps is not None and args.reps < 1:
        parser.error("--reps is at least 1")
    args.json, args.chart = (path and path.absolute() for path in (args.json, args.chart))
    return args


sys.exit(main())
