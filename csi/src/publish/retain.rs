//! `retain: "true"`: content that stays when its volumes are gone, as a pin `retain:<source>/<path>` which `tonnage cache
//! ls` shows and `unpin` lets go. A newer revision takes the older one's place. All retained content together may have half
//! of the cache's filesystem: beyond that the volume is published all the same, and its content is evicted like any other.

use std::sync::Arc;

use tonnage_cache::cache::Loaded;
use tonnage_cache::error::{IoContext, chain};

use super::{Admitted, Error, Publisher};
use crate::govern::quotas;
use crate::pin;
use crate::upkeep::Request;

const PREFIX: &str = "retain:";

impl Publisher {
    /// Keeps what was published, if that is wanted and there is room. A volume is never refused for this.
    pub(super) async fn retain(self: &Arc<Self>, admitted: &Admitted, loaded: &Loaded) {
        let wanted = &admitted.request.attributes;
        if !wanted.retain {
            return;
        }
        let place = quotas::place(&wanted.source, &wanted.path);
        match self.keep(format!("{PREFIX}{place}"), loaded).await {
            Ok(true) => self.note(admitted, place).await,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), digest = %loaded.manifest_digest, "content is not retained");
            }
        }
    }

    /// Notes for whom it is kept: that namespace's quota counts it.
    async fn note(self: &Arc<Self>, admitted: &Admitted, place: String) {
        let record = self.published.find(admitted.target.relative());
        let namespace = record.and_then(|record| record.namespace);
        let noted = self.blocking(move |this| {
            let store = this.parts.cache.store();
            let quotas = &this.parts.quotas;
            Ok(quotas.retains(store, &place, namespace.as_deref())?)
        });
        if let Err(error) = noted.await {
            tracing::warn!(error = %chain(&error), "it is not noted for whom content is retained");
        }
    }

    /// Whether there is room for it.
    async fn keep(self: &Arc<Self>, name: String, loaded: &Loaded) -> Result<bool, Error> {
        let digest = loaded.manifest_digest;
        let known = self
            .blocking(|this| Ok(pin::list(this.parts.cache.store().records())?))
            .await?;
        let own = known.iter().find(|pin| pin.name == name);
        if own.is_some_and(|pin| pin.digest == digest) {
            return Ok(true);
        }
        let mut bytes = loaded.report.bytes;
        for other in known
            .iter()
            .filter(|pin| pin.name.starts_with(PREFIX) && pin.name != name)
        {
            let manifest = self.parts.cache.store().get_manifest(other.digest).await?;
            bytes = bytes.saturating_add(manifest.map_or(0, |manifest| manifest.total_bytes()));
        }
        let room = self.blocking(Self::room_to_retain).await?;
        if bytes > room {
            tracing::warn!(%digest, bytes, room, "content is not retained: retained content may have half of the cache");
            return Ok(false);
        }
        let upkeep = &self.parts.upkeep;
        if own.is_some() {
            upkeep
                .perform(Request::Unpin { name: name.clone() })
                .await?;
        }
        upkeep.perform(Request::Pin { name, digest }).await?;
        Ok(true)
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
