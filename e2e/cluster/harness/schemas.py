"""JSON schemas for kubeconform out of what the running API server publishes, its own kinds and the custom ones: no schema is
downloaded, and what is checked is what this server takes. Those of kinds that it does not have are in `../schemas`."""

import json
import shutil
from pathlib import Path

from .paths import REPOSITORY

PREFIX = "#/definitions/"
TEMPLATE = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
"""How kubeconform is to look for a kind: its name, the first word of its group, its version."""


def write(openapi: dict, directory: Path) -> None:
    """One file for every kind of an OpenAPI 2 document, with the definitions that it needs; unknown fields are refused."""
    directory.mkdir(parents=True, exist_ok=True)
    definitions = {name: _strict(definition) for name, definition in openapi["definitions"].items()}
    for name, definition in openapi["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            needed = {other: definitions[other] for other in _reachable(name, definitions)}
            schema = {"$ref": PREFIX + name, "definitions": needed}
            (directory / _file(kind)).write_text(json.dumps(schema))


def add_vendored(directory: Path) -> None:
    """Adds the schemas of other projects' kinds."""
    for file in (REPOSITORY / "e2e/cluster/schemas").glob("*.json"):
        shutil.copy2(file, directory / file.name)


def _file(kind: dict) -> str:
    group = f"-{kind['group'].split('.')[0]}" if kind["group"] else ""
    return f"{kind['kind'].lower()}{group}-{kind['version'].lower()}.json"


def _strict(schema: object) -> object:
    """The schema as JSON Schema means it: no fields but the named ones, numbers where the server takes them for text, and null
    for what is not required."""
    if isinstance(schema, list):
        return [_strict(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    strict = {key: _strict(value) for key, value in schema.items() if key != "properties"}
    if isinstance(fields := schema.get("properties"), dict):
        required = schema.get("required", [])
        strict["properties"] = {name: _strict(it) if name in required else _or_null(_strict(it)) for name, it in fields.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    # A quantity of 1 is written without quotes.
    if schema.get("type") == "string" and "fixed-point representation" in schema.get("description", ""):
        strict["type"] = ["string", "number"]
    return strict


def _or_null(schema: object) -> object:
    return {"anyOf": [schema, {"type": "null"}]}


def _reachable(name: str, definitions: dict) -> set[str]:
    found, open_names = set(), [name]
    while open_names:
        if (next_name := open_names.pop()) not in found:
            found.add(next_name)
            open_names += _references(definitions[next_name])
    return found


def _references(schema: object) -> list[str]:
    if isinstance(schema, list):
        return [name for it in schema for name in _references(it)]
    if not isinstance(schema, dict):
        return []
    here = schema.get("$ref")
    # A property may be called $ref: then its value is a schema and no reference.
    own = [here.removeprefix(PREFIX)] if isinstance(here, str) else []
    return own + [name for value in schema.values() for name in _references(value)]
