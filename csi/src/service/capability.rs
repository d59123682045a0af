//! Volume capabilities: which can be published, and which can be created.

use tonnage_proto::csi::VolumeCapability;
use tonnage_proto::csi::volume_capability::AccessType;
use tonnage_proto::csi::volume_capability::access_mode::Mode;

use crate::volume::{Access, Error, MountFlags};

/// A capability of a publish: kubelet's access modes are all served, because volumes are read-only whatever they say.
pub(super) fn published(
    capability: Option<&VolumeCapability>,
) -> Result<(Access, MountFlags), Error> {
    let capability = capability.ok_or(Error::Missing("volume_capability"))?;
    let flags = mount_flags(capability)?;
    let access = match mode(capability)? {
        Mode::SingleNodeSingleWriter => Access::SingleWriter,
        Mode::Unknown
        | Mode::SingleNodeWriter
        | Mode::SingleNodeReaderOnly
        | Mode::MultiNodeReaderOnly
        | Mode::MultiNodeSingleWriter
        | Mode::MultiNodeMultiWriter
        | Mode::SingleNodeMultiWriter => Access::Shared,
    };
    Ok((access, flags))
}

/// Checks the capabilities of a volume that is to be created; refuses what no volume of this driver can be.
pub(super) fn created(capabilities: &[VolumeCapability]) -> Result<(), Error> {
    if capabilities.is_empty() {
        return Err(Error::Missing("volume_capabilities"));
    }
    for capability in capabilities {
        mount_flags(capability)?;
        match mode(capability)? {
            Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => {
                return Err(Error::Capability(
                    "volumes are read-only: no access mode with writers on several nodes; use ReadOnlyMany",
                ));
            }
            Mode::Unknown
            | Mode::SingleNodeWriter
            | Mode::SingleNodeReaderOnly
            | Mode::MultiNodeReaderOnly
            | Mode::SingleNodeSingleWriter
            | Mode::SingleNodeMultiWriter => {}
        }
    }
    Ok(())
}

fn mount_flags(capability: &VolumeCapability) -> Result<MountFlags, Error> {
    match &capability.access_type {
        Some(AccessType::Mount(mount)) => MountFlags::parse(&mount.mount_flags),
        Some(AccessType::Block(_)) => Err(Error::Capability(
            "block volumes do not exist here; use volumeMode: Filesystem",
        )),
        None => Err(Error::Missing("volume_capability.access_type")),
    }
}

fn mode(capability: &VolumeCapability) -> Result<Mode, Error> {
    let mode = capability
        .access_mode
        .as_ref()
        .map(|mode| Mode::try_from(mode.mode));
    match mode {
        Some(Ok(Mode::Unknown)) | None => Err(Error::Missing("volume_capability.access_mode")),
        Some(Ok(mode)) => Ok(mode),
        Some(Err(_)) => Err(Error::Capability("the access mode is not one of CSI 1.13")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_proto::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    fn capability(mode: Mode, flags: &[&str]) -> VolumeCapability {
        let mount_flags = flags.iter().map(ToString::to_string).collect();
        VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: Some(AccessType::Mount(MountVolume {
                mount_flags,
                ..MountVolume::default()
            })),
        }
    }

    #[test]
    fn every_access_mode_is_published_and_one_allows_a_single_target() {
        for number in 1..8 {
            let mode = Mode::try_from(number).unwrap();
            let (access, _) = published(Some(&capability(mode, &["ro"]))).unwrap();
            assert_eq!(
                access == Access::SingleWriter,
                mode == Mode::SingleNodeSingleWriter,
                "{mode:?}"
            );
        }
        assert!(published(Some(&capability(Mode::Unknown, &[]))).is_err());
        assert!(published(None).is_err());
    }

    #[test]
    fn block_and_writers_on_several_nodes_are_not_created() {
        let block = VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            ..capability(Mode::SingleNodeWriter, &[])
        };
        assert!(created(&[block]).is_err());
        assert!(created(&[]).is_err());
        for number in 1..8 {
            let mode = Mode::try_from(number).unwrap();
            let refused = matches!(
                mode,
                Mode::MultiNodeMultiWriter | Mode::MultiNodeSingleWriter
            );
            assert_eq!(
                created(&[capability(mode, &[])]).is_err(),
                refused,
                "{mode:?}"
            );
        }
        assert!(created(&[capability(Mode::SingleNodeWriter, &["suid"])]).is_err());
    }
}
