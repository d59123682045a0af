//! When kubelet is asked for the devices of pods, and for how long. Time is handed in.
//!
//! kubelet gives a pod the devices of device plugins when it admits it, before it mounts any volume, and lists every pod that it has
//! admitted, whether its containers exist or not: at the end of a load they are there. Two things are not. The devices of
//! a `ResourceClaim` are prepared once **all** volumes of the pod are mounted, so never before the end of its load; and a kubelet that has
//! just started lists nothing. So whoever has no GPU is looked up again, a few times:
//!
//! ```text
//! end of the load   +2 s   +10 s   +1 min   +5 min
//! ```
//!
//! All that wait are looked up with one answer, at most once a second. A load whose pod has GPUs is counted, and is done with; one that
//! has none to the end had none.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tonnage_proto::podresources::PodResources;

use super::devices::gpus;

/// Between one look for a load and the next.
const PAUSES: &[Duration] = &[
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(50),
    Duration::from_mins(4),
];
/// Shortest time between two looks: others ask kubelet as well, which answers a hundred times a second.
const GAP: Duration = Duration::from_secs(1);
/// Loads that may wait; further ones are not counted.
const MOST: usize = 4_096;

/// A load that a pod waited for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waited {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) source: String,
    pub(super) time: Duration,
}

/// The loads that are to be looked up.
#[derive(Debug, Default)]
pub(super) struct Looks {
    waiting: Vec<Entry>,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    load: Waited,
    due: Instant,
    pauses: std::slice::Iter<'static, Duration>,
}

impl Looks {
    /// Adds loads that have just ended.
    pub(super) fn add(&mut self, loads: impl IntoIterator<Item = Waited>, now: Instant) {
        let room = MOST.saturating_sub(self.waiting.len());
        let entries = loads.into_iter().map(|load| Entry {
            load,
            due: now,
            pauses: PAUSES.iter(),
        });
        self.waiting.extend(entries.take(room));
    }

    /// When the next look is due, if any is.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = self.waiting.iter().map(|entry| entry.due).min()?;
        Some(self.last.map_or(first, |last| first.max(last + GAP)))
    }

    /// Takes what kubelet has answered, nothing if it has not, and returns the loads whose pods have GPUs, with how many.
    pub(super) fn looked(&mut self, pods: &[PodResources], now: Instant) -> Vec<(Waited, u32)> {
        self.last = Some(now);
        let having = having_gpus(pods);
        let mut counted = Vec::new();
        let mut left = Vec::new();
        for entry in std::mem::take(&mut self.waiting) {
            let pod = (entry.load.namespace.as_str(), entry.load.pod.as_str());
            let found = having.get(&pod).copied();
            if let Some(gpus) = found {
                counted.push((entry.load, gpus));
            } else {
                left.extend(entry.later(now));
            }
        }
        self.waiting = left;
        counted
    }
}

impl Entry {
    /// The same with its next look, if this one was due and there is one.
    fn later(mut self, now: Instant) -> Option<Self> {
        if self.due <= now {
            self.due = now + *self.pauses.next()?;
        }
        Some(self)
    }
}

/// The pods that have GPUs, by namespace and name. One that was replaced by another of its name may be listed beside it.
fn having_gpus(pods: &[PodResources]) -> HashMap<(&str, &str), u32> {
    let mut having = HashMap::new();
    for pod in pods {
        let count = u32::try_from(gpus(pod)).unwrap_or(u32::MAX);
        if count > 0 {
            let most = having
                .entry((pod.namespace.as_str(), pod.name.as_str()))
                .or_default();
            *most = count.max(*most);
        }
    }
    having
}

#[cfg(test)]
mod tests;
