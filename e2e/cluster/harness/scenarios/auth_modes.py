"""Sources without an administrator's keys. A pod with keys of its own shares what others with the same keys have loaded, and with wrong ones
gets no byte of it; a right that the store takes away is noticed at once, after the proof's time, or never, as the source says; a public
bucket is read unsigned, and the node's role is asked for keys at the instance's metadata service, a session first."""

import shutil
import time
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree

from .. import metadata, model
from ..accounts import COUNTED as ACCOUNTS_COUNTED
from ..accounts import Accounts
from ..manifests import claimed, consumer, inline, keys, pod, service_account, source, static_volume, with_secret
from ..model import Model
from ..outcome import until
from ..paths import INSIDE, STATE
from ..scene import Scene
from ..seaweed import AUDIENCE, COUNTED, DIRECT, Seaweed, discovery, role_arn
from ..store import ADDRESS
from ..world import World

NAME = "auth-modes"
PRIVATE, PUBLIC, OF_NODE = "private", "public", "of-node"
"""Paths, each below the source that may read it."""
READER, STRANGER = "reader", "stranger"
"""Accounts of the store, which the bucket's policy names and does not name, and Secrets with their keys."""
WRONG = "wrong"
"""A Secret with the reader's id and another secret."""
UNTIL_TTL, ALWAYS, NEVER = "until-ttl", "always", "never"
"""Sources that are read with the pods' own keys, by their policy, and claims below them."""
TTL = 45
"""Seconds that a proof of the first of them holds: enough for another pod to start in."""
ROLE = "node-role"
"""The instance's role, and the service account that may assume it here, where there is no instance."""
INSTANCE = "i-0123456789abcdef0"
PORT = 7095
"""Of the metadata service."""
POST = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], sys.stdin.buffer.read(), timeout=10).read().decode())"


def run(world: World) -> None:
    accounts = _accounts(world)
    scene = world.scene(NAME)
    scene.add(keys(NAME, READER, READER, _secret(READER)), keys(NAME, STRANGER, STRANGER, _secret(STRANGER)), keys(NAME, WRONG, READER, "another-secret"))
    made = {path: model.generate(scene.place(path), f"{world.seed}/{NAME}/{path}") for path in (PRIVATE, PUBLIC, OF_NODE)}
    for path in (PRIVATE, PUBLIC):
        accounts.put(made[path].directory, f"{NAME}/{path}")
    accounts.allow(READER)
    for name, auth in _policies().items():
        scene.add(source(_name(name), ACCOUNTS_COUNTED, [consumer(NAME)], auth, NAME))
        scene.add(*static_volume(NAME, name, {"source": _name(name), "path": PRIVATE}, READER))
    # Early, so that the node knows it when its pod comes.
    scene.add(source(_name(PUBLIC), ACCOUNTS_COUNTED, [consumer(NAME)], {"mode": "Anonymous"}, NAME))
    _own_keys(world, scene, accounts, made[PRIVATE])
    _grants(world, scene, accounts, made[PRIVATE])
    _anonymous(world, scene, accounts, made[PUBLIC])
    _node(world, scene, made[OF_NODE])


def _accounts(world: World) -> Accounts:
    accounts = Accounts(world.cluster)
    world.afterwards(accounts.stop)
    accounts.start()
    for name in (READER, STRANGER):
        accounts.add_account(name, _secret(name))
    return accounts


def _secret(account: str) -> str:
    return f"{account}-secret"


def _policies() -> dict[str, dict]:
    """How requests are signed, by source. The first policy is the default one."""
    return {
        UNTIL_TTL: {"mode": "PodSecret", "grantTTLSeconds": TTL},
        ALWAYS: {"mode": "PodSecret", "grantPolicy": "AlwaysVerify"},
        NEVER: {"mode": "PodSecret", "grantPolicy": "NeverVerify"},
    }


def _name(source_name: str) -> str:
    return f"{NAME}-{source_name}"


def _claiming(policy: str, number: int) -> dict:
    """A pod of the claim below a source. From the second on the claim is bound to a revision, which is served without a listing."""
    return pod(NAME, f"{policy}-{number}", claimed(policy))


def _bringing(name: str, secret: str) -> dict:
    """A pod that says itself whose keys it brings."""
    return pod(NAME, name, with_secret(inline(_name(UNTIL_TTL), PRIVATE), secret))


def _own_keys(world: World, scene: Scene, accounts: Accounts, made: Model) -> None:
    mark = accounts.mark()
    scene.start(_bringing("own-1", READER))
    traffic = accounts.since(mark)
    world.equal("PodSecret: a pod whose keys may read the bucket reads the model", scene.sums("own-1"), made.sums)
    world.check("PodSecret: it was downloaded once", traffic.is_one_of(made.size), traffic)
    mark = accounts.mark()
    scene.start(_bringing("own-2", READER))
    world.equal("PodSecret: another pod with the same keys reads the model", scene.sums("own-2"), made.sums)
    world.equal("PodSecret: for which no byte of content was fetched", accounts.since(mark).bytes_by_key, {})
    for secret, code, whose in ((STRANGER, "PermissionDenied", "of somebody who may not read it"), (WRONG, "Unauthenticated", "that are wrong")):
        mark = accounts.mark()
        scene.add(_bringing(secret, secret))
        _refused(world, scene, secret, code, f"PodSecret: the model is cached, and a pod brings keys {whose}")
        world.equal("for which no object was asked for", accounts.since(mark).objects, [])
        scene.remove(secret)


def _refused(world: World, scene: Scene, name: str, code: str, what: str) -> None:
    """Checks that a pod does not start, and is told why in a sentence about its keys."""
    refusal = scene.refusal(name, 30)
    world.equal(f"{what}: it is refused", refusal.code, code)
    world.check("in one sentence that names the Secret's place", refusal.is_one_sentence and "nodePublishSecretRef" in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("and it does not start", world.kube.get(NAME, "pod", name)["status"]["phase"], "Pending")


def _grants(world: World, scene: Scene, accounts: Accounts, made: Model) -> None:
    scene.start(*(_claiming(policy, 1) for policy in (UNTIL_TTL, ALWAYS, NEVER)))
    scene.start(_claiming(ALWAYS, 2), _claiming(NEVER, 2))
    before = time.monotonic()
    scene.start(_claiming(UNTIL_TTL, 2))
    proved = time.monotonic()
    accounts.allow()
    mark = accounts.mark()
    scene.start(_claiming(UNTIL_TTL, 3), seconds=TTL)
    took = time.monotonic() - before
    world.check(f"VerifyUntilTTL: a pod starts within {took:.0f} s of a proof that holds {TTL} s, though its keys have lost the right to read", took < TTL)
    world.equal("VerifyUntilTTL: and reads the model", scene.sums(f"{UNTIL_TTL}-3"), made.sums)
    scene.start(_claiming(NEVER, 3))
    world.equal("NeverVerify: a pod whose keys have lost the right reads what is cached", scene.sums(f"{NEVER}-3"), made.sums)
    world.equal("and for neither of them an object was asked for", accounts.since(mark).objects, [])
    scene.add(_claiming(ALWAYS, 3))
    _refused(world, scene, f"{ALWAYS}-3", "PermissionDenied", "AlwaysVerify: keys that have just lost the right")
    time.sleep(max(0.0, proved + TTL - time.monotonic()))
    mark = accounts.mark()
    scene.add(_claiming(UNTIL_TTL, 4))
    _refused(world, scene, f"{UNTIL_TTL}-4", "PermissionDenied", f"VerifyUntilTTL: the proof's {TTL} s are over")
    world.equal("and no object was asked for", accounts.since(mark).objects, [])
    ended = world.kube.execute(NAME, f"{UNTIL_TTL}-3", "sha256sum", "/model/config.json")
    world.equal("a pod that runs already is not disturbed by that", ended.code, 0)
    accounts.allow(READER)
    scene.wait_until_running(f"{ALWAYS}-3", seconds=150)
    scene.wait_until_running(f"{UNTIL_TTL}-4", seconds=150)
    world.check("the refused pods start by themselves when the store gives the right back", True)


def _anonymous(world: World, scene: Scene, accounts: Accounts, made: Model) -> None:
    scene.add(pod(NAME, PUBLIC, inline(_name(PUBLIC), PUBLIC)))
    world.equal("Anonymous: a bucket that is not public is not read", scene.refusal(PUBLIC, 30).code, "PermissionDenied")
    mark, since = accounts.mark(), accounts.mark_log()
    accounts.allow("*")
    scene.wait_until_running(PUBLIC, seconds=90)
    traffic, asked = accounts.since(mark), accounts.asked_since(since, f"{NAME}/{PUBLIC}")
    world.equal("Anonymous: one that is public is read", scene.sums(PUBLIC), made.sums)
    world.check("Anonymous: it was downloaded once", traffic.is_one_of(made.size), traffic)
    world.equal("Anonymous: by the store's own log nobody has signed a request for it", {it.requester for it in asked}, {""})
    gets = [it for it in asked if it.operation == "s3_GetObject"]
    world.check("Anonymous: which has the requests for all of its files", len(gets) >= len(made.sizes), asked)


def _node(world: World, scene: Scene, made: Model) -> None:
    seaweed = _store_with_roles(world, scene)
    seaweed.put(made.directory, f"{NAME}/{OF_NODE}")
    directory = _metadata_service(world, _keys_of_role(world))
    auth = {"mode": "Node", "node": {"endpoint": f"http://{ADDRESS}:{PORT}"}}
    mark = seaweed.mark()
    scene.add(source(_name(OF_NODE), COUNTED, [consumer(NAME)], auth, NAME), pod(NAME, OF_NODE, inline(_name(OF_NODE), OF_NODE)))
    scene.wait_until_running(OF_NODE, seconds=90)
    traffic = seaweed.since(mark)
    world.equal("Node: a pod reads with the keys of the node's role", scene.sums(OF_NODE), made.sums)
    world.check("Node: the model was downloaded once", traffic.is_one_of(made.size), traffic)
    asked = [(it["method"], it["path"], it["status"]) for it in metadata.questions(directory)]
    session, role = ("PUT", metadata.SESSION, 200), ("GET", metadata.ROLES, 200)
    world.equal("Node: the metadata service was asked for a session first", asked[0], session)
    # The controller asks too, as itself.
    world.equal("Node: then, with one, for the role and for its keys, and for nothing else", set(asked), {session, role, ("GET", metadata.ROLES + ROLE, 200)})
    world.check(f"Node: by each who reads once, {len(asked)} questions in all", 3 <= len(asked) <= 9, asked)


def _store_with_roles(world: World, scene: Scene) -> Seaweed:
    """The store that knows temporary keys."""
    Seaweed.build()
    seaweed = Seaweed(world.cluster, {ROLE: f"system:serviceaccount:{NAME}:{ROLE}"})
    world.afterwards(seaweed.stop)
    seaweed.start()
    scene.add(discovery(), service_account(NAME, ROLE))
    return seaweed


def _keys_of_role(world: World) -> dict[str, str]:
    """Keys of 15 minutes, which on EC2 the instance would be given. By the names that STS has for them."""
    token = world.kube("create", "token", ROLE, f"--namespace={NAME}", f"--audience={AUDIENCE}").strip()
    whose = {"RoleArn": role_arn(ROLE), "RoleSessionName": INSTANCE, "DurationSeconds": 900, "WebIdentityToken": token}
    form = urlencode({"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", **whose})

    def given() -> str:
        ended = world.cluster.attempt("python3", "-c", POST, f"{DIRECT}/", text=form)
        return ended.out if ended.code == 0 else ""

    answer = until("the store gives keys for the role", 30, given)
    return {it.tag.rpartition("}")[2]: it.text or "" for it in ElementTree.fromstring(answer).iter()}


def _metadata_service(world: World, given: dict[str, str]) -> Path:
    """Starts it, with these keys; returns its directory."""
    directory, inside = STATE / "metadata", INSIDE / "metadata"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    shutil.copy2(metadata.__file__, directory / "service.py")
    metadata.write_role(directory, ROLE, given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], given["Expiration"])
    world.cluster.start_component("metadata", "python3", inside / "service.py", f"{ADDRESS}:{PORT}", inside)
    world.afterwards(lambda: world.cluster.kill_component("metadata"))
    connect = f"import socket; socket.create_connection(('{ADDRESS}', {PORT}), 2).close()"
    until("the metadata service listens", 20, lambda: world.cluster.attempt("python3", "-c", connect).code == 0)
    return directory
