"""One more wire to the store's server, with a count and a pace of its own: who slows it down slows nobody else, and nobody else's requests
are among those that it counts."""

from .cluster import Cluster
from .outcome import until
from .paths import INSIDE, STATE
from .store import ADDRESS, Store


class Wire(Store):
    """From `start` to `stop`. What is uploaded and removed goes by way of the store itself."""

    def __init__(self, cluster: Cluster, name: str, port: int):
        super().__init__(cluster)
        self._component = f"wire-{name}"
        self._directory = STATE / self._component
        self.endpoint = f"http://{ADDRESS}:{port}"

    def start(self) -> None:
        self._directory.mkdir(exist_ok=True)
        self.limit(None)
        listen = self.endpoint.removeprefix("http://")
        relay = ["python3", "/var/lib/conf/relay.py", listen, f"{ADDRESS}:7070", INSIDE / self._component]
        self._cluster.start_component(self._component, *relay)
        until(f"{self._component} listens", 20, lambda: self._answers(self.endpoint))

    def stop(self) -> None:
        self._cluster.kill_component(self._component)
