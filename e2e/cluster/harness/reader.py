"""Pods that read all of a model, compare it with the generator's sums, and do it again, for as long as they live. One that once reads
anything else, or fails to, says so and ends."""

from .manifests import pod
from .model import Model
from .outcome import until
from .scene import Scene
from .world import World

READ = """printf '%s' "$CHECKLIST" > /tmp/sums
cd /model
exec 3< config.json
while sha256sum -c -s /tmp/sums; do echo read; sleep 1; done
echo BROKEN
exit 1"""


def reader(scene: Scene, name: str, volume: dict, model: Model) -> dict:
    """The manifest of such a pod."""
    return pod(scene.name, name, volume, READ, {"CHECKLIST": model.checklist})


def never_noticed(world: World, scene: Scene, *names: str, restarts: int = 0) -> None:
    """Checks that readers read still, and that they have not failed since they were started for the last time."""
    for name in names:
        before = world.kube.logs(scene.name, name).count("read")
        until(f"{name} goes on reading", 30, lambda: world.kube.logs(scene.name, name).count("read") > before)
        seen = scene.wait_until_running(name)["status"]["containerStatuses"][0]["restartCount"]
        said = world.kube.logs(scene.name, name)
        holds = seen == restarts and "BROKEN" not in said
        world.check(f"{name} read everything {said.count('read')} times and never failed", holds, f"{seen} restarts, and it said {said[-200:]}")
