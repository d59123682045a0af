"""The chart is without fault by helm's linter, by kubeconform's strict comparison with the schemas of the running server, and by the
server itself; and so is every example."""

import json
import re

from .. import schemas
from ..cluster import Cluster
from ..install import RELEASE
from ..manifests import SYSTEM
from ..outcome import Failure
from ..paths import INSIDE, REPOSITORY, STATE
from ..world import World

NAME = "lint"
VERSION = "1.37.2"
EXAMPLES = REPOSITORY / "deploy/examples"
ALL = {
    "priorityClass": {"create": True},
    "dashboard": {"enabled": True},
    "test": {"source": "models", "path": "tiny"},
    "networkPolicy": {"egress": [{}]},
}
"""Values that turn on what is off by default and needs no other project's kinds."""


def run(world: World) -> None:
    chart = world.driver.chart()
    world.driver.helm("lint", chart, "--strict", f"--kube-version={VERSION}", "--values=-")
    world.check("helm lint --strict finds nothing", True)
    schemas.write(json.loads(world.kube("get", "--raw", "/openapi/v2")), STATE / "schemas")
    for words, extra in (("its defaults", {}), ("all that is optional", ALL)):
        rendered = _rendered(world.cluster, chart, extra)
        _conforms(world, f"the chart with {words}", rendered)
        _server_takes(world, f"the chart with {words}", rendered)
    for example in sorted(EXAMPLES.glob("*.yaml")):
        _example(world, example.name, example.read_text())


def _rendered(cluster: Cluster, chart: object, values: dict) -> str:
    where = [f"--namespace={SYSTEM}", f"--kube-version={VERSION}", "--values=-"]
    return cluster.inside("helm", "template", RELEASE, chart, *where, text=json.dumps(values))


def _conforms(world: World, what: str, yaml: str, *more: str) -> None:
    location = f"{INSIDE}/schemas/{schemas.TEMPLATE}"
    ended = world.cluster.attempt("kubeconform", "-strict", "-summary", "-schema-location", location, *more, "-", text=yaml)
    world.check(f"{what} conforms to the server's schemas: {ended.out.strip()}", ended.code == 0, ended.err)


def _server_takes(world: World, what: str, yaml: str) -> None:
    flags = ["--server-side", "--force-conflicts", "--dry-run=server", "--field-manager=lint"]
    ended = world.kube.attempt("apply", *flags, "-f", "-", text=yaml)
    world.check(f"the server would take {what}", ended.code == 0, ended.err)


def _example(world: World, name: str, yaml: str) -> None:
    """Documents of other projects' kinds cannot be judged here, and that is said."""
    served = set(world.kube("api-versions").split())
    documents = [it for it in re.split(r"(?m)^---\s*$", yaml) if re.search(r"(?m)^kind:", it)]
    if not documents:
        raise Failure(f"deploy/examples/{name} holds no object")
    known = [it for it in documents if _field(it, "apiVersion") in served]
    for document in documents:
        if document not in known:
            print(f"  not judged  {name}: this server has no kind {_field(document, 'kind')} of {_field(document, 'apiVersion')}")
    if known:
        together = "---".join(f"\n{it}" for it in known)
        _conforms(world, name, together)
        _server_takes(world, name, together)


def _field(document: str, name: str) -> str:
    found = re.search(rf"(?m)^{name}:\s*(\S+)", document)
    return found[1] if found else ""
