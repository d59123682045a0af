"""Each service account and each role for people may do what is listed here and nothing else, as the chart says it and as the server decides
it; only the node pod asks for privileges, and the others run under the restricted Pod Security level."""

import json
import re

from ..install import RELEASE
from ..manifests import RESTRICTED, SYSTEM, service_account
from ..outcome import Failure, until
from ..scene import Scene
from ..world import World

NAME = "rbac"
STRICT = f"{NAME}-restricted"
GRANTED = {
    "tonnage-node": {
        "cluster": {
            "tokenreviews.authentication.k8s.io": "create",
            "sources.tonnage.dev": "get list watch",
            "namespaces": "get",
            "events.events.k8s.io": "create",
            "nodecaches.tonnage.dev": "create patch",
            "nodecaches.tonnage.dev/status": "patch",
            "egresspolicies.tonnage.dev": "get list watch",
            "cachequotas.tonnage.dev": "get list watch",
            "egressleases.tonnage.dev": "create get list update watch",
            "nodes": "get",
        },
        "own": {"secrets": "get"},
    },
    "tonnage-controller": {
        "cluster": {
            "persistentvolumeclaims": "get list update watch",
            "persistentvolumes": "create delete list patch watch",
            "storageclasses.storage.k8s.io": "list watch",
            "volumeattributesclasses.storage.k8s.io": "get",
            "events": "create patch",
            "events.events.k8s.io": "create patch",
            "namespaces": "get list watch",
            "sources.tonnage.dev": "get list watch",
            "sources.tonnage.dev/status": "get patch update",
            "volumes.tonnage.dev": "create delete get list watch",
            "egresspolicies.tonnage.dev": "get list watch",
            "egresspolicies.tonnage.dev/status": "patch",
            "egressleases.tonnage.dev": "get list watch",
            "egressleases.tonnage.dev/status": "update",
            "cachequotas.tonnage.dev": "get list watch",
            "cachequotas.tonnage.dev/status": "patch",
            "nodecaches.tonnage.dev": "get list watch",
            "egressbudgets.tonnage.dev": "create delete get list watch",
            "egressbudgets.tonnage.dev/status": "update",
        },
        "own": {"secrets": "get", "leases.coordination.k8s.io": "create get patch update"},
    },
    "tonnage-uninstall-check": {
        "cluster": {"pods": "list", "persistentvolumes": "list"},
        "own": {},
    },
}
"""Verbs by resource, in the whole cluster and in the release's own namespace besides."""
PEOPLE = {
    "tonnage-view": {
        "cachequotas.tonnage.dev": "get list watch",
        "egresspolicies.tonnage.dev": "get list watch",
        "egressbudgets.tonnage.dev": "get list watch",
        "egressleases.tonnage.dev": "get list watch",
        "nodecaches.tonnage.dev": "get list watch",
        "sources.tonnage.dev": "get list watch",
    },
    "tonnage-governor": {
        "egresspolicies.tonnage.dev": "create delete get list patch update watch",
        "cachequotas.tonnage.dev": "create delete get list patch update watch",
        "egressbudgets.tonnage.dev": "delete get list watch",
        "egressleases.tonnage.dev": "get list watch",
        "sources.tonnage.dev": "get list watch",
        "namespaces": "get list",
        "daemonsets.apps": "list",
    },
}
"""Verbs by resource of the roles that the chart binds to nobody."""
EXPLAIN = (("get", "sources.tonnage.dev"), ("get", "namespaces"), ("list", "egresspolicies.tonnage.dev"), ("list", "egressbudgets.tonnage.dev"))
"""What `tonnage policy explain` asks the server for, as whoever runs it."""
DEFAULT = ("list", "daemonsets.apps")
"""And to learn what holds where no policy decides: without it the answer says that this is not known."""
LASTING = ("tonnage-node", "tonnage-controller")
"""Those that there are between an installation and an uninstall."""
NEVER = (
    ("list", "secrets"),
    ("watch", "secrets"),
    ("update", "secrets"),
    ("create", "serviceaccounts", "token"),
    ("impersonate", "users"),
    ("patch", "nodes"),
    ("patch", "nodes", "status"),
    ("create", "pods"),
    ("update", "pods"),
    ("create", "pods", "exec"),
    ("update", "sources.tonnage.dev"),
    ("create", "sources.tonnage.dev"),
    ("update", "egresspolicies.tonnage.dev"),
    ("create", "egresspolicies.tonnage.dev"),
    ("update", "cachequotas.tonnage.dev"),
    ("delete", "egressleases.tonnage.dev"),
    ("bind", "clusterroles.rbac.authorization.k8s.io"),
    ("escalate", "clusterroles.rbac.authorization.k8s.io"),
)
NODE_CONTAINER = {"privileged": True, "readOnlyRootFilesystem": True, "runAsUser": 0, "runAsGroup": 0}
"""Privileged is what the API asks of whoever makes mounts that the node sees."""
ALLOWED = re.compile(r"^(\S+)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]$")
"""A line of `kubectl auth can-i --list`: resource, paths, names, verbs."""
Rules = dict[str, set[str]]


def run(world: World) -> None:
    scene = world.scene(NAME)
    scene.add_namespace(STRICT, RESTRICTED)
    objects = _rendered(world)
    accounts = {it["metadata"]["name"] for it in objects if it["kind"] == "ServiceAccount"}
    world.equal("the chart's service accounts are the listed ones", accounts, set(GRANTED))
    for account in sorted(accounts):
        for scope in ("cluster", "own"):
            wanted = {resource: set(verbs.split()) for resource, verbs in GRANTED[account][scope].items()}
            world.equal(f"{account}: the chart grants exactly the listed verbs, {scope}", _granted(objects, account, scope), wanted)
    for role, listed in PEOPLE.items():
        wanted = {resource: set(verbs.split()) for resource, verbs in listed.items()}
        world.equal(f"{role}: the chart's role has exactly the listed verbs", _has(objects, role), wanted)
    for account in LASTING:
        _server_agrees(world, account)
    _people(world)
    _explainers(world, scene)
    _node_pod(world, objects)
    _others_are_restricted(world, scene, objects)


def _rendered(world: World) -> list[dict]:
    """The chart's objects, its hooks included; kubectl turns YAML into JSON, one document after the other."""
    yaml = world.driver.helm("template", RELEASE, world.driver.chart(), f"--namespace={SYSTEM}", "--values=-")
    text = world.kube("create", "--dry-run=client", "--validate=false", "--output=json", "-f", "-", text=yaml).strip()
    objects = []
    while text:
        found, end = json.JSONDecoder().raw_decode(text)
        objects += found["items"] if found["kind"] == "List" else [found]
        text = text[end:].lstrip()
    return objects


def _granted(objects: list[dict], account: str, scope: str) -> Rules:
    """What bindings of the scope's kind grant to an account."""
    binding = "ClusterRoleBinding" if scope == "cluster" else "RoleBinding"
    granted: Rules = {}
    for it in objects:
        if it["kind"] == binding and any(_is(subject, account) for subject in it["subjects"]):
            role = next(role for role in objects if (role["kind"], role["metadata"]["name"]) == (it["roleRef"]["kind"], it["roleRef"]["name"]))
            for rule in role["rules"]:
                _add(granted, rule)
    return granted


def _has(objects: list[dict], role: str) -> Rules:
    """What a role for people says."""
    has: Rules = {}
    for rule in next(it for it in objects if (it["kind"], it["metadata"]["name"]) == ("ClusterRole", role))["rules"]:
        _add(has, rule)
    return has


def _is(subject: dict, account: str) -> bool:
    """Whether a binding is an account's. Other subjects than accounts of our own would be given what nobody has listed."""
    if subject["kind"] != "ServiceAccount" or subject["namespace"] != SYSTEM:
        raise Failure(f"the chart binds a role to {subject}")
    return subject["name"] == account


def _add(granted: Rules, rule: dict) -> None:
    if rule.get("nonResourceURLs") or rule.get("resourceNames"):
        raise Failure(f"the chart has a rule that the table cannot say: {rule}")
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            granted.setdefault(_called(group, resource), set()).update(rule["verbs"])


def _called(group: str, resource: str) -> str:
    """As kubectl writes it."""
    name, slash, part = resource.partition("/")
    return f"{name}.{group}{slash}{part}" if group else resource


def _server_agrees(world: World, account: str) -> None:
    """What the server lets an account do, apart from what it lets every account do."""
    user = f"--as=system:serviceaccount:{SYSTEM}:{account}"
    anybody = f"--as=system:serviceaccount:{NAME}:default"
    for where, scopes in ((SYSTEM, ("cluster", "own")), (NAME, ("cluster",))):
        wanted: Rules = {}
        for scope in scopes:
            for resource, verbs in GRANTED[account][scope].items():
                wanted.setdefault(resource, set()).update(verbs.split())
        may, all_may = _allowed(world, user, where), _allowed(world, anybody, NAME)
        own = {resource: verbs - all_may.get(resource, set()) for resource, verbs in may.items()}
        world.equal(f"{account}: the server allows exactly that in namespace {where}", {key: verbs for key, verbs in own.items() if verbs}, wanted)
    for verb, resource, *part in NEVER:
        what = [verb, resource, *(f"--subresource={it}" for it in part)]
        ended = world.kube.attempt("auth", "can-i", *what, f"--namespace={SYSTEM}", user)
        world.check(f"{account}: may not {verb} {'/'.join([resource, *part])}", ended.code != 0 and ended.out.startswith("no"), ended)


def _allowed(world: World, user: str, namespace: str) -> Rules:
    lines = world.kube("auth", "can-i", "--list", f"--namespace={namespace}", "--no-headers", user).splitlines()
    allowed: Rules = {}
    for match in filter(None, map(ALLOWED.match, lines)):
        if match[3]:
            raise Failure(f"a rule for names that the table cannot say: {match[0]}")
        allowed.setdefault(match[1], set()).update(match[4].split())
    return allowed


def _people(world: World) -> None:
    """The server joins the chart's role into its own; of who is meant by `--as` nothing else is known."""
    for role in ("view", "edit", "admin"):
        user = f"somebody-who-may-{role}"
        world.kube("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", f"--namespace={NAME}")
        until(f"who may {role} a namespace sees its quotas", 15, lambda: _may(world, user, "list", "cachequotas.tonnage.dev"))
        changes = [verb for verb in ("create", "update", "patch", "delete") if _may(world, user, verb, "cachequotas.tonnage.dev")]
        world.equal(f"who may {role} a namespace sees its quotas and may not change them", changes, [])
        ended = world.kube.attempt("get", "egresspolicies.tonnage.dev", f"--as={user}")
        world.check("nor see the rules, which are the cluster's", ended.code != 0 and "is forbidden" in ended.err, ended)


def _explainers(world: World, scene: Scene) -> None:
    """Of the whole cluster, whoever governs it and whoever may view it; `view` has the chart's role in it."""
    for role, asked in (("tonnage-governor", (*EXPLAIN, DEFAULT)), ("view", EXPLAIN)):
        user = f"somebody-with-{role}"
        scene.add(_bound(f"{NAME}-{role}", role, user))
        until(f"who has {role} may list policies", 15, lambda: _may(world, user, "list", "egresspolicies.tonnage.dev"))
        missing = [what for what in asked if not _may(world, user, *what)]
        world.equal(f"who has {role} may ask for all that `tonnage policy explain` asks for", missing, [])
        world.check("and may not change a source", not _may(world, user, "update", "sources.tonnage.dev"))


def _may(world: World, user: str, verb: str, resource: str) -> bool:
    return world.kube.attempt("auth", "can-i", verb, resource, f"--namespace={NAME}", f"--as={user}").code == 0


def _bound(name: str, role: str, user: str) -> dict:
    """Gives a role of the whole cluster to a person."""
    group = "rbac.authorization.k8s.io"
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": role}
    subjects = [{"apiGroup": group, "kind": "User", "name": user}]
    return {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": reference, "subjects": subjects}


def _node_pod(world: World, objects: list[dict]) -> None:
    for it in (it for it in objects if it["kind"] == "DaemonSet"):
        spec, name = it["spec"]["template"]["spec"], it["metadata"]["name"]
        shared = {key: spec.get(key, False) for key in ("hostPID", "hostIPC", "hostNetwork")}
        world.equal(f"{name}: shares no namespace of the node", shared, dict.fromkeys(shared, False))
        contexts = [container.get("securityContext") for container in spec["containers"] + spec.get("initContainers", [])]
        world.equal(f"{name}: its one container is privileged and cannot write its own files", contexts, [NODE_CONTAINER])
        paths = [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume]
        world.equal(f"{name}: sees kubelet's directory and the cache of the node, and nothing else", paths, ["/var/lib/kubelet", "/var/lib/tonnage"])


def _others_are_restricted(world: World, scene: Scene, objects: list[dict]) -> None:
    """A namespace of the restricted level takes the pods of controller and hook; that it refuses the node's shows that it looks."""
    scene.add(*(service_account(STRICT, account) for account in GRANTED))
    templates = {it["metadata"]["name"]: it["spec"]["template"]["spec"] for it in objects if it["kind"] in ("DaemonSet", "Deployment", "Job")}
    for name, spec in templates.items():
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": STRICT, "name": name}, "spec": spec}
        ended = world.kube.attempt("create", "--dry-run=server", "-f", "-", text=json.dumps(manifest))
        if name.startswith("tonnage-node-"):
            world.check(f"{name}: a namespace of the restricted level refuses it", "violates PodSecurity" in ended.err, ended)
        else:
            world.check(f"{name}: a namespace of the restricted level takes it", ended.code == 0, ended)
