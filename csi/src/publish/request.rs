//! A publish, parsed, and how long its call may wait.

use std::time::Duration;

use crate::identity::Credentials;
use crate::volume::{Access, Attributes, MountFlags, VolumeId};

/// What is left of a deadline for the answer and the mount: at least this.
const RESERVE: Duration = Duration::from_secs(3);

/// A publish, parsed.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// The volume.
    pub volume_id: VolumeId,
    /// Where.
    pub target: String,
    /// What.
    pub attributes: Attributes,
    /// Who asks.
    pub credentials: Credentials,
    /// Whether the volume is inline in its pod.
    pub ephemeral: bool,
    /// How many targets it may have.
    pub access: Access,
    /// `readonly` of the request.
    pub readonly: bool,
    /// Mount flags.
    pub flags: MountFlags,
    /// When the caller gives up, from now.
    pub deadline: Option<Duration>,
}

/// How long calls wait.
#[derive(Debug, Clone, Copy)]
pub struct Holds {
    /// Without a deadline. Default 60 s.
    pub default: Duration,
    /// At most, whatever the deadline; default: no limit.
    pub longest: Option<Duration>,
}

impl Holds {
    /// How long a call with this deadline waits: until max(3 s, 3 %) before it.
    pub fn hold(&self, deadline: Option<Duration>) -> Duration {
        let hold = deadline.map_or(self.default, |deadline| {
            deadline.saturating_sub(RESERVE.max(deadline.saturating_mul(3) / 100))
        });
        self.longest.map_or(hold, |longest| hold.min(longest))
    }
}

/// Bytes and files of a published volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_held_until_3_seconds_or_3_percent_before_its_deadline() {
        let holds = Holds {
            default: Duration::from_mins(1),
            longest: None,
        };
        assert_eq!(holds.hold(None), Duration::from_mins(1));
        assert_eq!(
            holds.hold(Some(Duration::from_mins(2))),
            Duration::from_millis(116_400)
        );
        assert_eq!(
            holds.hold(Some(Duration::from_secs(10))),
            Duration::from_secs(7)
        );
        assert_eq!(holds.hold(Some(Duration::from_secs(2))), Duration::ZERO);
        let short = Holds {
            longest: Some(Duration::from_secs(5)),
            ..holds
        };
        assert_eq!(
            short.hold(Some(Duration::from_mins(2))),
            Duration::from_secs(5)
        );
    }
}
