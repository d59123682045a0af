//! Sources of mode `PodSecret`: one for each set of keys that pods bring, built when it is first asked for and remembered
//! while it is among the newest, so that pods with equal keys share connections and listings.
//!
//! Two sets of keys may see different objects in one place. So that they share no listing, no grant and no running fetch, a
//! source's uid is followed by a digest of its keys. What they read is stored once all the same: content has the name of
//! its bytes. Other keys, also newer ones of the same pod, read anew what others have read.

use std::sync::{Arc, Mutex, PoisonError};

use tonnage_cache::gate::Gate;
use tonnage_cache::source::Source;
use tonnage_cache::source::config::{Auth, SourceConfig, build};
use tonnage_cache::source::credentials::Keys;

use super::bound::Bound;
use super::recent::{Recent, digest, short};
use super::{Error, spec};
use crate::identity::Secrets;

/// What the digest of keys is for, so that it is no digest of anything else (BLAKE3, `derive_key`).
const CONTEXT: &str = "tonnage.dev 2026-01 keys of a pod";

/// Builds a source from the keys of pods.
#[derive(Debug)]
pub(super) struct Keyed {
    config: SourceConfig,
    gate: Arc<dyn Gate>,
    built: Mutex<Recent<Arc<dyn Source>>>,
}

impl Keyed {
    /// Sources of this configuration, which has no keys yet.
    pub(super) fn new(config: SourceConfig, gate: Arc<dyn Gate>) -> Self {
        Self {
            config,
            gate,
            built: Mutex::default(),
        }
    }

    /// The source with the keys among these secrets.
    pub(super) fn with(&self, name: &str, secrets: &Secrets) -> Result<Arc<dyn Source>, Error> {
        let keys = spec::keys(&self.config.url, secrets).map_err(|_| Error::Keys {
            name: name.to_owned(),
            wanted: spec::wanted_keys(&self.config.url),
        })?;
        let digest = digest_of(&keys);
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = built.find(&digest) {
            return Ok(source);
        }
        let mut config = self.config.clone();
        config.auth = Auth::Env;
        config.inline = Some(keys);
        let source = build(&config, Arc::clone(&self.gate)).map_err(|source| Error::Config {
            name: name.to_owned(),
            source,
        })?;
        let source = Bound::read_by(Bound::limited(source, config.limits), &short(digest));
        built.keep(digest, Arc::clone(&source));
        Ok(source)
    }
}

fn digest_of(keys: &Keys) -> [u8; 32] {
    let token = keys.token.as_deref().unwrap_or_default();
    digest(CONTEXT, &[&keys.id, &keys.secret, token])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::recent::REMEMBERED;
    use super::*;
    use tonnage_cache::error::Kind;
    use tonnage_cache::gate::OpenGate;

    fn keyed() -> Keyed {
        let config = SourceConfig {
            name: "models".to_owned(),
            url: "s3://bucket".to_owned(),
            ..SourceConfig::default()
        };
        Keyed::new(config, OpenGate::shared())
    }

    fn secrets(id: &str, secret: &str) -> Secrets {
        Secrets::new(HashMap::from([
            ("accessKeyId".to_owned(), id.to_owned()),
            ("secretAccessKey".to_owned(), secret.to_owned()),
        ]))
    }

    #[test]
    fn equal_keys_share_a_source_and_others_do_not() {
        let keyed = keyed();
        let first = keyed.with("models", &secrets("a", "canary-1")).unwrap();
        let again = keyed.with("models", &secrets("a", "canary-1")).unwrap();
        let other = keyed.with("models", &secrets("a", "canary-2")).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_ne!(first.uid(), other.uid());
        assert!(first.uid().starts_with("s3:https://bucket.s3."));
        assert_eq!(first.name(), "models");
        assert!(!format!("{keyed:?}").contains("canary"));
    }

    #[test]
    fn a_request_without_keys_is_told_which_to_bring() {
        let error = keyed().with("models", &Secrets::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert_eq!(
            error.to_string(),
            "source \"models\" takes the pod's own keys, and the request brings none: name a Secret with accessKeyId and secretAccessKey in the volume's nodePublishSecretRef"
        );
    }

    #[test]
    fn keys_that_nobody_uses_are_forgotten_first() {
        let keyed = keyed();
        let kept = keyed.with("models", &secrets("kept", "x")).unwrap();
        let lost = keyed.with("models", &secrets("lost", "x")).unwrap();
        for number in 0..REMEMBERED - 1 {
            keyed
                .with("models", &secrets(&number.to_string(), "x"))
                .unwrap();
            let still = keyed.with("models", &secrets("kept", "x")).unwrap();
            assert!(Arc::ptr_eq(&kept, &still));
        }
        let again = keyed.with("models", &secrets("lost", "x")).unwrap();
        assert!(!Arc::ptr_eq(&lost, &again));
        assert_eq!(lost.uid(), again.uid());
    }
}
