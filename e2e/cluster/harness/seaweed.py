"""A store that knows roles: SeaweedFS with its STS, which takes tokens of the cluster's service accounts for keys of 15 minutes. The API
server is the issuer that it trusts. Beside it runs the wire that counts, as for the other store; requests for keys pass it too."""

import base64
import json
import os
import shutil

from .command import attempt, output
from .outcome import until
from .paths import CACHE, REPOSITORY
from .store import ACCESS_KEY, ADDRESS, BUCKET, SECRET_KEY, Store, Traffic, link

DIRECT, COUNTED = f"http://{ADDRESS}:7080", f"http://{ADDRESS}:7081"
"""Endpoints of the one server: its own, and the wire's."""
AUDIENCE = "seaweed.test"
ISSUER, KEYS = "https://kubernetes.default.svc", f"https://{ADDRESS}:443/openid/v1/jwks"
"""Who issues tokens, and where the keys are with which they are signed (`../node/components.sh`)."""
PROVIDER = "cluster"
MASTER, VOLUME, FILER, S3_GRPC = (7082, 7083), (7084, 7085), (7086, 7087), 7088
"""Ports of its parts: HTTP and gRPC."""


def role_arn(name: str) -> str:
    return f"arn:aws:iam::role/{name}"


class Seaweed(Store):
    """The server, its wire, its objects and its roles."""

    NAME, PROGRAM, WIRE = "seaweed", "weed", "weed-relay"
    ENDPOINTS = (DIRECT, COUNTED)

    def __init__(self, cluster, roles: dict[str, str | None]):
        """`roles` are names and the one subject that may assume each; a role without one may be assumed by every service account."""
        super().__init__(cluster)
        self._roles = roles

    @staticmethod
    def build() -> None:
        """The server and the client that fills it, where they are not there yet."""
        output([REPOSITORY / "e2e/servers.sh", "build", "seaweed", "clients"], seconds=900)
        link(CACHE / "seaweed/bin/weed")

    def start(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        for name in ("data", "tmp"):
            (self._directory / name).mkdir(parents=True)
        (self._directory / "s3.json").write_text(json.dumps(_identities()))
        (self._directory / "iam.json").write_text(json.dumps(_iam(self._roles)))
        self._start()

    def start_server(self) -> None:
        inside = self._inside
        ports = [f"-{part}.port{kind}={port}" for part, pair in (("master", MASTER), ("volume", VOLUME), ("filer", FILER)) for kind, port in zip(("", ".grpc"), pair)]
        # The gateway of tables and of vectors would listen too.
        gateway = ["-s3", "-s3.port=7080", f"-s3.port.grpc={S3_GRPC}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={inside}/s3.json"]
        rest = ["-filer", "-master.telemetry=false", "-volume.max=8", f"-s3.iam.config={inside}/iam.json", "-iam=false"]
        sockets = [f"-filer.localSocket={inside}/filer.sock", f"-s3.localSocket={inside}/s3.sock"]
        command = ["weed", f"-logdir={inside}", "server", f"-ip={ADDRESS}", f"-ip.bind={ADDRESS}", f"-dir={inside}/data"]
        # Its parts talk to each other by sockets in /tmp that are named by their ports, and another cluster's have the same.
        alone = ["unshare", "--mount", "sh", "-c", f'mount --bind {inside}/tmp /tmp && exec "$@"', "sh"]
        self._cluster.start_component(self.PROGRAM, *alone, *command, *ports, *gateway, *rest, *sockets)
        until("SeaweedFS takes objects", 60, lambda: self._answers(DIRECT) and self._lists())

    def _lists(self) -> bool:
        """Its gateway listens before its filer and its volumes are there."""
        return attempt(self._client("ping")).code == 0


def as_role(name: str) -> dict:
    """How a source says that pods read as a role."""
    aws = {"roleArn": role_arn(name), "stsEndpoint": COUNTED, "durationSeconds": 900}
    return {"mode": "WorkloadIdentity", "workloadIdentity": {"audience": AUDIENCE, "aws": aws}}


def exchanges(traffic: Traffic) -> int:
    """How often keys were asked for."""
    return sum(1 for it in traffic.requests if it["method"] == "POST" and it["path"] == "/")


def discovery() -> dict:
    """Lets anybody read the keys with which the API server signs, as a cloud must be able to."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"}
    anybody = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "tonnage-test-issuer-discovery"},
        "roleRef": role,
        "subjects": [anybody],
    }


def _identities() -> dict:
    """Who fills it, with keys that last."""
    keys = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    return {"identities": [{"name": "tonnage", "actions": ["Admin", "Read", "Write", "List", "Tagging"], "credentials": [keys]}]}


def _iam(roles: dict[str, str | None]) -> dict:
    provider = {"issuer": ISSUER, "clientId": AUDIENCE, "jwksUri": KEYS, "tlsCaCert": "/var/lib/cluster/pki/ca.crt"}
    sts = {"issuer": "seaweed-sts", "signingKey": base64.b64encode(os.urandom(32)).decode(), "tokenDuration": "15m", "maxSessionLength": "12h"}
    read = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]}
    use = {"Effect": "Allow", "Action": ["sts:ValidateSession"], "Resource": ["*"]}
    return {
        "sts": sts,
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "providers": [{"name": PROVIDER, "type": "oidc", "enabled": True, "config": provider}],
        "policies": [{"name": "read", "document": {"Version": "2012-10-17", "Statement": [read, use]}}],
        "roles": [_role(name, subject) for name, subject in roles.items()],
    }


def _role(name: str, subject: str | None) -> dict:
    statement = {"Effect": "Allow", "Principal": {"Federated": PROVIDER}, "Action": ["sts:AssumeRoleWithWebIdentity"]}
    if subject:
        statement["Condition"] = {"StringEquals": {"oidc:sub": subject}}
    trust = {"Version": "2012-10-17", "Statement": [statement]}
    return {"roleName": name, "roleArn": role_arn(name), "trustPolicy": trust, "attachedPolicies": ["read"]}
