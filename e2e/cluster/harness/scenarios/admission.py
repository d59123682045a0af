"""What is wrong is refused when it is applied, in the words of the rule that it breaks: each rule of EgressPolicy, Source and Volume, and
each of inline volumes. A pod that will not be let in is warned of that. kubectl has columns and explains every field. Of two policies the
strictest holds, until it goes; one that passes the schema and cannot be read (a window of 30 minutes) denies its own namespace alone."""

import json
from collections.abc import Iterator
from itertools import chain

from ..command import Ended
from ..manifests import DRIVER, GROUP, claim, consumer, inline, pod, source
from ..model import Model
from ..outcome import until
from ..rules import AUTHOR, Rules, budget, policy
from ..scene import Scene
from ..store import DIRECT
from ..tables import COLUMN, rows
from ..world import World

NAME = "admission"
OTHER, STRANGER = f"{NAME}-other", f"{NAME}-stranger"
"""A neighbour with a policy of its own, and a namespace that the source does not name."""
PINNED = f"{NAME}-pinned"
"""A source that wants revisions, and a policy that wants digests."""
TYPO, BESIDE = f"{NAME}-typo", f"{NAME}-beside"
"""A policy that cannot be read, and the neighbour's."""
PATH = "small"
FROZEN = "a Volume cannot be changed; make another claim"
TOLD = 90
"""Seconds until a policy tells what it denied: a node tells that with its next demand, or within a minute or so."""
PATIENCE = 120
"""Seconds in which a refused pod has to start once it may: kubelet asks ever more seldom."""

DAILY = {"name": "daily", "bytes": "1Gi", "window": {"calendar": "Daily"}}
PRICE = {"amount": "0.09", "currency": "EUR"}
RATES = ("bytesPerSecondPerNode", "bytesPerSecondPerNamespace")
S3, GCS, AZURE, WEB = "s3://models/public", "gs://models", "az://account/models", "https://models.example.com/public"
CLOUDS = {
    "aws": (S3, {"roleArn": "arn:aws:iam::123456789012:role/models"}),
    "gcp": (GCS, {"audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster"}),
    "azure": (AZURE, {"tenantId": "00000000-0000-0000-0000-000000000000", "clientId": "11111111-1111-1111-1111-111111111111"}),
}
"""A URL of each cloud, and the least that says whom a service account is to be there."""
BAD_PROXIES = ("https://proxy.example.com:3128", "http://proxy.example.com", "http://ada@proxy.example.com:3128", "http://proxy.example.com:3128/")
COLUMNS = {
    "egresspolicies": "NAME MODE READY BUDGET USED LEFT WINDOW_END USED_MOST COST DENIED DENIED_WHY CHANGED_BY AGE",
    "sources": "NAME URL AUTH READY REASON SINCE AGE",
    "volumes": "NAME SOURCE PATH NAMESPACE CLAIM REVISION AGE",
    "cachequotas": "NAME PER_NODE VOLUMES CLUSTER CLUSTER_VOLUMES USED FULLEST CHANGED_BY AGE",
}
EXPLAINED = {
    "source": "Who may use the source. Any entry suffices; without entries nobody may.",
    "egresspolicy": "What may be loaded. Any entry suffices; without entries nothing may.",
    "volume": "Size that the claim asked for, in bytes, which is a limit; 0 if it asked for none.",
    "cachequota": "On each node; the node itself decides, at once.",
}
"""A sentence that `kubectl explain` has of each kind's specification."""

Bad = tuple[str, dict, str]
"""What is wrong with an object, the object, and what the API server says of it."""


def run(world: World) -> None:
    scene = world.scene(NAME, consumers=[consumer(NAME), consumer(OTHER)])
    for name in (OTHER, STRANGER):
        scene.add_namespace(name)
    pinned = source(PINNED, DIRECT, [consumer(NAME)])
    scene.add({**pinned, "spec": {**pinned["spec"], "revisionPolicy": "Required"}})
    model = scene.add_model(PATH, shards=1)
    _good_passes(world)
    bad = {"egresspolicies": _bad_policies(), "sources": _bad_sources(), "volumes": _bad_volumes()}
    for what, manifest, sentence in chain(*bad.values()):
        ended = _offer(world, manifest)
        world.check(f"{manifest['kind']} {what} is not admitted: {sentence}", ended.code != 0 and sentence in ended.err, ended)
    volume = _stays_as_it_is(world, scene)
    for plural in bad:
        definition = world.kube.get("", "customresourcedefinition", f"{plural}.tonnage.dev")
        shown = {FROZEN, *(sentence for _, _, sentence in bad[plural])}
        world.equal(f"no rule of {plural} is left to break", _messages(definition["spec"]["versions"]) - shown, set())
    _inline_volumes(world)
    _warned(world)
    scene.add(_object("CacheQuota", NAME, {"perNode": {"volumes": 1000}}, namespace=NAME))
    _columns(world, volume)
    _explains(world)
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    _strictest_holds(world, scene, rules, model)
    sentence = _unreadable_denies(world, scene, rules, model)
    _policies_have_columns(world, sentence)


def _object(kind: str, name: str, spec: dict, **where: str) -> dict:
    return {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name, **where}, "spec": spec}


def _good() -> list[dict]:
    """One of each kind with all that has a rule."""
    allow = [{"sources": [NAME], "hosts": ["*.example.com", "2001:db8::1"], "buckets": ["weights"], "prefixes": ["public"]}]
    budgets = [DAILY, budget("rolling", "1.5T"), {**DAILY, "name": "local", "window": {"calendar": "Weekly", "timeZone": "+02:00"}}]
    rate = dict(zip(RATES, ("500M", 1000)))
    whole = policy("good", NAME, allow=allow, budgets=budgets, rate=rate, pricePerGiB=PRICE)
    node = _source({"url": S3, "auth": {"mode": "Node", "node": {"endpoint": "http://192.0.2.1"}}})
    proxied = (_source({"url": WEB, "proxy": f"http://{it}:3128"}) for it in ("proxy.example.com", "[2001:db8::1]"))
    volume = _object("Volume", "good", {"requestName": "pvc-1", "attributes": {"source": NAME, "path": PATH}})
    return [whole, _source({"url": WEB}), *proxied, node, *(_in_cloud(it) for it in CLOUDS), volume]


def _source(spec: dict) -> dict:
    return _object("Source", "offered", spec)


def _signed(url: str = S3, **auth) -> dict:
    return _source({"url": url, "auth": auth})


def _in_cloud(cloud: str, **changed) -> dict:
    """A source of a cloud, with the identity changed."""
    url, identity = CLOUDS[cloud]
    return _signed(url, mode="WorkloadIdentity", workloadIdentity={cloud: {**identity, **changed}})


def _bad_policies() -> list[Bad]:
    def of(**spec) -> dict:
        return policy("offered", NAME, **spec)

    def with_budget(**changed) -> dict:
        return of(budgets=[{**DAILY, **changed}])

    either = "window must have either rolling, such as 24h, or calendar, such as Daily"
    zone = "window.timeZone says where the days of a calendar begin and belongs to no rolling window"
    whole = "bytes must be a whole number of bytes such as 500Gi, 1.5T or 1000000"
    hosts = "hosts must be names such as s3.example.com, *.example.com or addresses, without scheme and port"
    dots = "the name of an EgressPolicy must be at most 63 lower-case letters, digits and hyphens, without dots: budgets are named after it"
    amount = 'pricePerGiB.amount must be a decimal number in quotes, such as "0.09"'
    return [
        ("with a dot in its name", policy("team.daily", NAME), dots),
        ("with a budget of 50GB", with_budget(bytes="50GB"), whole),
        ("with a budget of less than nothing", with_budget(bytes=-1), whole),
        ("with two windows of a budget", with_budget(window={"rolling": "24h", "calendar": "Daily"}), either),
        ("with a budget of no window", with_budget(window={}), either),
        ("with a time zone of a rolling window", with_budget(window={"rolling": "24h", "timeZone": "+02:00"}), zone),
        ("with a length without unit", with_budget(window={"rolling": "24"}), "window.rolling must be a number and a unit, such as 90m, 24h or 7d"),
        ("with a city for a time zone", with_budget(window={"calendar": "Daily", "timeZone": "Berlin"}), "window.timeZone must be UTC or an offset such as +02:00"),
        ("with a capital letter in a budget's name", with_budget(name="Daily"), "a budget's name must be lower-case letters, digits and hyphens"),
        ("with two equal budgets", of(budgets=[DAILY, DAILY]), "budgets must have different names"),
        ("with a host with a port", of(allow=[{"hosts": ["s3.example.com:443"]}]), hosts),
        ("with a price in words", of(pricePerGiB={**PRICE, "amount": "nine cents"}), amount),
        ("with a currency in small letters", of(pricePerGiB={**PRICE, "currency": "eur"}), "pricePerGiB.currency must be three capital letters, such as EUR"),
        *((f"with a {it} of 0", of(rate={it: "0"}), f"rate.{it} must be a whole number of bytes above 0, such as 500M") for it in RATES),
        ("with an unquoted price", of(pricePerGiB={**PRICE, "amount": 0.09}), ".spec.pricePerGiB.amount: expected string"),
        ("without a selector", _object("EgressPolicy", "offered", {}), "spec.namespaces: Required value"),
        ("with a mode that nobody knows", of(mode="Strict"), 'spec.mode: Unsupported value: "Strict"'),
        ("with rules that may be a second old", of(maxStalenessSeconds=1), "spec.maxStalenessSeconds in body should be greater than or equal to 60"),
        ("with no connection", of(rate={"connectionsPerNode": 0}), "spec.rate.connectionsPerNode in body should be greater than or equal to 1"),
        ("with seven budgets", of(budgets=[{**DAILY, "name": f"b{it}"} for it in range(7)]), "must have at most 6 items"),
        ("with a word that nobody knows", of(allow=[{"source": [NAME]}]), 'unknown field "spec.allow[0].source"'),
    ]


def _bad_sources() -> list[Bad]:
    cloud = "auth.workloadIdentity must name the cloud of the url: aws for s3://, gcp for gs://, azure for az://"
    node = "auth.mode Node is for s3://, gs:// and az:// urls: requests to a web server are not signed"
    secret = "auth.secretName names the Secret of mode SharedSecret and belongs to no other mode"
    whom = "auth.workloadIdentity says whom a pod's service account is to be in the cloud: mode WorkloadIdentity needs it, and it belongs to no other mode"
    proof = "auth.grantPolicy, auth.grantTTLSeconds and auth.perObject belong to the modes PodSecret and WorkloadIdentity: in the others spec.consumers alone says who may read"
    url = "url must be s3://bucket[/base], gs://bucket[/base], az://account/container[/base] or https://host[/base], without user, query or fragment"
    proxy = "proxy must be http://host:port and nothing more, also where the store is https"
    session = "aws.sessionName must be 2 to 64 letters, digits and _+=,.@-"
    pool = "gcp.audience must be the full name of the pool's provider, which begins with //iam.googleapis.com/projects/"
    mail = "gcp.serviceAccount must be a mail address such as models@project.iam.gserviceaccount.com"
    role, both = CLOUDS["aws"][1], {it: CLOUDS[it][1] for it in ("aws", "gcp")}
    return [
        ("with an identity of another cloud", _signed(GCS, mode="WorkloadIdentity", workloadIdentity={"aws": role}), cloud),
        ("of a web server, with the node's role", _signed(WEB, mode="Node"), node),
        ("of mode SharedSecret without a Secret", _signed(mode="SharedSecret"), secret),
        ("with a Secret of no mode", _signed(secretName="keys"), secret),
        ("of mode WorkloadIdentity without an identity", _signed(mode="WorkloadIdentity"), whom),
        ("with an identity of no mode", _signed(workloadIdentity={"aws": role}), whom),
        ("with a node of no mode", _signed(node={}), "auth.node belongs to mode Node"),
        ("with a proof where keys are shared", _signed(mode="SharedSecret", secretName="keys", grantPolicy="AlwaysVerify"), proof),
        ("with a time for no proof", _signed(mode="PodSecret", grantPolicy="NeverVerify", grantTTLSeconds=60), "auth.grantTTLSeconds belongs to grantPolicy VerifyUntilTTL"),
        ("with two clouds", _signed(mode="WorkloadIdentity", workloadIdentity=both), "auth.workloadIdentity must have exactly one of aws, gcp and azure"),
        ("with a role's name", _in_cloud("aws", roleArn="models-reader"), "aws.roleArn must be the ARN of a role, such as arn:aws:iam::123456789012:role/models"),
        ("with a session of one letter", _in_cloud("aws", sessionName="m"), session),
        ("with a tenant's address", _in_cloud("azure", tenantId="example.com/tenant"), "azure.tenantId must be the id of the directory"),
        ("with a client's name", _in_cloud("azure", clientId="model reader"), "azure.clientId must be the client id of the application or the managed identity"),
        ("with a pool's own name", _in_cloud("gcp", audience="models"), pool),
        ("with a service account's own name", _in_cloud("gcp", serviceAccount="models"), mail),
        ("with something else for certificates", _source({"url": S3, "caBundle": "/etc/ssl/ca.pem"}), "caBundle must be PEM certificates"),
        *((f"with the proxy {it}", _source({"url": S3, "proxy": it}), proxy) for it in BAD_PROXIES),
        ("of a url of ftp", _source({"url": "ftp://models"}), url),
        ("with a user in its url", _source({"url": "https://ada@models.example.com"}), url),
        *((f"with {field} without a scheme", manifest, f"{field} must be https://host[:port] or http://host[:port]") for field, manifest in _bad_endpoints().items()),
        ("without a url", _source({}), "spec.url: Required value"),
        ("with a mode that nobody knows", _signed(mode="Public"), 'spec.auth.mode: Unsupported value: "Public"'),
        ("with a consumer that nobody knows", _source({"url": S3, "consumers": [{"namespaces": {"name": NAME}}]}), 'unknown field "spec.consumers[0].namespaces.name"'),
    ]


def _bad_endpoints() -> dict[str, dict]:
    """By the field as the rule names it."""
    host = "api.example.com"
    return {
        "endpoint": _source({"url": S3, "endpoint": host}),
        "node.endpoint": _signed(mode="Node", node={"endpoint": host}),
        "aws.stsEndpoint": _in_cloud("aws", stsEndpoint=host),
        "azure.authority": _in_cloud("azure", authority=host),
        "gcp.tokenEndpoint": _in_cloud("gcp", tokenEndpoint=host),
        "gcp.impersonationEndpoint": _in_cloud("gcp", impersonationEndpoint=host),
    }


def _bad_volumes() -> list[Bad]:
    attributes = {"source": NAME, "path": PATH}
    whole = {"requestName": "pvc-1", "attributes": attributes}
    table = (
        ("without a request", {"attributes": attributes}, "spec.requestName: Required value"),
        ("without attributes", {"requestName": "pvc-1"}, "spec.attributes: Required value"),
        ("of less than no byte", {**whole, "capacityBytes": -1}, "spec.capacityBytes in body should be greater than or equal to 0"),
        ("of a claim without a name", {**whole, "claim": {"namespace": NAME}}, "spec.claim.name: Required value"),
    )
    return [(what, _object("Volume", "offered", spec), sentence) for what, spec, sentence in table]


def _offer(world: World, manifest: dict) -> Ended:
    """Asks the API server to take an object, which keeps nothing of it."""
    return world.kube.attempt("create", "--dry-run=server", "-f", "-", text=json.dumps(manifest))


def _good_passes(world: World) -> None:
    """Where the kinds are seconds old, the API server asks to come again."""
    for manifest in _good():
        until(f"a good {manifest['kind']} is admitted", 20, lambda: _offer(world, manifest).code == 0, lambda: _offer(world, manifest))
        world.check(f"a good {manifest['kind']} is admitted", True)


def _stays_as_it_is(world: World, scene: Scene) -> dict:
    """The Volume of a claim, which nobody can change."""
    scene.add(claim(NAME, "shared", NAME, PATH))

    def made() -> dict | None:
        return next((it for it in world.kube.all("", "volumes.tonnage.dev") if it["spec"].get("claim", {}).get("namespace") == NAME), None)

    volume = until("the claim has its Volume", 60, made)
    name, changes = volume["metadata"]["name"], {"its path": {"attributes": {"path": "other"}}, "its size": {"capacityBytes": 1}}
    for what, spec in changes.items():
        change = ["--type=merge", "--patch", json.dumps({"spec": spec}), "--dry-run=server"]
        ended = world.kube.attempt("patch", "volumes.tonnage.dev", name, *change)
        world.check(f"{what} cannot be changed: {FROZEN}", ended.code != 0 and FROZEN in ended.err, ended)
    ended = world.kube.attempt("label", "volumes.tonnage.dev", name, "team=a", "--dry-run=server")
    world.equal("its labels can", ended.code, 0)
    return volume


def _messages(schema: object) -> set[str]:
    """The sentences of all rules of a schema."""
    if isinstance(schema, list):
        return {it for inner in schema for it in _messages(inner)}
    if not isinstance(schema, dict):
        return set()
    own = {it["message"] for it in schema.get("x-kubernetes-validations", [])}
    return own | {it for inner in schema.values() for it in _messages(inner)}


def _inline_volumes(world: World) -> None:
    known = "known are source, path, include, exclude, revision, digest, pageCache and retain"
    nameless = "volume model of csi.tonnage.dev names no source; set volumeAttributes.source to the name of a Source"
    writable = "volume model of csi.tonnage.dev can only be read; set csi.readOnly to true"
    attributes = {"source": NAME, "path": PATH}
    for what, volume, sentence in (
        ("without attributes", {"csi": {"driver": DRIVER, "readOnly": True}}, nameless),
        ("without a source", {"csi": {"driver": DRIVER, "readOnly": True, "volumeAttributes": {"path": PATH}}}, nameless),
        ("with an empty source", inline("", PATH), nameless),
        ("without readOnly", {"csi": {"driver": DRIVER, "volumeAttributes": attributes}}, writable),
        ("that is to be written", {"csi": {"driver": DRIVER, "readOnly": False, "volumeAttributes": attributes}}, writable),
        ("with a misspelt attribute", inline(NAME, PATH, revison="1"), f"volume model of csi.tonnage.dev has the unknown attribute revison; {known}"),
    ):
        ended = _offer(world, pod(NAME, "offered", volume))
        refused = ended.code != 0 and "ValidatingAdmissionPolicy 'inline-volumes.tonnage.dev'" in ended.err and sentence in ended.err
        world.check(f"a pod with an inline volume {what} is not admitted: {sentence}", refused, ended)


def _warned(world: World) -> None:
    ended = _offer(world, pod(NAME, "offered", inline(NAME, PATH)))
    world.check("a pod that may load is admitted without a warning of Tonnage's", ended.code == 0 and "tonnage.dev" not in ended.err, ended)
    nobody = f"volume model will not be mounted: no entry of spec.consumers of Source {NAME} names service account {STRANGER}/default; ask an administrator for one"
    _is_warned(world, "consumers.tonnage.dev", pod(STRANGER, "offered", inline(NAME, PATH)), nobody)
    unpinned = f"volume model will not be mounted: Source {PINNED} wants volumes to name what they load; set the attribute revision or digest"
    _is_warned(world, "consumers.tonnage.dev", pod(NAME, "offered", inline(PINNED, PATH)), unpinned)


def _is_warned(world: World, by: str, manifest: dict, sentence: str) -> None:
    """The API server reads what its policies go by in a stream of its own."""

    def warned() -> bool:
        ended = _offer(world, manifest)
        return ended.code == 0 and f"Warning: Validation failed for ValidatingAdmissionPolicy '{by}'" in ended.err and sentence in ended.err

    until(f"a pod is admitted with a warning of {by}: {sentence}", 20, warned, lambda: _offer(world, manifest))
    world.check(f"a pod is admitted with a warning of {by}: {sentence}", True)


def _columns(world: World, volume: dict) -> None:
    """Of a policy, later, when it has something to tell."""
    revision = volume["spec"]["attributes"]["revision"]
    record = {"SOURCE": NAME, "PATH": PATH, "NAMESPACE": NAME, "CLAIM": "shared", "REVISION": revision}
    author = world.kube.get(NAME, "cachequota", NAME)["metadata"]["annotations"][AUTHOR]
    _has_columns(world, "volumes", volume["metadata"]["name"], record)
    _has_columns(world, "cachequotas", NAME, {"VOLUMES": "1000", "CHANGED BY": author}, f"--namespace={NAME}")
    _has_columns(world, "sources", NAME, {"AUTH": "SharedSecret", "READY": "True"}, seconds=60)


def _has_columns(world: World, plural: str, name: str, wanted: dict[str, str], *where: str, seconds: float = 10) -> None:
    """Waits until cells have what they should: who writes a status takes its time."""

    def shown() -> str:
        return world.kube("get", f"{plural}.tonnage.dev", name, *where, "--output=wide")

    def as_wanted() -> str:
        printed = shown()
        return printed if wanted.items() <= rows(printed)[0].items() else ""

    printed = until(f"`kubectl get {plural} --output=wide` shows {wanted}", seconds, as_wanted, shown)
    print("".join(f"      {line}\n" for line in printed.splitlines()), end="")
    headings = [it.replace("_", " ") for it in COLUMNS[plural].split()]
    world.equal(f"`kubectl get {plural} --output=wide` has columns for people, with what belongs there", COLUMN.findall(printed.splitlines()[0]), headings)
    world.check("and a word for everything", "<invalid>" not in printed, printed)


def _explains(world: World) -> None:
    """kubectl explains by this document."""
    document = json.loads(world.kube("get", "--raw", f"/openapi/v3/apis/{GROUP}"))
    schemas = {name.rpartition(".")[2].lower(): it for name, it in document["components"]["schemas"].items() if name.startswith("dev.tonnage.")}
    for kind, sentence in EXPLAINED.items():
        properties = schemas[kind]["properties"]
        fields = dict(_fields({"properties": {key: properties[key] for key in ("spec", "status") if key in properties}}))
        silent = [path for path, schema in fields.items() if not schema.get("description", "").strip()]
        world.check(f"each of {len(fields)} fields of {kind} is described", len(fields) > 4 and not silent, silent)
        printed = world.kube("explain", f"{kind}.spec")
        world.check(f"`kubectl explain {kind}.spec` says: {sentence}", sentence in " ".join(printed.split()), printed)
        names = {path.rpartition(".")[2] for path in fields if path.startswith(".spec.")}
        told = {line.split()[0] for line in world.kube("explain", f"{kind}.spec", "--recursive").splitlines() if line.strip()}
        world.equal(f"and with --recursive it names all {len(names)} fields", names - told, set())


def _fields(schema: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """All fields below, by their paths."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from _fields(field, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from _fields(inner, f"{path}[]")


def _strictest_holds(world: World, scene: Scene, rules: Rules, model: Model) -> None:
    """Allow-lists unite, and a digest that one policy requires is required."""
    everything, elsewhere = [{"sources": [NAME]}], [{"sources": [NAME], "prefixes": [f"{NAME}/elsewhere"]}]
    mine = policy(NAME, NAME, allow=everything, budgets=[budget("daily", "1Gi")])
    rules.apply(mine, policy(PINNED, NAME, allow=elsewhere), policy(BESIDE, OTHER, allow=everything))
    scene.start(scene.inline_pod("united", PATH))
    world.equal("what one policy allows, another that does not name it takes away from nobody", scene.sums("united"), model.sums)
    rules.change(PINNED, requireDigest=True)
    warning = f"volume model will not be mounted: EgressPolicy {PINNED} requires pods of namespace {NAME} to name the digest of what they load; set the attribute digest"
    _is_warned(world, "digests.tonnage.dev", scene.inline_pod("offered", PATH), warning)
    ended = _offer(world, scene.inline_pod("offered", PATH, digest=f"sha256:{'0' * 64}"))
    world.check("a pod that names a digest is not warned", ended.code == 0 and "tonnage.dev" not in ended.err, ended)
    wanted = f"EgressPolicy {PINNED} requires pods of namespace {NAME} to name the digest of what they load: set the volume's attribute digest"
    _denied(world, scene, "strict", wanted)
    scene.start(pod(OTHER, "neighbour", inline(NAME, PATH)))
    world.equal("a neighbour with its own policy mounts meanwhile", scene.sums("neighbour", namespace=OTHER), model.sums)
    rules.delete(PINNED)
    scene.wait_until_running("strict", PATIENCE)
    world.equal("the denied pod runs by itself once the policy that denied it is deleted", scene.sums("strict"), model.sums)


def _denied(world: World, scene: Scene, name: str, sentence: str) -> None:
    scene.add(scene.inline_pod(name, PATH))
    refusal = scene.refusal(name, 20)
    world.equal(f"pod {name} is told: {sentence}", (refusal.code, refusal.sentence), ("PermissionDenied", sentence))
    world.equal("and does not start", world.kube.get(NAME, "pod", name)["status"]["phase"], "Pending")


def _unreadable_denies(world: World, scene: Scene, rules: Rules, model: Model) -> str:
    """Returns what a pod was told."""
    short = {"name": "daily", "bytes": "1Gi", "window": {"rolling": "30m"}}
    condition = rules.apply_malformed(policy(TYPO, NAME, allow=[{"sources": [NAME]}], budgets=[short]))
    why = 'budgets[0].window.rolling: "30m" is not a length from 1h to 366d in whole minutes'
    wanted = ("Malformed", f"it denies everything in the namespaces that it selects until it is mended: {why}")
    world.equal(f"a policy that cannot be read says so: {wanted[1]}", (condition["reason"], condition["message"]), wanted)
    sentence = f"EgressPolicy {TYPO} selects namespace {NAME} and denies everything there until an administrator mends it: {why}"
    _denied(world, scene, "unreadable", sentence)
    world.equal("a pod that runs already is not disturbed", scene.sums("united"), model.sums)
    scene.start(pod(OTHER, "neighbour-2", inline(NAME, PATH)))
    world.equal("and a neighbour with its own policy mounts", scene.sums("neighbour-2", namespace=OTHER), model.sums)
    rules.change(TYPO, budgets=[budget("daily", "1Gi")])
    scene.wait_until_running("unreadable", PATIENCE)
    world.equal("the denied pod runs by itself once the policy is mended", scene.sums("unreadable"), model.sums)
    return sentence


def _policies_have_columns(world: World, sentence: str) -> None:
    _has_columns(world, "egresspolicies", NAME, {"MODE": "Enforce", "READY": "True", "BUDGET": f"daily {NAME}", "USED MOST": NAME}, seconds=TOLD)
    _has_columns(world, "egresspolicies", TYPO, {"MODE": "Enforce", "READY": "True", "DENIED WHY": sentence}, seconds=TOLD)
