"""Objects as the API server takes them: pods and the ways in which they ask for a model, sources, classes, claims."""

import uuid

from .store import ACCESS_KEY, ADDRESS, BUCKET, SECRET_KEY

DRIVER = "csi.tonnage.dev"
GROUP = "tonnage.dev/v1alpha1"
SYSTEM = "tonnage"
"""The namespace that the chart is installed into."""
KEYS = "store-keys"
MOUNT = "/model"
"""Where containers see a model."""

SLEEP = "cat /proc/uptime; exec sleep 86400"
"""Says when the container began, on the clock since boot, which the machine and its namespaces share."""

RESTRICTED_POD = {"runAsNonRoot": True, "runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 4321, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What the restricted Pod Security level asks for."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Labels of a namespace in which nothing else runs."""


def pod(namespace: str, name: str, volume: dict, script: str = SLEEP, environment: dict[str, str] | None = None) -> dict:
    """A pod with one container that sees one volume. The mount inside is not asked to be read-only: that it is, is the driver's work."""
    container = {
        "name": "reader",
        "image": "local/busybox:1",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
        "volumeMounts": [{"name": "model", "mountPath": MOUNT}],
    }
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [{"name": "model", **volume}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name}, "spec": spec}


def as_service_account(manifest: dict, name: str) -> dict:
    return {**manifest, "spec": {**manifest["spec"], "serviceAccountName": name}}


def restricted(manifest: dict) -> dict:
    """The pod as a namespace of the restricted level admits it."""
    containers = [{**it, "securityContext": RESTRICTED_CONTAINER} for it in manifest["spec"]["containers"]]
    return {**manifest, "spec": {**manifest["spec"], "securityContext": RESTRICTED_POD, "containers": containers}}


def in_user_namespace(manifest: dict) -> dict:
    """The pod with users of its own, which are nobody on the node."""
    return {**manifest, "spec": {**manifest["spec"], "hostUsers": False}}


def without_volume(manifest: dict) -> dict:
    """The pod as it is without what it mounts."""
    containers = [{key: value for key, value in it.items() if key != "volumeMounts"} for it in manifest["spec"]["containers"]]
    return {**manifest, "spec": {**manifest["spec"], "containers": containers, "volumes": []}}


def inline(source: str, path: str, **attributes: str) -> dict:
    """A volume that the pod describes itself."""
    return {"csi": {"driver": DRIVER, "readOnly": True, "volumeAttributes": {"source": source, "path": path, **attributes}}}


def with_secret(volume: dict, name: str) -> dict:
    """An inline volume that brings the keys in a Secret beside its pod."""
    return {"csi": {**volume["csi"], "nodePublishSecretRef": {"name": name}}}


def claimed(claim: str, **how) -> dict:
    return {"persistentVolumeClaim": {"claimName": claim, **how}}


def ephemeral(storage_class: str, path: str) -> dict:
    """A claim that lives as long as its pod."""
    return {"ephemeral": {"volumeClaimTemplate": {"metadata": _asking_for(path), "spec": _claim(storage_class)}}}


def claim(namespace: str, name: str, storage_class: str, path: str) -> dict:
    metadata = {"namespace": namespace, "name": name, **_asking_for(path)}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": _claim(storage_class)}


def static_volume(namespace: str, name: str, attributes: dict[str, str], secret: str = "") -> tuple[dict, dict]:
    """A volume that an administrator writes down, and the claim that it is for; it brings the keys in a Secret of that namespace, if one
    is named. Its handle is new: a node remembers which revision a handle stood for."""
    reference = {"nodePublishSecretRef": {"namespace": namespace, "name": secret}} if secret else {}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadOnlyMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "claimRef": {"namespace": namespace, "name": name},
        "csi": {"driver": DRIVER, "volumeHandle": f"{name}-{uuid.uuid4()}", "readOnly": True, "volumeAttributes": attributes, **reference},
    }
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    bound = {**_claim(""), "volumeName": name}
    return volume, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": namespace, "name": name}, "spec": bound}


def storage_class(name: str, source: str) -> dict:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": DRIVER,
        "volumeBindingMode": "Immediate",
        "parameters": {"source": source},
    }


def source(name: str, endpoint: str, consumers: list[dict], auth: dict | None = None, below: str = "") -> dict:
    """The part of the store that belongs to one scenario: what is `below` a place in the bucket, or below its own name. Without `auth` it is
    read with the store's keys."""
    spec = {
        "url": f"s3://{BUCKET}/{below or name}",
        "endpoint": endpoint,
        "auth": auth or {"mode": "SharedSecret", "secretName": KEYS},
        "consumers": consumers,
        "allowedCIDRs": [f"{ADDRESS}/32"],
    }
    return {"apiVersion": GROUP, "kind": "Source", "metadata": {"name": name}, "spec": spec}


def consumer(namespace: str, *service_accounts: str) -> dict:
    return {"namespaces": {"names": [namespace]}, "serviceAccounts": list(service_accounts)}


def namespace(name: str, labels: dict[str, str] | None = None) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}


def service_account(where: str, name: str) -> dict:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": where, "name": name}}


def store_keys() -> dict:
    """The store's keys, in the driver's own namespace."""
    return keys(SYSTEM, KEYS, ACCESS_KEY, SECRET_KEY)


def keys(where: str, name: str, access_key: str, secret_key: str) -> dict:
    """A Secret with keys of S3."""
    both = {"accessKeyId": access_key, "secretAccessKey": secret_key}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": where, "name": name}, "stringData": both}


def _asking_for(path: str) -> dict:
    return {"annotations": {"tonnage.dev/path": path}}


def _claim(storage_class_name: str) -> dict:
    return {"storageClassName": storage_class_name, "accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
