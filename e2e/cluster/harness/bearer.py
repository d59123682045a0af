"""The API server as a pod sees it: requests with a token that is bound to that pod, and so to its node. kubectl would read an object
before it changes it, and who may write need not be one who may read."""

import json
from dataclasses import dataclass

from .cluster import Cluster
from .kubectl import Kubectl

SERVER = "https://10.10.0.1"
ASK = """
import json, ssl, sys, urllib.error, urllib.request
question = json.load(sys.stdin)
request = urllib.request.Request(question["url"], json.dumps(question["body"]).encode(), question["headers"], method=question["method"])
try:
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile="/var/lib/cluster/pki/ca.crt"), timeout=20) as answer:
        print(json.dumps({"code": answer.status, "message": ""}))
except urllib.error.HTTPError as error:
    print(json.dumps({"code": error.code, "message": json.load(error).get("message", "")}))
"""


@dataclass(frozen=True)
class Answer:
    """What the API server said; the message is empty where it did as it was told."""

    code: int
    message: str

    @property
    def is_done(self) -> bool:
        return self.code in (200, 201)

    @property
    def is_denied_by_policy(self) -> bool:
        """Refused by a ValidatingAdmissionPolicy, and so not for want of a role."""
        return self.code in (403, 422) and "ValidatingAdmissionPolicy" in self.message


class Bearer:
    """Whoever holds the token of a pod."""

    def __init__(self, cluster: Cluster, kube: Kubectl, pod: dict):
        self._cluster = cluster
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={name}"]
        self._token = kube("create", "token", pod["spec"]["serviceAccountName"], f"--namespace={namespace}", *bound).strip()

    def patch(self, path: str, change: dict) -> Answer:
        """Merges a change into the object at a path of the API."""
        return self._ask("PATCH", path, change, "application/merge-patch+json")

    def replace(self, path: str, whole: dict) -> Answer:
        """Writes the whole object at a path of the API."""
        return self._ask("PUT", path, whole, "application/json")

    def _ask(self, method: str, path: str, body: dict, kind: str) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        question = {"url": f"{SERVER}{path}", "method": method, "headers": headers, "body": body}
        return Answer(**json.loads(self._cluster.inside("python3", "-c", ASK, text=json.dumps(question))))
