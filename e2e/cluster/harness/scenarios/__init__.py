"""The scenarios, in the order in which they run. Each is a module whose docstring says what it shows."""

from types import ModuleType

from . import identity, kills, lint, sharing, uninstall, unreachable, ways_to_ask

SCENARIOS: dict[str, ModuleType] = {it.NAME: it for it in (lint, ways_to_ask, sharing, identity, unreachable, kills, uninstall)}
