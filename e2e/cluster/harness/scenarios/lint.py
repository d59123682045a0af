"""The chart is without fault by helm's linter, by kubeconform's strict comparison with the schemas of the running server, and by the
server itself; and so is every example. Values that no scenario installs make what they should. Prometheus takes its rules, which pass
their tests, and what its dashboards ask."""

import json
import re

from .. import chart_values, monitoring, schemas
from ..cluster import Cluster
from ..command import attempt
from ..install import CLUSTER_CIDRS, RELEASE
from ..manifests import SYSTEM
from ..outcome import Failure
from ..paths import BIN, INSIDE, REPOSITORY, STATE
from ..world import World

NAME = "lint"
VERSION = "1.37.2"
ADMISSION = "admissionregistration.k8s.io"
EXAMPLES = REPOSITORY / "deploy/examples"
ALL = {
    "clusterCIDRs": list(CLUSTER_CIDRS),
    "priorityClass": {"create": True},
    "dashboard": {"enabled": True},
    "test": {"source": "models", "path": "tiny"},
    "networkPolicy": {"egress": [{}]},
}
"""Values that turn on what is off by default and needs no other project's kinds."""
FOR_THE_OPERATOR = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
"""Values that make the Prometheus operator's kinds, which this server does not have."""


def run(world: World) -> None:
    chart = world.driver.chart()
    world.driver.helm("lint", chart, "--strict", f"--kube-version={VERSION}", "--values=-")
    world.check("helm lint --strict finds nothing", True)
    schemas.write(json.loads(world.kube("get", "--raw", "/openapi/v2")), STATE / "schemas")
    schemas.add_vendored(STATE / "schemas")
    for words, extra in (("its defaults", {}), ("all that is optional", ALL)):
        rendered = _rendered(world.cluster, chart, extra)
        _conforms(world, f"the chart with {words}", rendered)
        _server_takes(world, f"the chart with {words}", rendered)
    _for_the_operator(world, chart)
    _chosen(world, chart)
    _authors(world, chart)
    for example in sorted(EXAMPLES.glob("*.yaml")):
        _example(world, example.name, example.read_text())
    _monitoring(world)


def _rendered(cluster: Cluster, chart: object, values: dict, version: str = VERSION, *flags: str) -> str:
    where = [f"--namespace={SYSTEM}", f"--kube-version={version}", "--values=-", *flags]
    return cluster.inside("helm", "template", RELEASE, chart, *where, text=json.dumps(values))


def _for_the_operator(world: World, chart: object) -> None:
    rendered = _rendered(world.cluster, chart, FOR_THE_OPERATOR)
    kinds = sorted(re.findall(r"(?m)^apiVersion: monitoring.coreos.com/v1\nkind: (\w+)$", rendered))
    world.equal("the chart makes what the Prometheus operator reads", kinds, ["PodMonitor", "PrometheusRule"])
    _conforms(world, "the chart with that", rendered)
    print("  not judged  PodMonitor and PrometheusRule by this server, which has no such kinds")


def _chosen(world: World, chart: object) -> None:
    """Values that no scenario installs, all at once."""
    rendered = _rendered(world.cluster, chart, chart_values.CHOSEN)
    _conforms(world, "the chart with two node groups and paths of its own", rendered)
    _server_takes(world, "the chart with two node groups and paths of its own", rendered)
    found = chart_values.objects(rendered)
    sets = sorted(name for kind, name in found if kind == "DaemonSet")
    world.equal("each node group is a DaemonSet", sets, ["tonnage-node-nvme", "tonnage-node-sata"])
    for (kind, name), wanted in chart_values.WANTED.items():
        lacks = chart_values.missing(found[kind, name], wanted)
        world.equal(f"{kind} {name} follows {', '.join(wanted)}", lacks, [])
    for key, words in chart_values.ABSENT.items():
        world.equal(f"and {key[1]} has nothing of another group's", [it for it in words if it in found[key]], [])
    elsewhere = {it for it in chart_values.images(rendered) if not it.startswith(f"{chart_values.MIRROR}/")}
    world.equal("every image comes from the mirror", elsewhere, set())


def _authors(world: World, chart: object) -> None:
    """An older server lacks the kind, and would refuse a release that has it."""
    kind = "MutatingAdmissionPolicy"
    for version, flags, wanted in ((VERSION, (), "v1"), ("1.35.0", (), ""), (VERSION, ("v1/Pod",), ""), ("1.35.0", ("v1/Pod", f"{ADMISSION}/v1beta1/{kind}"), "v1beta1")):
        rendered = _rendered(world.cluster, chart, {}, version, *(f"--api-versions={it}" for it in flags))
        found = re.findall(rf"(?m)^apiVersion: {ADMISSION}/(\w+)\nkind: {kind}$", rendered)
        world.equal(f"for Kubernetes {version} with {', '.join(flags) or 'all that it should have'} {kind} is {wanted or 'left out'}", found, [wanted] if wanted else [])


def _monitoring(world: World) -> None:
    """promtool runs on the machine: it needs nothing of the cluster."""
    asked = [it for dashboard in monitoring.DASHBOARDS for it in monitoring.expressions(dashboard)]
    together = STATE / "dashboards.yaml"
    together.write_text(monitoring.as_rules(asked))
    ended = attempt([BIN / "promtool", "check", "rules", together, *monitoring.RULES])
    world.check(f"Prometheus takes the rules and the {len(asked)} expressions of {len(monitoring.DASHBOARDS)} dashboards", ended.code == 0, ended.out + ended.err)
    world.equal("each file of rules has tests", [it.name for it in monitoring.TESTS], [it.name for it in monitoring.RULES])
    ended = attempt([BIN / "promtool", "test", "rules", *monitoring.TESTS])
    world.check("the rules record and alert as their tests say", ended.code == 0, ended.out + ended.err)
    words = "\n".join([*asked, *(it.read_text() for it in monitoring.RULES)])
    world.equal("the operator's manual describes every metric that they ask for", monitoring.undescribed(words), set())


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
