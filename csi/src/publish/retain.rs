//! `retain: "true"`: content that stays when its volumes are gone, as a pin `retain:<place>` which `tonnage cache ls` shows and
//! `unpin` lets go. Each namespace has its own, one for each source, path and selection that its volumes name ([`quotas::place_of`]):
//! nobody's content goes because others want something else of the same path, and what a namespace loads later takes the place of
//! what it had, whichever revision its volumes name. Pins of a version before, which namespaces shared, go when the last of those
//! that they are noted for has its own; one that is noted for nobody stays.
//!
//! All retained content together may have half of the cache's filesystem, what several retain being there once, and a namespace may
//! have 64 pins: beyond that the volume is published all the same, and its content is evicted like any other.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonnage_cache::cache::Loaded;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::{IoContext, chain};

use super::{Admitted, Error, Parts, Publisher};
use crate::govern::quotas;
use crate::pin::{self, Pin};
use crate::upkeep::Request;

const PREFIX: &str = "retain:";
/// Most pins of a namespace.
const MOST: usize = 64;

/// What is to be kept, and for whom.
struct Wish {
    namespace: Option<String>,
    place: String,
    /// The place that namespaces shared before each had its own.
    shared: String,
}

impl Wish {
    fn name(&self) -> String {
        format!("{PREFIX}{}", self.place)
    }

    fn shared_name(&self) -> String {
        format!("{PREFIX}{}", self.shared)
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

impl Publisher {
    /// Keeps what was published, if that is wanted and there is room. A volume is never refused for this.
    pub(super) async fn retain(self: &Arc<Self>, admitted: &Admitted, loaded: &Loaded) {
        let wanted = &admitted.request.attributes;
        if !wanted.retain {
            return;
        }
        let record = self.published.find(admitted.target.relative());
        let namespace = record.and_then(|record| record.namespace);
        let wish = Wish {
            place: quotas::place_of(namespace.as_deref().unwrap_or_default(), &admitted.identity),
            namespace,
            shared: quotas::place(&wanted.source, &wanted.path),
        };
        let _turn = self.retaining.lock().await;
        let pins = match self.keep(&wish, loaded).await {
            Ok(Some(pins)) => pins,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %chain(&error), digest = %loaded.manifest_digest, "content is not retained");
                return;
            }
        };
        if let Err(error) = self.note(wish, &pins).await {
            tracing::warn!(error = %chain(&error), "it is not noted for whom content is retained");
        }
    }

    /// Notes for whom it is kept: that namespace's quota counts it. What it shared before is left to the others.
    async fn note(self: &Arc<Self>, wish: Wish, pins: &[Pin]) -> Result<(), Error> {
        let shared = wish.shared_name();
        let was_shared = pins.iter().any(|pin| pin.name == shared);
        let noted = self.blocking(move |this| {
            let store = this.parts.cache.store();
            let quotas = &this.parts.quotas;
            let namespace = wish.namespace.as_deref();
            quotas.retains(store, &wish.place, namespace)?;
            Ok(was_shared && quotas.leaves(store, &wish.shared, namespace)?)
        });
        if noted.await? {
            let unpin = Request::Unpin { name: shared };
            self.parts.upkeep.perform(unpin).await?;
        }
        Ok(())
    }

    /// The pins that there were before; nothing if there is no room.
    async fn keep(
        self: &Arc<Self>,
        wish: &Wish,
        loaded: &Loaded,
    ) -> Result<Option<Vec<Pin>>, Error> {
        let (name, digest) = (wish.name(), loaded.manifest_digest);
        let known = self
            .blocking(|this| Ok(pin::list(this.parts.cache.store().records())?))
            .await?;
        let own = known.iter().find(|pin| pin.name == name);
        if own.is_some_and(|pin| pin.digest == digest) {
            return Ok(Some(known));
        }
        if own.is_none() && count(&known, wish) >= MOST {
            tracing::warn!(%digest, namespace = wish.namespace(), most = MOST, "content is not retained: the namespace has as many pins on this node as it may have; let some go with tonnage cache unpin");
            return Ok(None);
        }
        let mut replaced = vec![name.clone()];
        if self.frees_shared(wish, &known).await? {
            replaced.push(wish.shared_name());
        }
        let mut bytes = loaded.report.bytes;
        for other in others(&known, &replaced, digest) {
            bytes = bytes.saturating_add(self.bytes_of(other).await?);
        }
        let room = self.blocking(Self::room_to_retain).await?;
        if bytes > room {
            tracing::warn!(%digest, bytes, room, "content is not retained: retained content may have half of the cache");
            return Ok(None);
        }
        let upkeep = &self.parts.upkeep;
        if own.is_some() {
            upkeep
                .perform(Request::Unpin { name: name.clone() })
                .await?;
        }
        upkeep.perform(Request::Pin { name, digest }).await?;
        Ok(Some(known))
    }

    /// Whether the pin that namespaces shared goes when this one has its own.
    async fn frees_shared(self: &Arc<Self>, wish: &Wish, known: &[Pin]) -> Result<bool, Error> {
        let shared = wish.shared_name();
        if !known.iter().any(|pin| pin.name == shared) {
            return Ok(false);
        }
        let (place, namespace) = (wish.shared.clone(), wish.namespace.clone());
        let asked = self.blocking(move |this| {
            let Parts { cache, quotas, .. } = &this.parts;
            Ok(quotas.would_leave(cache.store(), &place, namespace.as_deref())?)
        });
        asked.await
    }

    /// Bytes of other retained content. Manifests are large, and others wait: one is read only where nobody knows.
    async fn bytes_of(&self, manifest: Digest) -> Result<u64, Error> {
        if let Some(bytes) = self.parts.quotas.bytes_of(&manifest) {
            return Ok(bytes);
        }
        let manifest = self.parts.cache.store().get_manifest(manifest).await?;
        Ok(manifest.map_or(0, |manifest| manifest.total_bytes()))
    }

    fn room_to_retain(&self) -> Result<u64, Error> {
        let store = self.parts.cache.store();
        let facts = rustix::fs::statvfs(store.root()).at("measure", store.root())?;
        let filesystem = facts.f_blocks.saturating_mul(facts.f_frsize);
        Ok(store
            .config()
            .max_bytes
            .unwrap_or(filesystem)
            .min(filesystem)
            / 2)
    }
}

/// How many pins a namespace has.
fn count(known: &[Pin], wish: &Wish) -> usize {
    let is_its = |pin: &&Pin| {
        let place = pin.name.strip_prefix(PREFIX);
        place.is_some_and(|place| quotas::is_of(place, wish.namespace()))
    };
    known.iter().filter(is_its).count()
}

/// What else is retained, each content once; without the pins that this takes the place of.
fn others(known: &[Pin], replaced: &[String], digest: Digest) -> BTreeSet<Digest> {
    let others = known
        .iter()
        .filter(|pin| pin.name.starts_with(PREFIX) && !replaced.contains(&pin.name));
    let others = others.map(|pin| pin.digest);
    others.filter(|other| *other != digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(name: &str, content: &[u8]) -> Pin {
        Pin {
            name: name.to_owned(),
            digest: Digest::of(content),
            since_millis: 0,
        }
    }

    #[test]
    fn content_that_several_retain_is_there_once_and_what_is_replaced_is_not() {
        let known = [
            pin("retain:models/llama@team-a.00", b"own, older"),
            pin("retain:models/llama", b"shared"),
            pin("retain:models/llama@team-b.11", b"new"),
            pin("retain:models/qwen@team-b.22", b"qwen"),
            pin("retain:models/qwen@team-c.33", b"qwen"),
            pin("by-hand", b"other"),
        ];
        let own = "retain:models/llama@team-a.00".to_owned();
        let shared = "retain:models/llama".to_owned();
        let (new, qwen) = (Digest::of(b"new"), Digest::of(b"qwen"));
        // Others have what was shared still.
        assert_eq!(
            others(&known, std::slice::from_ref(&own), new),
            BTreeSet::from([Digest::of(b"shared"), qwen])
        );
        assert_eq!(others(&known, &[own, shared], new), BTreeSet::from([qwen]));
    }

    #[test]
    fn pins_count_for_the_namespace_that_their_place_names() {
        let known = [
            pin("retain:models/llama@team-a.0123456789abcdef", b"1"),
            pin("retain:models/qwen@team-a.0123456789abcdef", b"1"),
            pin("retain:models/llama@team-b.0123456789abcdef", b"1"),
            pin("retain:models/llama", b"1"),
            pin("models/llama@team-a.0123456789abcdef", b"by hand"),
        ];
        let wish = |namespace: &str| Wish {
            namespace: Some(namespace.to_owned()),
            place: String::new(),
            shared: String::new(),
        };
        assert_eq!(count(&known, &wish("team-a")), 2);
        assert_eq!(count(&known, &wish("team-b")), 1);
        assert_eq!(count(&known, &wish("team")), 0);
    }
}
