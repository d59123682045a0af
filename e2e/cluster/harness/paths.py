"""Where things lie on this machine. Inside the cluster's namespaces STATE is /var/lib/cluster and BIN is /var/lib/bin."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
NODE = REPOSITORY / "e2e/cluster/node"
_BASE = Path(os.environ.get("TONNAGE_E2E_DIR") or REPOSITORY / ".e2e").absolute()
STATE = _BASE / "cluster"
EVIDENCE = _BASE / "cluster-evidence"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tonnage-e2e"
BIN = CACHE / "cluster/bin"
INSIDE = Path("/var/lib/cluster")
"""STATE, as processes of the cluster call it."""
