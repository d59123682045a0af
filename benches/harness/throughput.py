"""Bytes that a server has sent, over time: for rates after a start, and for gaps in which nothing was sent."""

import threading
import time
from itertools import pairwise

from .server import Server

Points = list[tuple[float, int]]


class Watch(threading.Thread):
    """Asks a server for its count again and again; use it in a `with`. The server is reset before every run."""

    def __init__(self, server: Server, every: float = 0.1):
        super().__init__(daemon=True)
        self.server, self.every = server, every
        self._points: Points = []
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()

    def run(self):
        while not self._ended.wait(self.every):
            self._look()

    def _look(self) -> None:
        with self._lock:
            now = time.monotonic()
            sent = self.server.counts()["object_bytes"]
            if self._points and sent < self._points[-1][1]:
                self._points.clear()
            self._points.append((now, sent))

    def take(self) -> Points:
        """The points of the run that has just ended: from the last moment without a byte to the first with all of them."""
        self._look()
        with self._lock:
            points, self._points = self._points, []
        moving = [index for index, (before, after) in enumerate(pairwise(points)) if after[1] > before[1]]
        return points[moving[0] : moving[-1] + 2] if moving else []


def rate(points: Points, after: float = 0.0) -> float:
    """Bytes per second from `after` seconds past the first byte to the last look before the end: a look in which a run starts
    or ends is only partly used and would say too little. 0 where the run was too short."""
    inner = [point for point in points[1:-1] if point[0] >= points[0][0] + after]
    if len(inner) < 2:
        return 0.0
    return (inner[-1][1] - inner[0][1]) / (inner[-1][0] - inner[0][0])


def longest_gap(points: Points) -> float:
    """Seconds of the longest time between two looks in which nothing was sent; gaps shorter than a look are not seen."""
    longest = since = 0.0
    for before, after in pairwise(points):
        since = since + after[0] - before[0] if after[1] == before[1] else 0.0
        longest = max(longest, since)
    return longest
