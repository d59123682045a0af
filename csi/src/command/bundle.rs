//! `tonnage export` and `tonnage import`: content out of a cache as a bundle, and into another.

use std::path::Path;

use tokio_util::sync::CancellationToken;
use tonnage_cache::digest::Digest;
use tonnage_csi::bundle::{self, Error, Watch};

use super::{inventory, open, upkeep};
use crate::args::cache::{Export, Import};
use crate::config::Config;
use crate::console::Console;
use crate::exit::{Code, Failure};
use crate::progress;
use tonnage_csi::size::ByteSize;

/// What `export --json` prints, and `import --json` in a list.
#[derive(Debug, serde::Serialize)]
struct Moved<'a> {
    digest: Digest,
    files: usize,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<&'a Path>,
}

pub(super) async fn export(
    args: Export,
    config: &Config,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Export {
        digest,
        bundle,
        place,
        json,
    } = args;
    let root = place.root.clone().directory(config)?;
    inventory::records(&root)?;
    let digest = inventory::find(&root, &digest)?;
    let owned = open(place, config).await?;
    let watch = watch(stop);
    let work = bundle::export(owned.cache.store(), digest, &bundle, watch.clone());
    let manifest = progress::watch(console, &watch.progress, work)
        .await
        .map_err(|error| failed("export", &bundle, &error))?;
    let (files, bytes) = (manifest.files().len(), manifest.total_bytes());
    if json {
        console.json(&Moved {
            digest,
            files,
            bytes,
            bundle: Some(&bundle),
            view: None,
        })?;
    } else {
        console.remark(format!("{} in {files} files", ByteSize(bytes)));
        console.result(bundle.display())?;
    }
    Ok(Code::Done)
}

pub(super) async fn import(
    args: Import,
    config: &Config,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Import {
        bundle,
        mut place,
        pin,
        json,
    } = args;
    if place.seeds.is_empty() {
        place.seeds.clone_from(&config.seeds);
    }
    place.seeds.push(bundle.clone());
    let owned = open(place, config).await?;
    let watch = watch(stop);
    let work = bundle::import(owned.cache.store(), &bundle, watch.clone());
    let imported = progress::watch(console, &watch.progress, work)
        .await
        .map_err(|error| failed("import", &bundle, &error))?;
    if let Some(name) = pin {
        for (index, content) in imported.iter().enumerate() {
            let name = if index == 0 {
                name.clone()
            } else {
                format!("{name}-{}", index + 1)
            };
            upkeep::pin_here(&owned.upkeep, &name, content.digest).await?;
        }
    }
    owned.cache.store().sync_now().await;
    if json {
        let moved: Vec<Moved<'_>> = imported
            .iter()
            .map(|content| Moved {
                digest: content.digest,
                files: content.manifest.files().len(),
                bytes: content.manifest.total_bytes(),
                bundle: None,
                view: Some(&content.view),
            })
            .collect();
        console.json(&moved)?;
    } else {
        for content in &imported {
            console.result(content.view.display())?;
        }
    }
    Ok(Code::Done)
}

fn watch(stop: &CancellationToken) -> Watch {
    Watch {
        cancel: stop.clone(),
        ..Watch::default()
    }
}

fn failed(verb: &str, bundle: &Path, error: &Error) -> Failure {
    if matches!(error, Error::Cancelled) {
        return Failure::stopped(Code::Interrupted);
    }
    Failure::of(
        format!("{verb} the bundle {}", bundle.display()),
        error.kind(),
        error,
    )
}
