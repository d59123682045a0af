"""Judges csi-sanity's JSON report: no failure, enough tests run, and no skip but for what the driver does not claim.

    sanity_report.py REPORT.json

A skip is judged by its message, which csi-sanity writes per capability; one that is not in the table below is
a failure, so that a capability that the driver claims, or a new test, cannot go missing quietly.
"""

import collections
import json
import sys

# csi-sanity's skip message: the capability or service behind it, none of which the driver claims.
UNCLAIMED = {
    "GetCapacity not supported": "GET_CAPACITY",
    "ListVolumes not supported": "LIST_VOLUMES",
    "Snapshot not supported": "CREATE_DELETE_SNAPSHOT",
    "CreateSnapshot not supported": "CREATE_DELETE_SNAPSHOT",
    "DeleteSnapshot not supported": "CREATE_DELETE_SNAPSHOT",
    "ListSnapshots not supported": "LIST_SNAPSHOTS",
    "GetSnapshot not supported": "GET_SNAPSHOT",
    "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported": "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
    "Volume Cloning not supported": "CLONE_VOLUME",
    "Modify volume not supported": "MODIFY_VOLUME",
    "Modify Volume not supported": "MODIFY_VOLUME",
    "ControllerModifyVolume not supported": "MODIFY_VOLUME",
    "ControllerExpandVolume not supported": "EXPAND_VOLUME (controller)",
    "ControllerPublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
    "ControllerUnpublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
    "Controller Publish, UnpublishVolume not supported": "PUBLISH_UNPUBLISH_VOLUME",
    "ControllerPublishVolume.readonly field not supported": "PUBLISH_READONLY",
    "ControllerGetVolumeHealth not supported": "GET_VOLUME_HEALTH (controller)",
    "ControllerListVolumeHealth not supported": "LIST_VOLUME_HEALTH",
    "GroupControllerService not supported": "GROUP_CONTROLLER_SERVICE",
    "VolumeGroupSnapshots not supported": "GROUP_CONTROLLER_SERVICE",
    "NodeStageVolume not supported": "STAGE_UNSTAGE_VOLUME",
    "NodeUnstageVolume not supported": "STAGE_UNSTAGE_VOLUME",
    "NodeExpandVolume not supported": "EXPAND_VOLUME (node)",
    "NodeGetVolumeHealth not supported": "GET_VOLUME_HEALTH (node)",
    "NodeGetStorageHealth not supported": "GET_STORAGE_HEALTH",
}
# Tests of csi-sanity 5.6.0 that apply to the capabilities the driver claims.
EXPECTED_PASSES = 33


def main(path):
    with open(path) as file:
        specs = [s for suite in json.load(file) for s in suite["SpecReports"] or [] if s["LeafNodeType"] == "It"]
    states = collections.Counter(s["State"] for s in specs)
    skips, wrong = collections.Counter(), []
    for spec in specs:
        name = " / ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
        message = spec.get("Failure", {}).get("Message", "")
        if spec["State"] == "skipped":
            if message in UNCLAIMED:
                skips[UNCLAIMED[message]] += 1
            else:
                wrong.append(f"skipped although claimed: {name}: {message or 'not selected'}")
        elif spec["State"] not in ("passed", "pending"):
            wrong.append(f"{spec['State']}: {name}: {message}")
    print("skipped, for capabilities that are not claimed:")
    for capability, count in sorted(skips.items()):
        print(f"  {count:3} {capability}")
    print(", ".join(f"{count} {state}" for state, count in sorted(states.items())), f"of {len(specs)} tests")
    if states["passed"] < EXPECTED_PASSES:
        wrong.append(f"only {states['passed']} tests passed; {EXPECTED_PASSES} apply to this driver")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(sys.argv[1])
