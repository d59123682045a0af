"""Values of the chart that no scenario installs, and what each is to make of the rendered objects."""

import re

MIRROR = "mirror.example.com/k8s"
CHOSEN = {
    "global": {"imageRegistry": f"{MIRROR}/"},
    "image": {"registry": "registry.example.com", "tag": "9"},
    "imagePullSecrets": ["pull"],
    "kubeletDir": "/data/kubelet",
    "caBundle": {"configMap": "authorities", "key": "roots.pem"},
    "nodeGroups": [
        {
            "name": "nvme",
            "nodeSelector": {"disk": "nvme"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "cacheDir": "/nvme/tonnage",
            "seeds": ["/opt/weights", "/opt/more"],
        },
        {"name": "sata", "nodeSelector": {"disk": "sata"}, "cacheDir": "/sata/tonnage"},
    ],
    "node": {"machineIdFile": "/etc/other-id", "hostNetwork": True},
    "controller": {"provisioner": {"image": {"tag": "8"}}},
}

_EVERYWHERE = {
    "imagePullSecrets": ['imagePullSecrets:\n- name: "pull"'],
    "global.imageRegistry": [f'image: "{MIRROR}/tonnage:9"'],
    "caBundle": [
        "- name: SSL_CERT_FILE\nvalue: /etc/tonnage/ca/roots.pem",
        "- name: ca\nmountPath: /etc/tonnage/ca",
        '- name: ca\nconfigMap:\nname: "authorities"\nitems:\n- key: "roots.pem"\npath: "roots.pem"',
    ],
}
_ON_NODES = {
    **_EVERYWHERE,
    "kubeletDir": [
        '- name: TONNAGE_KUBELET_DIR\nvalue: "/data/kubelet"',
        "- name: TONNAGE_ENDPOINT_SOCKET\nvalue: unix:///data/kubelet/plugins/csi.tonnage.dev/csi.sock",
        "- name: TONNAGE_REGISTRATION_DIR\nvalue: /data/kubelet/plugins_registry",
        '- name: kubelet\nmountPath: "/data/kubelet"\nmountPropagation: Bidirectional',
        '- name: kubelet\nhostPath:\npath: "/data/kubelet"',
    ],
    "node.machineIdFile": ["- name: machine-id\nmountPath: /etc/machine-id", '- name: machine-id\nhostPath:\npath: "/etc/other-id"\ntype: File'],
    "node.hostNetwork": ["hostNetwork: true\ndnsPolicy: ClusterFirstWithHostNet"],
}
WANTED = {
    ("DaemonSet", "tonnage-node-nvme"): {
        **_ON_NODES,
        "nodeSelector": ["nodeSelector:\ndisk: nvme"],
        "tolerations": ["tolerations:\n- effect: NoSchedule\nkey: gpu\noperator: Exists"],
        "cacheDir": [
            '- name: TONNAGE_CACHE_DIR\nvalue: "/nvme/tonnage"',
            '- name: cache\nmountPath: "/nvme/tonnage"',
            '- name: cache\nhostPath:\npath: "/nvme/tonnage"',
        ],
        "seeds": [
            '- name: TONNAGE_SEEDS\nvalue: "/opt/weights:/opt/more"',
            '- name: seed-1\nmountPath: "/opt/more"\nreadOnly: true',
            '- name: seed-1\nhostPath:\npath: "/opt/more"\ntype: Directory',
        ],
    },
    ("DaemonSet", "tonnage-node-sata"): {
        **_ON_NODES,
        "nodeSelector": ["nodeSelector:\ndisk: sata"],
        "cacheDir": ['- name: TONNAGE_CACHE_DIR\nvalue: "/sata/tonnage"', '- name: cache\nhostPath:\npath: "/sata/tonnage"'],
    },
    ("Deployment", "tonnage-controller"): {**_EVERYWHERE, "the provisioner's image": [f'image: "{MIRROR}/sig-storage/csi-provisioner:8"']},
}
"""For each object, by the value that makes them: pieces of it, without indentation and empty lines."""
ABSENT = {("DaemonSet", "tonnage-node-sata"): ["tolerations:", "TONNAGE_SEEDS", "nvme"]}
"""What a group must not have of another one, or of the default one."""


def objects(rendered: str) -> dict[tuple[str, str], str]:
    """The objects by kind and name, without indentation and empty lines."""
    documents = [it for it in re.split(r"(?m)^---.*$", rendered) if re.search(r"(?m)^kind:", it)]
    return {_named(it): "\n".join(line.strip() for line in it.splitlines() if line.strip()) for it in documents}


def missing(found: str, wanted: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Pieces that an object lacks, each with the value that should have made it."""
    return [(value, piece) for value, pieces in wanted.items() for piece in pieces if f"\n{piece}\n" not in f"\n{found}\n"]


def images(rendered: str) -> set[str]:
    """All images that the rendered objects name."""
    return set(re.findall(r'(?m)^\s+(?:- )?image: "([^"]+)"$', rendered))


def _named(document: str) -> tuple[str, str]:
    kind = re.search(r"(?m)^kind: (\S+)", document)[1]
    name = re.search(r"(?m)^metadata:\n(?:  .*\n)*?  name: (\S+)", document)
    return kind, name[1].strip('"') if name else ""
