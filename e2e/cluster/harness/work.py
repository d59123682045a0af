"""Which scenario is next, where one cluster runs them all and where several share them. Knows what each does to the others: a scenario
that is in none of these lists has a cluster to itself."""

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

EXACT = ("sharing", "governance-outage")
"""They judge fractions of a second, or a limit that is nearly used up: no other cluster is busy meanwhile, and nobody beside them. What
cold-start shows is exact where it is asked for alone; beside other clusters it judges bytes."""
PATIENT = ("deadline",)
"""They wait for minutes, on a wire of their own: each runs beside those that are calm."""
CALM = ("lint", "rbac", "ways-to-ask", "examples", "identity", "auth-modes", "governance", "budgets", "governance-told", "admission",
    "governance-audited", "monitoring", "node-cache", "proxy")
"""They restart neither the driver nor kubelet, the store or the API server, empty no cache and fill no disk."""


class Work:
    """Each name is taken once. Who shares the names has the same `claims`, a directory in which a name is taken by making one: of
    several processes one succeeds. The first cluster alone takes what is exact or patient."""

    def __init__(self, names: Sequence[str], claims: Path | None = None, is_first: bool = True):
        others = [name for name in names if name not in (*EXACT, *PATIENT)]
        # The first cluster begins with what is calm, and the others with what is not.
        self._names = list(names) if is_first else sorted(others, key=lambda name: name in CALM)
        self._claims = claims
        self._left = set(self._names)

    def has(self, among: Collection[str]) -> bool:
        """Whether this process has any of them still to take."""
        return not self._left.isdisjoint(among)

    def take(self, among: Collection[str] | None = None) -> Iterator[str]:
        """Names that nobody has taken yet, all or those that are `among` these, each taken when the one before it has ended."""
        for name in self._names:
            if name in self._left and (among is None or name in among):
                self._left.discard(name)
                if self._claim(name):
                    yield name
                    self._end(name)

    def _claim(self, name: str) -> bool:
        if self._claims is None:
            return True
        try:
            (self._claims / name).mkdir()
        except FileExistsError:
            return False
        return True

    def _end(self, name: str) -> None:
        if self._claims is not None:
            (self._claims / name / "ended").touch()


def new_claims(directory: Path) -> None:
    """Nothing is taken."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def have_ended(claims: Path, names: Collection[str]) -> bool:
    """Whether all of them were taken and have ended."""
    return all((claims / name / "ended").exists() for name in names)
