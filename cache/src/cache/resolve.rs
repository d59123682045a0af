//! From a reference to a revision: one listing per (source, path from its root), shared for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Error, Reference, Revision};
use crate::clock::Clock;
use crate::path::Escaped;
use crate::source::{Entry, Limits, fingerprint};

type Key = (String, String);
type Slot = Arc<tokio::sync::Mutex<Option<(Duration, Arc<Vec<Entry>>)>>>;

/// Shared listings.
#[derive(Debug)]
pub(super) struct Revisions {
    clock: Arc<dyn Clock>,
    ttl: Duration,
    slots: Mutex<HashMap<Key, Slot>>,
}

impl Revisions {
    pub(super) fn new(clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self {
            clock,
            ttl,
            slots: Mutex::default(),
        }
    }

    /// Lists once for all who ask within the time to live, then filters and checks the pin.
    pub(super) async fn resolve(
        &self,
        reference: &Reference,
        limits: &Limits,
    ) -> Result<Revision, Error> {
        let listing = self.listing(reference, limits).await?;
        let revision = filter(reference, &listing)?;
        match reference.revision {
            Some(pinned) if pinned != revision.fingerprint => {
                // The shared listing may be older than an upload that restores the pinned revision.
                self.forget(reference);
                Err(Error::OtherRevision {
                    pinned,
                    found: revision.fingerprint,
                })
            }
            _ => Ok(revision),
        }
    }

    /// Makes the next load list anew.
    pub(super) fn forget(&self, reference: &Reference) {
        self.lock().remove(&key(reference));
    }

    async fn listing(
        &self,
        reference: &Reference,
        limits: &Limits,
    ) -> Result<Arc<Vec<Entry>>, Error> {
        let slot = {
            let now = self.clock.monotonic();
            let mut slots = self.lock();
            slots.retain(|_, slot| {
                slot.try_lock().map_or(true, |entry| {
                    entry
                        .as_ref()
                        .is_none_or(|(since, _)| now.saturating_sub(*since) < self.ttl)
                        || Arc::strong_count(slot) > 1
                })
            });
            Arc::clone(slots.entry(key(reference)).or_default())
        };
        let mut entry = slot.lock().await;
        let now = self.clock.monotonic();
        if let Some((since, listing)) = &*entry
            && now.saturating_sub(*since) < self.ttl
        {
            return Ok(Arc::clone(listing));
        }
        let listing = reference.source.list(&reference.path, limits).await?;
        let listing = Arc::new(listing.entries);
        *entry = Some((now, Arc::clone(&listing)));
        Ok(listing)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(reference: &Reference) -> Key {
    (reference.source.uid().to_owned(), reference.root())
}

/// The entries that the reference wants; the listing itself, not a copy, where it wants them all.
fn filter(reference: &Reference, listing: &Arc<Vec<Entry>>) -> Result<Revision, Error> {
    let entries = if reference.selection.is_all() {
        Arc::clone(listing)
    } else {
        let wanted = |entry: &&Entry| reference.selection.matches(&entry.path);
        Arc::new(listing.iter().filter(wanted).cloned().collect())
    };
    if entries.is_empty() {
        return Err(Error::NothingSelected {
            path: Escaped(&reference.path).to_string(),
        });
    }
    Ok(Revision {
        fingerprint: fingerprint(&entries),
        total_bytes: entries
            .iter()
            .fold(0, |sum, entry| sum.saturating_add(entry.size)),
        entries,
    })
}
