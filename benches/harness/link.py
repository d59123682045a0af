"""Watches a server's count while a stage runs and tells how its link was used: ENDPOINT RATE on the command line, until its standard
input ends. Prints the share of the rate from the first byte to the last, quarter second by quarter second, and each time without a byte."""

import json
import sys
import urllib.request
from itertools import pairwise

from .throughput import Watch, rate

EVERY = 0.01
STEP = 0.25


class _Counts:
    """What `Watch` asks, of a server that another program has started."""

    def __init__(self, endpoint: str):
        self.endpoint = endpoint

    def counts(self) -> dict:
        with urllib.request.urlopen(f"{self.endpoint}/_stats") as answer:
            return json.load(answer)


def main() -> None:
    endpoint, limit = sys.argv[1], float(sys.argv[2])
    with Watch(_Counts(endpoint), EVERY) as watch:
        sys.stdin.read()
        points = watch.take()
    start = points[0][0]
    print(f"share of the link {rate(points) / limit:.3f}, {points[-1][0] - start:.2f} s from the first byte to the last")
    shares, before = [], points[0]
    for point in points[1:]:
        if point[0] >= before[0] + STEP:
            shares.append((point[1] - before[1]) / (point[0] - before[0]) / limit)
            before = point
    print(f"every {STEP} s: {' '.join(f'{share:.2f}' for share in shares)}")
    gaps, since = [], None
    for before, after in pairwise(points):
        if after[1] == before[1]:
            since = before[0] if since is None else since
        elif since is not None:
            gaps.append((since - start, before[0] - since))
            since = None
    print(f"without a byte: {', '.join(f'{long * 1e3:.0f} ms after {at:.2f} s' for at, long in gaps if long > 2 * EVERY) or 'never for long'}")


if __name__ == "__main__":
    main()
