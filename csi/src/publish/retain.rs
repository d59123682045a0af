//! `retain: "true"`: content that stays when its volumes are gone, as a pin `retain:<source>/<path>` which `tonnage cache
//! ls` shows and `unpin` lets go. A newer revision takes the older one's place. All retained content together may have half
//! of the cache's filesystem: beyond that the volume is published all the same, and its content is evicted like any other.

use tonnage_cache::cache::Loaded;
use tonnage_cache::error::{IoContext, chain};

use super::{Admitted, Error, Publisher};
use crate::pin;
use crate::upkeep::Request;

const PREFIX: &str = "retain:";

impl Publisher {
    /// Keeps what was published, if that is wanted and there is room. A volume is never refused for this.
    pub(super) async fn retain(self: &std::sync::Arc<Self>, admitted: &Admitted, loaded: &Loaded) {
        let wanted = &admitted.request.attributes;
        if !wanted.retain {
            return;
        }
        let name = format!("{PREFIX}{}/{}", wanted.source, wanted.path);
        if let Err(error) = self.keep(name, loaded).await {
            tracing::warn!(error = %chain(&error), digest = %loaded.manifest_digest, "content is not retained");
        }
    }

    async fn keep(self: &std::sync::Arc<Self>, name: String, loaded: &Loaded) -> Result<(), Error> {
        let digest = loaded.manifest_digest;
        let known = self
            .blocking(|this| Ok(pin::list(this.parts.cache.store().records())?))
            .await?;
        let own = known.iter().find(|pin| pin.name == name);
        if own.is_some_and(|pin| pin.digest == digest) {
            return Ok(());
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
            return Ok(());
        }
        let upkeep = &self.parts.upkeep;
        if own.is_some() {
            upkeep
                .perform(Request::Unpin { name: name.clone() })
                .await?;
        }
        upkeep.perform(Request::Pin { name, digest }).await?;
        Ok(())
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
