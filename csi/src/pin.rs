//! Pins: content that must not be evicted although no volume uses it, each under a name that people chose
//! (`base-model`) or that a mount made by hand implies (`mount:/mnt/llama`). A pin is a record in the store and,
//! in every process that owns the store, a lease; the lease is taken before anything may be evicted.

use std::sync::Arc;

use tonnage_cache::clock::{Clock as _, SystemClock, unix_millis};
use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tonnage_cache::path::Escaped;
use tonnage_cache::store::{self, Holder, Lease, Records, Store};

/// Where pins are recorded.
const RECORDS: &str = "pins";
const LONGEST_NAME: usize = 255;

/// One pin.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pin {
    /// What people call it.
    pub name: String,
    /// The content.
    pub digest: Digest,
    /// Since when, in milliseconds of the Unix epoch.
    pub since_millis: u64,
}

/// Why something cannot be pinned or let go.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is empty, too long or has control characters.
    #[error("{0} cannot name a pin: use 1 to 255 printable characters")]
    Name(String),
    /// The name already pins other content.
    #[error("{name} already pins {digest}")]
    Taken {
        /// The name, escaped.
        name: String,
        /// What it pins.
        digest: Digest,
    },
    /// Nothing with this manifest digest is stored.
    #[error("no content with manifest digest {0} is stored here")]
    Absent(Digest),
    /// No pin has this name.
    #[error("no pin is called {0}")]
    Unknown(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name(_) => Kind::Invalid,
            Self::Taken { .. } => Kind::Conflict,
            Self::Absent(_) | Self::Unknown(_) => Kind::NotFound,
            Self::Store(error) => error.kind(),
        }
    }
}

/// All pins, by name. Blocking; needs no lock on the store.
pub fn list(records: &Records) -> Result<Vec<Pin>, store::Error> {
    let mut pins = Vec::new();
    for name in records.list(RECORDS)? {
        if let Some(pin) = records.read::<Pin>(RECORDS, &name)? {
            pins.push(pin);
        }
    }
    pins.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pins)
}

/// Leases for all pins; to be taken right after the store is opened and kept as long as it is.
pub fn hold_all(store: &Arc<Store>) -> Result<Vec<Lease>, store::Error> {
    Ok(list(store.records())?
        .into_iter()
        .map(|pin| store.leases().hold(holder(&pin.name), pin.digest))
        .collect())
}

/// Records a pin; pinning the same content again is fine. The caller holds a lease until this returns, and the
/// returned one afterwards.
pub async fn add(store: &Arc<Store>, name: &str, digest: Digest) -> Result<Lease, Error> {
    check(name)?;
    let lease = store.leases().hold(holder(name), digest);
    if store.get_manifest(digest).await?.is_none() {
        return Err(Error::Absent(digest));
    }
    let record = record_name(name);
    match store.records().read::<Pin>(RECORDS, &record)? {
        Some(pin) if pin.digest == digest => return Ok(lease),
        Some(pin) => {
            return Err(Error::Taken {
                name: Escaped(name).to_string(),
                digest: pin.digest,
            });
        }
        None => {}
    }
    let pin = Pin {
        name: name.to_owned(),
        digest,
        since_millis: unix_millis(SystemClock::new().now()),
    };
    store.records().write(RECORDS, &record, &pin)?;
    Ok(lease)
}

/// Removes a pin's record and returns it; whoever keeps its lease lets go of it.
pub fn remove(store: &Arc<Store>, name: &str) -> Result<Pin, Error> {
    check(name)?;
    let record = record_name(name);
    let pin = store
        .records()
        .read::<Pin>(RECORDS, &record)?
        .ok_or_else(|| Error::Unknown(Escaped(name).to_string()))?;
    store.records().remove(RECORDS, &record)?;
    Ok(pin)
}

/// Who holds the lease of the pin with this name.
pub fn holder(name: &str) -> Holder {
    Holder::new(format!("pin:{name}"))
}

fn check(name: &str) -> Result<(), Error> {
    let printable =
        !name.is_empty() && name.len() <= LONGEST_NAME && !name.chars().any(char::is_control);
    if printable {
        Ok(())
    } else {
        Err(Error::Name(Escaped(name).to_string()))
    }
}

/// Names are people's; records are named by their hash.
fn record_name(name: &str) -> String {
    Digest::of(name.as_bytes()).to_hex()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_cache::manifest::Manifest;
    use tonnage_cache::store::{Config, Env};

    fn open(root: &std::path::Path) -> Arc<Store> {
        Store::open(Config::new(root), Env::real()).unwrap()
    }

    #[tokio::test]
    async fn a_pin_outlives_the_process_that_made_it() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let digest = store
            .put_manifest(&Manifest::new(Vec::new()).unwrap())
            .await
            .unwrap();
        drop(add(&store, "mount:/mnt/a b", digest).await.unwrap());
        drop(store);
        let store = open(root.path());
        let leases = hold_all(&store).unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!(store.leases().holders(&digest), [holder("mount:/mnt/a b")]);
        assert_eq!(remove(&store, "mount:/mnt/a b").unwrap().digest, digest);
        assert!(list(store.records()).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_name_pins_one_content_and_only_what_is_stored() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let digest = store
            .put_manifest(&Manifest::new(Vec::new()).unwrap())
            .await
            .unwrap();
        let absent = Digest::of(b"absent");
        assert!(matches!(
            add(&store, "a", absent).await,
            Err(Error::Absent(_))
        ));
        let _first = add(&store, "a", digest).await.unwrap();
        let _again = add(&store, "a", digest).await.unwrap();
        assert_eq!(list(store.records()).unwrap().len(), 1);
        for name in ["", "a\nb", &"x".repeat(256)] {
            assert!(
                matches!(add(&store, name, digest).await, Err(Error::Name(_))),
                "{name:?}"
            );
        }
        assert!(matches!(remove(&store, "b"), Err(Error::Unknown(_))));
    }
}
