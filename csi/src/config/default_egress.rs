//! What holds where no policy does, as it is written.

use clap::ValueEnum;
use serde::Deserialize;
use tonnage_csi::egress::policy;

/// What holds in namespaces that no `EgressPolicy` selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DefaultEgress {
    /// They may load from every source whose consumers let them
    Allow,
    /// They may load nothing
    Deny,
}

impl From<DefaultEgress> for policy::DefaultEgress {
    fn from(written: DefaultEgress) -> Self {
        match written {
            DefaultEgress::Allow => Self::Allow,
            DefaultEgress::Deny => Self::Deny,
        }
    }
}
