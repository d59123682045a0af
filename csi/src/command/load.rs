//! `tonnage pull` and `tonnage resolve`: from words to a verified view, or to the pin of what is there.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonnage_cache::cache::{Cache, LoadOptions, Loaded, Reference};
use tonnage_cache::clock::{Clock as _, SystemClock, unix_millis};
use tonnage_cache::digest::Digest;
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::fetch::PageCache;
use tonnage_cache::report::{Phase, Report};
use tonnage_cache::source::Limits;
use tonnage_cache::store::Holder;
use tonnage_csi::loads::{Journal, Load};

use super::open;
use crate::args::load::{Pull, Resolve};
use crate::config::Config;
use crate::console::Console;
use crate::exit::{Code, Failure};
use crate::progress;
use tonnage_csi::size::{ByteSize, Rate, Took};

/// What `pull --json` and `mount --json` print.
#[derive(Debug, serde::Serialize)]
pub(super) struct Outcome<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a Path>,
    view: &'a Path,
    revision: String,
    digest: String,
    seconds: f64,
    report: &'a Report,
}

impl<'a> Outcome<'a> {
    pub(super) fn of(loaded: &'a Loaded) -> Self {
        Self {
            target: None,
            view: &loaded.view,
            revision: loaded.fingerprint.to_hex(),
            digest: loaded.manifest_digest.to_hex(),
            seconds: loaded.report.total().as_secs_f64(),
            report: &loaded.report,
        }
    }

    pub(super) fn mounted_on(self, target: &'a Path) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }
}

pub(super) async fn pull(
    args: Pull,
    config: &Config,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Pull {
        wanted,
        pins,
        place,
        page_cache,
        pin,
        json,
    } = args;
    let reference = wanted.reference(Some(pins), config)?;
    let owned = open(place, config).await?;
    let holder = Holder::new(format!("pull:{}", std::process::id()));
    let loaded = load(
        &owned.cache,
        &reference,
        options(holder, page_cache.into(), stop),
        console,
    )
    .await?;
    remember(&owned.cache, &reference, &loaded);
    if let Some(name) = pin {
        super::upkeep::pin_here(&owned.upkeep, &name, loaded.manifest_digest).await?;
    }
    owned.cache.store().sync_now().await;
    if json {
        console.json(&Outcome::of(&loaded))?;
    } else {
        console.result(loaded.view.display())?;
    }
    Ok(Code::Done)
}

/// How this program loads: it pays for itself, and a signal stops it.
pub(super) fn options(
    holder: Holder,
    page_cache: PageCache,
    stop: &CancellationToken,
) -> LoadOptions {
    let mut options = LoadOptions::new(holder);
    options.page_cache = page_cache;
    options.cancel = stop.clone();
    options
}

/// Loads with a bar, and says at the end what it took.
pub(super) async fn load(
    cache: &Arc<Cache>,
    reference: &Reference,
    options: LoadOptions,
    console: &Console,
) -> Result<Loaded, Failure> {
    let work = cache.load(reference, &options);
    let loaded = progress::watch(console, &options.progress, work)
        .await
        .map_err(|error| {
            if options.cancel.is_cancelled() {
                return Failure::stopped(Code::Interrupted);
            }
            failed(reference, error.kind(), &error)
        })?;
    console.remark(sentence(&loaded.report));
    Ok(loaded)
}

/// Keeps the load's report for `tonnage loads`.
pub(super) fn remember(cache: &Cache, reference: &Reference, loaded: &Loaded) {
    let load = Load {
        ended_millis: unix_millis(SystemClock::new().now()),
        volume: String::new(),
        pod: None,
        source: reference.source.name().to_owned(),
        path: reference.path.clone(),
        revision: loaded.fingerprint,
        digest: loaded.manifest_digest,
        report: loaded.report.clone(),
    };
    if let Err(error) = Journal::new(cache.store().records().clone()).add(&load) {
        tracing::warn!(error = %chain(&error), "the load's report is not kept");
    }
}

fn failed(reference: &Reference, kind: Kind, error: &(dyn std::error::Error + 'static)) -> Failure {
    let failure = Failure::of(format!("load {}", shown(reference)), kind, error);
    match kind {
        Kind::Corrupt => {
            failure.or_advise("nothing was published: compare the source with the digest you trust")
        }
        Kind::NotFound if reference.source.name().starts_with("file:") => {
            failure.or_advise("check the path")
        }
        Kind::NotFound => failure.or_advise("check the bucket and the path"),
        Kind::Denied => failure.or_advise("check what these credentials may list and read"),
        Kind::Invalid
        | Kind::Unauthenticated
        | Kind::Conflict
        | Kind::Busy
        | Kind::NoSpace
        | Kind::Exhausted
        | Kind::Transient
        | Kind::Internal => failure,
    }
}

fn shown(reference: &Reference) -> String {
    let name = reference.source.name();
    let separator = if reference.path.is_empty() || name.ends_with('/') {
        ""
    } else {
        "/"
    };
    format!("{name}{separator}{}", reference.path.escape_default())
}

/// `1.0 GiB in 4 files in 2.91 s: 1.0 GiB fetched at 0.37 GB/s, …`, for the person at the terminal.
pub(super) fn sentence(report: &Report) -> String {
    let mut parts = vec![format!(
        "{} in {} files in {}: {}",
        ByteSize(report.bytes),
        report.files,
        Took(report.total()),
        origins(report),
    )];
    let mut shown = Vec::new();
    for (phase, _) in &report.phases {
        let time = report.phase(*phase);
        if time.as_micros() >= 100 && !shown.contains(phase) {
            parts.push(format!("{} {}", phase.name().replace('_', " "), Took(time)));
        }
        shown.push(*phase);
    }
    parts.join(", ")
}

fn origins(report: &Report) -> String {
    let origins = &report.origins;
    let time = report
        .phase(Phase::FirstByte)
        .saturating_add(report.phase(Phase::Transfer));
    let fetched = format!(
        "fetched at {}",
        Rate {
            bytes: origins.source,
            time
        }
    );
    let named = [
        (origins.source, fetched.as_str()),
        (origins.cached, "cached"),
        (origins.unchanged, "unchanged"),
        (origins.resumed, "resumed"),
        (origins.dedup, "of it stored already"),
        (origins.retry, "fetched again"),
        (origins.hedge, "hedged"),
    ];
    let parts: Vec<String> = named
        .iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, words)| format!("{} {words}", ByteSize(*bytes)))
        .collect();
    if parts.is_empty() {
        "nothing to fetch".to_owned()
    } else {
        parts.join(", ")
    }
}

#[derive(Debug, serde::Serialize)]
struct Resolved {
    revision: Digest,
    files: usize,
    bytes: u64,
}

pub(super) async fn resolve(
    args: Resolve,
    config: &Config,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Resolve { wanted, json } = args;
    let reference = wanted.reference(None, config)?;
    let limits = Limits::default();
    let listing = until(stop, reference.source.list(&reference.path, &limits))
        .await?
        .and_then(|listing| reference.selection.apply(listing))
        .map_err(|error| failed(&reference, error.kind(), &error))?;
    let resolved = Resolved {
        revision: listing.fingerprint(),
        files: listing.entries.len(),
        bytes: listing.total_bytes(),
    };
    if json {
        console.json(&resolved)?;
    } else {
        console.remark(format!(
            "{} in {} files",
            ByteSize(resolved.bytes),
            resolved.files
        ));
        console.result(resolved.revision)?;
    }
    Ok(Code::Done)
}

async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        outcome = work => Ok(outcome),
        () = stop.cancelled() => Err(Failure::stopped(Code::Interrupted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_sentence_names_bytes_by_origin_and_time_by_phase() {
        let mut report = Report {
            files: 4,
            bytes: 1 << 30,
            ..Report::default()
        };
        report.origins.source = 1 << 30;
        report.add_phase(Phase::Resolve, Duration::from_millis(10));
        report.add_phase(Phase::Transfer, Duration::from_millis(990));
        report.add_phase(Phase::View, Duration::from_micros(3));
        assert_eq!(
            sentence(&report),
            "1.0 GiB in 4 files in 1.00 s: 1.0 GiB fetched at 1.08 GB/s, resolve 10 ms, transfer 990 ms"
        );
    }
}
