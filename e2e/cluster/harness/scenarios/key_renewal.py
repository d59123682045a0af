"""A load that takes longer than its keys last: a real STS gives keys of 15 minutes, new ones are fetched for the pod's service account before
they end, the load goes on with those and is one download, and no request of it is refused."""

from .. import model
from ..manifests import as_service_account, consumer, inline, pod, service_account, source
from ..seaweed import AUDIENCE, COUNTED, Seaweed, as_role, discovery
from ..store import Traffic
from ..world import World

NAME = "key-renewal"
PATH = "slow"
ROLE = READER = "reader"
SOURCE = f"{NAME}-{ROLE}"
LIFE = 900
"""Seconds that keys last: the least that Amazon's STS gives, too."""
RATE = 256 << 10
"""Bytes per second of the wire."""
SHARDS, SHARD_SIZE = 244, 1 << 20
"""With that rate the stage takes 976 s: new keys are wanted after about four fifths of a life, and have to do after its end. Requests
share the rate, and a key signs when one begins: so they are small."""
MOST = 1200
"""Seconds of the stage where processors, kubelet and the wire have others to serve as well."""


def run(world: World) -> None:
    seaweed = _store(world)
    scene = world.scene(NAME)
    world.afterwards(world.driver.upgrade)
    world.driver.upgrade(changed={"csiDriver": {"tokenAudiences": [AUDIENCE]}})
    world.driver.wait_until_ready()
    scene.add(discovery(), service_account(NAME, READER), source(SOURCE, COUNTED, [consumer(NAME, READER)], as_role(ROLE), NAME))
    made = model.generate(scene.place(PATH), f"{world.seed}/{NAME}", shards=SHARDS, shard_size=SHARD_SIZE)
    seaweed.put(made.directory, f"{NAME}/{PATH}")
    seaweed.limit(RATE)
    mark = seaweed.mark()
    scene.add(as_service_account(pod(NAME, READER, inline(SOURCE, PATH)), READER))
    world.calm(NAME)
    scene.wait_until_running(READER, seconds=MOST)
    traffic = seaweed.since(mark)
    took = traffic.last_byte - traffic.began
    world.check(f"the stage took {took:.0f} s, longer than keys of {LIFE} s last", LIFE < took < MOST)
    world.check(f"it was one download: {traffic}", traffic.is_one_of(made.size), f"the model has {made.size} bytes")
    _renewed(world, traffic)
    world.equal("the pod reads what the generator wrote", scene.sums(READER), made.sums)


def _store(world: World) -> Seaweed:
    Seaweed.build()
    seaweed = Seaweed(world.cluster, {ROLE: f"system:serviceaccount:{NAME}:{READER}"})
    world.afterwards(seaweed.stop)
    seaweed.start()
    return seaweed


def _renewed(world: World, traffic: Traffic) -> None:
    """Whose requests are refused has asked with keys that have ended."""
    content = sorted(traffic.of_content, key=lambda it: it["began"])
    keys = list(dict.fromkeys(it["key"] for it in content))
    world.equal("two pairs of keys have signed it, one after the other", len(keys), 2)
    first, second = ([it["began"] - traffic.began for it in content if it["key"] == key] for key in keys)
    world.check(f"the first until {first[-1]:.0f} s and the second from {second[0]:.0f} s on", first[-1] < LIFE and LIFE / 2 < second[0] < LIFE, (first[-1], second[0]))
    world.check(f"{sum(it > LIFE for it in second)} requests were made when the first had ended", second[-1] > LIFE)
    refused = [it for it in traffic.requests if it["method"] == "GET" and it["status"] not in (200, 206) and it["key"] in keys]
    world.equal("none that they have signed was refused", refused, [])
