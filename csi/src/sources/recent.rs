//! What was made for the newest of many askers, by a digest of who they are. The one that was not used for longest is forgotten
//! when they become too many.

use std::collections::HashMap;

/// Most that are remembered.
pub(super) const REMEMBERED: usize = 256;

/// The newest, each with the number of the request that used it last.
#[derive(Debug)]
pub(super) struct Recent<T> {
    made: HashMap<[u8; 32], (u64, T)>,
    requests: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            made: HashMap::new(),
            requests: 0,
        }
    }
}

impl<T: Clone> Recent<T> {
    /// What is known of an asker, who has now used it last.
    pub(super) fn find(&mut self, asker: &[u8; 32]) -> Option<T> {
        self.requests = self.requests.saturating_add(1);
        let (used, made) = self.made.get_mut(asker)?;
        *used = self.requests;
        Some(made.clone())
    }

    /// Adds something, and forgets what was not used for longest if there is too much.
    pub(super) fn keep(&mut self, asker: [u8; 32], made: T) {
        self.made.insert(asker, (self.requests, made));
        if self.made.len() > REMEMBERED {
            let oldest = self.made.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(asker, _)| *asker) {
                self.made.remove(&oldest);
            }
        }
    }
}

/// A digest of several texts (BLAKE3, `derive_key`: `context` says what for, so that it is no digest of anything else).
pub(super) fn digest(context: &str, parts: &[&str]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A digest as part of a source's uid.
pub(super) fn short(digest: [u8; 32]) -> String {
    let hex = blake3::Hash::from_bytes(digest).to_hex();
    hex.get(..32).unwrap_or(&hex).to_owned()
}
