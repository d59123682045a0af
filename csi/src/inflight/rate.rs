//! How far a load is, as one sentence for a pod's events.

use std::fmt;

use tonnage_cache::report::{Phase, Snapshot};

/// Progress and how fast it was during a hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The figures now.
    pub snapshot: Snapshot,
    /// Bytes per second since the call came.
    pub bytes_per_second: f64,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Snapshot {
            total, done, phase, ..
        } = self.snapshot;
        match phase {
            None | Some(Phase::Authorize | Phase::Resolve) => {
                return f.write_str("listing the source");
            }
            Some(Phase::Queue) => f.write_str("waiting for another load of the same files; ")?,
            Some(Phase::FirstByte | Phase::Transfer | Phase::Sync | Phase::View | Phase::Mount) => {
            }
        }
        let percent = done
            .saturating_mul(100)
            .checked_div(total)
            .unwrap_or(0)
            .min(100);
        let unit = Unit::of(total);
        write!(
            f,
            "staging {percent} % ({} of {} {}), ",
            unit.shown(done),
            unit.shown(total),
            unit.name
        )?;
        if self.bytes_per_second >= 1e9 {
            write!(f, "{:.1} GB/s", self.bytes_per_second / 1e9)
        } else {
            write!(f, "{:.1} MB/s", self.bytes_per_second / 1e6)
        }
    }
}

struct Unit {
    name: &'static str,
    bytes: f64,
}

impl Unit {
    fn of(total: u64) -> Self {
        if total >= 1 << 30 {
            Self {
                name: "GiB",
                bytes: f64::from(1u32 << 30),
            }
        } else {
            Self {
                name: "MiB",
                bytes: f64::from(1u32 << 20),
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a size shown with one decimal")]
    fn shown(&self, bytes: u64) -> String {
        format!("{:.1}", bytes as f64 / self.bytes)
    }
}
