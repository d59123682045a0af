"""Which suites there are, and their questions, read from their source: a list needs none of the packages that they measure with."""

import ast
from functools import cache
from pathlib import Path

SUITES = Path(__file__).parent / "suites"


@cache
def questions() -> dict[str, str]:
    """By name, in the order of `suites/__init__.py`: the first line of each suite."""
    order = _assigned(_parsed("__init__"), "_ORDER")
    modules = [_parsed(name.id) for name in order.elts]
    return {ast.literal_eval(_assigned(module, "NAME")): ast.get_docstring(module).splitlines()[0] for module in modules}


def _parsed(name: str) -> ast.Module:
    return ast.parse((SUITES / f"{name}.py").read_text())


def _assigned(module: ast.Module, name: str) -> ast.expr:
    """What a module assigns to a name at its top."""
    found = (it.value for it in module.body if isinstance(it, ast.Assign) and any(getattr(target, "id", "") == name for target in it.targets))
    return next(found)
