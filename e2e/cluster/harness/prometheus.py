"""A real Prometheus in the cluster's network, with the chart's rules: it scrapes the driver's pods as the chart's PodMonitor has them
scraped, and is asked what dashboards ask."""

import json
import shutil
import time

from . import monitoring
from .cluster import Cluster
from .kubectl import Kubectl
from .manifests import SYSTEM
from .outcome import Failure, until
from .paths import INSIDE, STATE
from .store import ADDRESS

SERVER = f"http://{ADDRESS}:9090"
ASK = """
import json, sys, urllib.error, urllib.parse, urllib.request
path, words = json.load(sys.stdin)
try:
    with urllib.request.urlopen(path + "?" + urllib.parse.urlencode(words), timeout=10) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""


class Prometheus:
    """The server, from `start` to `stop`."""

    def __init__(self, cluster: Cluster, kube: Kubectl):
        self._cluster, self._kube = cluster, kube
        self._directory = STATE / "prometheus"
        self.began = 0.0
        """When it was started, in seconds since 1970."""

    def start(self) -> None:
        """Scrapes the driver's pods of now, once a second."""
        self.began = time.time()
        shutil.rmtree(self._directory, ignore_errors=True)
        (self._directory / "rules").mkdir(parents=True)
        for file in monitoring.RULES:
            shutil.copy2(file, self._directory / "rules")
        # JSON is YAML.
        (self._directory / "prometheus.yml").write_text(json.dumps(self._configuration()))
        inside = INSIDE / "prometheus"
        where = [f"--config.file={inside}/prometheus.yml", f"--storage.tsdb.path={inside}/data", f"--web.listen-address={ADDRESS}:9090"]
        self._cluster.start_component("prometheus", "prometheus", *where, "--log.level=warn")
        until("Prometheus is ready", 30, self._is_ready)

    def stop(self) -> None:
        self._cluster.kill_component("prometheus")

    def pods(self) -> list[dict]:
        """The driver's pods that have metrics."""
        found = self._kube.all(SYSTEM, "pods", "app.kubernetes.io/component in (node,controller)")
        return [it for it in found if it["status"].get("podIP") and "deletionTimestamp" not in it["metadata"]]

    def ask(self, expression: str) -> list[dict]:
        """Samples of now; an expression that Prometheus does not take is a failure."""
        return self._get("query", query=expression)["result"]

    def value(self, expression: str) -> float | None:
        """The one sample of an expression, if there is one."""
        found = self.ask(expression)
        return float(found[0]["value"][1]) if found else None

    def series(self, expression: str, began: float, ended: float, step: float) -> list[dict]:
        """Values of an expression between two moments."""
        return self._get("query_range", query=expression, start=str(began), end=str(ended), step=str(step))["result"]

    def groups(self) -> list[dict]:
        """The groups of rules that it has loaded, and what came of each rule."""
        return self._get("rules")["groups"]

    def _configuration(self) -> dict:
        targets = [{"targets": [f"{it['status']['podIP']}:9808"], "labels": _labels(it)} for it in self.pods()]
        job = {"job_name": f"{SYSTEM}/tonnage", "honor_labels": True, "static_configs": targets}
        every_second = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        return {"global": every_second, "rule_files": ["rules/*.yaml"], "scrape_configs": [job]}

    def _get(self, what: str, **words: str) -> dict:
        question = json.dumps([f"{SERVER}/api/v1/{what}", words])
        answer = json.loads(self._cluster.inside("python3", "-c", ASK, text=question))
        if answer["status"] != "success":
            raise Failure(f"Prometheus does not answer {words}: {answer.get('error')}")
        return answer["data"]

    def _is_ready(self) -> bool:
        """A server that does not listen yet makes the program fail."""
        question = json.dumps([f"{SERVER}/api/v1/query", {"query": "vector(1)"}])
        return self._cluster.attempt("python3", "-c", ASK, text=question).code == 0


def _labels(pod: dict) -> dict[str, str]:
    """As the PodMonitor writes them at every metric that has not got its own."""
    metadata, node = pod["metadata"], pod["spec"]["nodeName"]
    component = metadata["labels"]["app.kubernetes.io/component"]
    labels = {"namespace": metadata["namespace"], "pod": metadata["name"], "node": node, "endpoint": "metrics"}
    return {**labels, "app_kubernetes_io_component": component}
