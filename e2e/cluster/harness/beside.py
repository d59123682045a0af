"""A scenario beside others of the same cluster: in a process of its own, so that its words do not mix with theirs."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable


class Beside:
    """Begins at once. `run` says whether all of the scenario holds; what it prints is kept until the end. Whatever the process has of
    Python's objects is a copy, so nothing of what the scenario has to remove must be anybody else's."""

    def __init__(self, name: str, run: Callable[[], bool]):
        self.name = name
        self._said = tempfile.TemporaryFile()
        sys.stdout.flush()
        # Ends with the harness, whatever happens to that.
        self._process = multiprocessing.get_context("fork").Process(target=self._go, args=(run,), daemon=True)
        self._process.start()

    def _go(self, run: Callable[[], bool]) -> None:
        for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(self._said.fileno(), stream)
        sys.exit(0 if run() else 1)

    def end(self) -> bool:
        """Waits for its end, shows what it has printed, and returns what `run` did."""
        self._process.join()
        self._said.seek(0)
        print(self._said.read().decode(errors="replace"), end="", flush=True)
        self._said.close()
        return self._process.exitcode == 0

    def stop(self) -> None:
        """Ends it where it has not ended: what it does in the cluster goes with that."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
