//! `tonnage cache ls` and `loads`: what lies in a cache, read beside whoever owns it. Takes no lock
//! and changes nothing; what disappears while it is looked at is simply not shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tonnage_cache::digest::Digest;
use tonnage_cache::disk::OsDisk;
use tonnage_cache::manifest::Manifest;
use tonnage_cache::store::{Holder, Layout, Lease, Records, Store};
use tonnage_csi::{loads, pin};

use super::load::sentence;
use crate::args::cache::{Listed, Loads};
use crate::config::Config;
use crate::console::Console;
use crate::exit::{Code, Failure};
use tonnage_csi::size::ByteSize;

/// Shortest prefix of a digest that names content.
const SHORTEST_PREFIX: usize = 6;
/// How much of a digest a table shows.
const SHOWN_DIGITS: usize = 16;

/// One manifest of the cache.
#[derive(Debug, serde::Serialize)]
pub(super) struct Content {
    digest: Digest,
    files: usize,
    pub(super) bytes: u64,
    views: Vec<PathBuf>,
    kept_by: Vec<String>,
    from: Vec<String>,
}

/// Opens a cache's records for reading, if there is a cache.
pub(super) fn records(root: &Path) -> Result<Records, Failure> {
    let layout = Layout::new(root);
    match std::fs::metadata(layout.top("manifests")) {
        Ok(_) => Ok(Records::new(Arc::new(OsDisk::new()), layout)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(
            Code::Missing,
            format!("look into {}", root.display()),
            "there is no cache",
        )
        .or_advise("name one with --cache-dir, or fill it with `tonnage pull`")),
        Err(error) => Err(Failure::io(format!("look into {}", root.display()), &error)),
    }
}

pub(super) fn ls(args: Listed, config: &Config, console: &Console) -> Result<Code, Failure> {
    let Listed { root, json } = args;
    let root = root.directory(config)?;
    let contents = contents(&root, &records(&root)?)?;
    if json {
        console.json(&contents)?;
        return Ok(Code::Done);
    }
    let mut rows = Vec::new();
    for content in &contents {
        let digest = content.digest.to_hex();
        rows.push(vec![
            digest.get(..SHOWN_DIGITS).unwrap_or(&digest).to_owned(),
            format!("{:>10}", ByteSize(content.bytes)),
            format!("{:>6}", content.files),
            if content.kept_by.is_empty() {
                "-".to_owned()
            } else {
                content.kept_by.join(",")
            },
            content.from.join(" "),
        ]);
    }
    if !rows.is_empty() {
        rows.insert(
            0,
            ["DIGEST", "      SIZE", " FILES", "KEPT BY", "FROM"]
                .map(str::to_owned)
                .to_vec(),
        );
    }
    console.table(&rows)?;
    Ok(Code::Done)
}

/// Everything that is stored.
pub(super) fn contents(root: &Path, records: &Records) -> Result<Vec<Content>, Failure> {
    let views = views(root);
    let keepers = keepers(records)?;
    let origins = origins(records)?;
    let mut contents = Vec::new();
    for digest in manifests(root)? {
        let Some(manifest) = read_manifest(root, &digest) else {
            continue;
        };
        contents.push(Content {
            files: manifest.files().len(),
            bytes: manifest.total_bytes(),
            views: views.get(&digest).cloned().unwrap_or_default(),
            kept_by: keepers.get(&digest).cloned().unwrap_or_default(),
            from: origins.get(&digest).cloned().unwrap_or_default(),
            digest,
        });
    }
    Ok(contents)
}

/// The content that a digest or the beginning of one names.
pub(super) fn find(root: &Path, text: &str) -> Result<Digest, Failure> {
    if let Ok(digest) = text.parse() {
        return Ok(digest);
    }
    let what = || format!("find the content {}", text.escape_default());
    let plain = text.len() >= SHORTEST_PREFIX && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !plain {
        return Err(Failure::new(
            Code::Usage,
            what(),
            "a digest is 64 hexadecimal digits, or its first 6 or more",
        ));
    }
    let wanted = text.to_ascii_lowercase();
    let mut found = manifests(root)?
        .into_iter()
        .filter(|digest| digest.to_hex().starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(digest), None) => Ok(digest),
        (None, _) => Err(Failure::new(
            Code::Missing,
            what(),
            "nothing stored here begins like that",
        )
        .or_advise("see `tonnage cache ls`")),
        (Some(_), Some(_)) => {
            Err(
                Failure::new(Code::Usage, what(), "more than one begins like that")
                    .or_advise("write more of it"),
            )
        }
    }
}

fn manifests(root: &Path) -> Result<Vec<Digest>, Failure> {
    let directory = root.join("manifests");
    let entries = std::fs::read_dir(&directory)
        .map_err(|error| Failure::io(format!("list {}", directory.display()), &error))?;
    let mut digests: Vec<Digest> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    digests.sort();
    Ok(digests)
}

fn read_manifest(root: &Path, digest: &Digest) -> Option<Manifest> {
    let bytes = std::fs::read(root.join("manifests").join(digest.to_hex())).ok()?;
    (Digest::of(&bytes) == *digest).then_some(())?;
    Manifest::decode(&bytes).ok()
}

fn views(root: &Path) -> BTreeMap<Digest, Vec<PathBuf>> {
    let mut found: BTreeMap<Digest, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("views"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let digest = name
            .to_str()
            .and_then(|name| name.split('.').next()?.parse().ok());
        if let Some(digest) = digest {
            found.entry(digest).or_default().push(entry.path());
        }
    }
    for paths in found.values_mut() {
        paths.sort();
    }
    found
}

fn keepers(records: &Records) -> Result<BTreeMap<Digest, Vec<String>>, Failure> {
    let mut found: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for pin in pin::list(records).map_err(|error| unreadable(&error))? {
        let keeper = if pin.name.starts_with("mount:") {
            pin.name
        } else {
            format!("pin:{}", pin.name)
        };
        found.entry(pin.digest).or_default().push(keeper);
    }
    for (digest, _) in named_manifests(records, "volumes")? {
        found.entry(digest).or_default().push("volume".to_owned());
    }
    Ok(found)
}

/// Where content was read from, as far as records of revisions tell.
fn origins(records: &Records) -> Result<BTreeMap<Digest, Vec<String>>, Failure> {
    let mut found: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for (digest, record) in named_manifests(records, "revisions")? {
        let text = |field: &str| {
            record
                .get(field)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let path = text("path");
        let origin = if path.is_empty() {
            text("uid")
        } else {
            format!("{}/{path}", text("uid"))
        };
        let origins = found.entry(digest).or_default();
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    Ok(found)
}

/// Every record of a kind that names a manifest. Only the fields that are looked for matter, so that records of
/// later versions are shown as well.
fn named_manifests(
    records: &Records,
    kind: &str,
) -> Result<Vec<(Digest, serde_json::Value)>, Failure> {
    let mut found = Vec::new();
    for name in records.list(kind).map_err(|error| unreadable(&error))? {
        let record = records
            .read::<serde_json::Value>(kind, &name)
            .map_err(|error| unreadable(&error))?;
        let Some(record) = record else { continue };
        let digest = record
            .get("manifest")
            .and_then(serde_json::Value::as_str)
            .and_then(|hex| hex.parse().ok());
        if let Some(digest) = digest {
            found.push((digest, record));
        }
    }
    Ok(found)
}

/// Leases for volumes that a node service published and that outlive it, so that nothing a pod uses is evicted
/// while the service is away.
pub(super) fn hold_volumes(store: &Store) -> Result<Vec<Lease>, Failure> {
    let volumes = named_manifests(store.records(), "volumes")?;
    Ok(volumes
        .into_iter()
        .map(|(digest, _)| store.leases().hold(Holder::new("volume:recorded"), digest))
        .collect())
}

fn unreadable(error: &tonnage_cache::store::Error) -> Failure {
    Failure::of("read the cache's records", error.kind(), error)
}

pub(super) fn loads(args: Loads, config: &Config, console: &Console) -> Result<Code, Failure> {
    let Loads { root, last, json } = args;
    let root = root.directory(config)?;
    let loads = loads::recent(&records(&root)?, last).map_err(|error| unreadable(&error))?;
    if json {
        console.json(&loads)?;
        return Ok(Code::Done);
    }
    for load in &loads {
        let path = if load.path.is_empty() {
            String::new()
        } else {
            format!("/{}", load.path.escape_default())
        };
        let pod = load.pod.as_ref().map_or_else(String::new, |pod| {
            format!(
                " for {}/{}",
                pod.namespace.escape_default(),
                pod.name.escape_default()
            )
        });
        console.result(format!(
            "{}  {}{path}{pod}: {}",
            time_of(load.ended_millis),
            load.source.escape_default(),
            sentence(&load.report)
        ))?;
    }
    Ok(Code::Done)
}

/// `2026-07-01T12:00:00Z`.
fn time_of(millis: u64) -> String {
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    time::UtcDateTime::from(time)
        .replace_nanosecond(0)
        .ok()
        .and_then(|time| {
            time.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_a_digest_names_content_if_it_is_the_only_one() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("manifests")).unwrap();
        let digest = Digest::of(b"x").to_hex();
        std::fs::write(root.path().join("manifests").join(&digest), b"").unwrap();
        assert_eq!(find(root.path(), &digest[..6]).unwrap().to_hex(), digest);
        assert_eq!(
            find(root.path(), &digest.to_uppercase()[..9])
                .unwrap()
                .to_hex(),
            digest
        );
        assert_eq!(find(root.path(), "000000").unwrap_err().code, Code::Missing);
        assert_eq!(find(root.path(), "xyz").unwrap_err().code, Code::Usage);
        assert_eq!(
            find(root.path(), &digest[..5]).unwrap_err().code,
            Code::Usage
        );
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(time_of(1_700_000_000_123), "2023-11-14T22:13:20Z");
    }
}
