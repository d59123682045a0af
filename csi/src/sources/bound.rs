//! A source as an object of the API server has it: limits of its own for listings, and an identity of its own where it is
//! read with keys that others do not have. Everything else is the source's.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tonnage_cache::source::config::LimitsConfig;
use tonnage_cache::source::{Body, Entry, Error, Limits, Listing, Source};

/// A source with something of its own.
#[derive(Debug)]
pub(super) struct Bound {
    inner: Arc<dyn Source>,
    uid: String,
    limits: LimitsConfig,
}

impl Bound {
    /// The source with these limits of a listing; itself if there are none.
    pub(super) fn limited(inner: Arc<dyn Source>, limits: LimitsConfig) -> Arc<dyn Source> {
        if limits == LimitsConfig::default() {
            return inner;
        }
        let uid = inner.uid().to_owned();
        Arc::new(Self { inner, uid, limits })
    }

    /// The source as those see it who have the keys of which `reader` is a digest.
    pub(super) fn read_by(inner: Arc<dyn Source>, reader: &str) -> Arc<dyn Source> {
        let uid = format!("{}#{reader}", inner.uid());
        Arc::new(Self {
            inner,
            uid,
            limits: LimitsConfig::default(),
        })
    }
}

impl Source for Bound {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn base(&self) -> &str {
        self.inner.base()
    }

    fn on_behalf_of(&self, load: &str) -> Option<Arc<dyn Source>> {
        let inner = self.inner.on_behalf_of(load)?;
        Some(Arc::new(Self {
            inner,
            uid: self.uid.clone(),
            limits: self.limits,
        }))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, Error>> {
        Box::pin(async move {
            let limits = tightened(&self.limits, limits);
            self.inner.list(prefix, &limits).await
        })
    }

    fn open<'a>(
        &'a self,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, Error>> {
        self.inner.open(entry, range)
    }
}

/// The source's own limits stand in for the usual ones. A caller that wants less than usual gets less.
fn tightened(own: &LimitsConfig, asked: &Limits) -> Limits {
    let usual = Limits::default();
    let pick = |own: Option<u64>, asked: u64, usual: u64| match own {
        Some(own) if asked >= usual => own,
        Some(own) => own.min(asked),
        None => asked,
    };
    let time = own.listing_seconds.map(Duration::from_secs);
    Limits {
        objects: pick(own.objects, asked.objects, usual.objects),
        bytes: pick(own.bytes, asked.bytes, usual.bytes),
        pages: pick(own.pages, asked.pages, usual.pages),
        listing_time: match time {
            Some(own) if asked.listing_time >= usual.listing_time => own,
            Some(own) => own.min(asked.listing_time),
            None => asked.listing_time,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_s_limits_replace_the_usual_ones_and_never_widen_a_narrow_question() {
        let usual = Limits::default();
        let own = LimitsConfig {
            objects: Some(2_000_000),
            bytes: Some(7),
            listing_seconds: Some(600),
            ..LimitsConfig::default()
        };
        let limits = tightened(&own, &usual);
        assert_eq!(limits.objects, 2_000_000);
        assert_eq!(limits.bytes, 7);
        assert_eq!(limits.pages, usual.pages);
        assert_eq!(limits.listing_time, Duration::from_mins(10));
        let narrow = Limits {
            objects: 1,
            listing_time: Duration::from_secs(3),
            ..usual
        };
        let limits = tightened(&own, &narrow);
        assert_eq!(limits.objects, 1);
        assert_eq!(limits.listing_time, Duration::from_secs(3));
        assert_eq!(tightened(&LimitsConfig::default(), &narrow), narrow);
    }
}
