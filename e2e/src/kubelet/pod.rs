//! What the cluster knows about a pod's one volume of ours, and what kubelet makes of it: the path of the
//! target and the publish request.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tonnage_proto::csi;
use tonnage_proto::csi::volume_capability::access_mode::Mode;
use tonnage_proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};

/// A pod with one volume of the driver.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Unique id; names the pod's directory.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Volume handle: unique per pod for inline volumes, shared by the pods of one claim.
    pub volume_id: String,
    /// Directory name of the volume: its name in the pod, or the name of the persistent volume.
    pub volume_name: String,
    /// Inline (`ephemeral`) rather than a persistent volume.
    pub inline: bool,
    /// The user's attributes, or what `CreateVolume` returned.
    pub attributes: HashMap<String, String>,
    /// `readOnly` of the pod's volume.
    pub readonly: bool,
    /// Access mode of the claim; kubelet always says `SINGLE_NODE_WRITER` for inline volumes.
    pub mode: Mode,
    /// Mount options of the persistent volume.
    pub mount_flags: Vec<String>,
    /// `fsType`.
    pub fs_type: String,
    /// `nodePublishSecretRef` and service account tokens.
    pub secrets: HashMap<String, String>,
}

impl Pod {
    /// A pod named `name` with an inline volume of these attributes.
    pub fn inline(name: &str, attributes: &[(&str, &str)]) -> Self {
        let uid = uid_of(name);
        Self {
            volume_id: format!("csi-{}", blake3::hash(uid.as_bytes()).to_hex()),
            uid,
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            volume_name: "weights".to_owned(),
            inline: true,
            attributes: attributes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            readonly: true,
            mode: Mode::SingleNodeWriter,
            mount_flags: Vec::new(),
            fs_type: String::new(),
            secrets: HashMap::new(),
        }
    }

    /// A pod named `name` that uses the claim behind `volume`.
    pub fn of_claim(name: &str, volume: &csi::Volume) -> Self {
        Self {
            volume_id: volume.volume_id.clone(),
            volume_name: format!("pvc-{}", uid_of(&volume.volume_id)),
            inline: false,
            attributes: volume.volume_context.clone(),
            mode: Mode::MultiNodeReaderOnly,
            ..Self::inline(name, &[])
        }
    }

    /// The directory that kubelet makes for the volume; the target is `mount` in it.
    pub fn volume_dir(&self, kubelet_dir: &Path) -> PathBuf {
        kubelet_dir
            .join("pods")
            .join(&self.uid)
            .join("volumes/kubernetes.io~csi")
            .join(&self.volume_name)
    }

    /// The target path.
    pub fn target(&self, kubelet_dir: &Path) -> PathBuf {
        self.volume_dir(kubelet_dir).join("mount")
    }

    /// The publish request as kubelet words it.
    pub fn publish_request(&self, kubelet_dir: &Path) -> csi::NodePublishVolumeRequest {
        let mut context = self.attributes.clone();
        for (key, value) in [
            ("csi.storage.k8s.io/pod.name", self.name.as_str()),
            ("csi.storage.k8s.io/pod.namespace", &self.namespace),
            ("csi.storage.k8s.io/pod.uid", &self.uid),
            (
                "csi.storage.k8s.io/serviceAccount.name",
                &self.service_account,
            ),
            (
                "csi.storage.k8s.io/ephemeral",
                if self.inline { "true" } else { "false" },
            ),
        ] {
            context.insert(key.to_owned(), value.to_owned());
        }
        if !self.inline {
            context.insert(
                "storage.kubernetes.io/csiProvisionerIdentity".to_owned(),
                "1-csi.tonnage.dev".to_owned(),
            );
        }
        csi::NodePublishVolumeRequest {
            volume_id: self.volume_id.clone(),
            target_path: self.target(kubelet_dir).to_string_lossy().into_owned(),
            volume_capability: Some(csi::VolumeCapability {
                access_mode: Some(AccessMode {
                    mode: self.mode.into(),
                }),
                access_type: Some(AccessType::Mount(MountVolume {
                    fs_type: self.fs_type.clone(),
                    mount_flags: self.mount_flags.clone(),
                    volume_mount_group: String::new(),
                })),
            }),
            readonly: self.readonly,
            secrets: self.secrets.clone(),
            volume_context: context,
            ..Default::default()
        }
    }
}

/// A UUID-shaped text that follows from `name`.
fn uid_of(name: &str) -> String {
    let hex = blake3::hash(name.as_bytes()).to_hex();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}
