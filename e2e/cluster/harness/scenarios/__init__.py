"""The scenarios, in the order in which they run. Each is a module whose docstring says what it shows."""

from types import ModuleType

from . import (
    cold_start,
    deadline,
    full_disk,
    governance,
    governance_outage,
    identity,
    kills,
    lint,
    monitoring,
    node_cache,
    rbac,
    revision,
    rollout,
    sharing,
    two_nodes,
    uninstall,
    uninstall_live,
    unreachable,
    ways_to_ask,
    workload_identity,
)

_IN_ORDER = (
    lint,
    rbac,
    ways_to_ask,
    sharing,
    revision,
    identity,
    workload_identity,
    governance,
    governance_outage,
    monitoring,
    node_cache,
    unreachable,
    kills,
    deadline,
    full_disk,
    rollout,
    two_nodes,
    uninstall_live,
    uninstall,
    cold_start,
)
SCENARIOS: dict[str, ModuleType] = {it.NAME: it for it in _IN_ORDER}
