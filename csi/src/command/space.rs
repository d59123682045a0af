//! `tonnage cache du`: disk by what it is used for, and what equal files would cost without being stored once.
//! Takes no lock and changes nothing.

use tonnage_cache::disk::OsDisk;
use tonnage_cache::store::{Tally, Usage};

use super::inventory::records;
use crate::args::cache::Used;
use crate::config::Config;
use crate::console::Console;
use crate::exit::{Code, Failure};
use tonnage_csi::size::ByteSize;

pub(super) fn du(args: Used, config: &Config, console: &Console) -> Result<Code, Failure> {
    let Used { root, json } = args;
    let root = root.directory(config)?;
    records(&root)?;
    let usage = Usage::read(&OsDisk::new(), &root).map_err(|error| {
        Failure::of(format!("measure {}", root.display()), error.kind(), &error)
    })?;
    if json {
        console.json(&usage)?;
    } else {
        console.table(&rows(&usage))?;
    }
    Ok(Code::Done)
}

fn rows(usage: &Usage) -> Vec<Vec<String>> {
    let row = |bytes: u64, files: Option<u64>, meaning: &str| {
        let files = files.map_or_else(String::new, |files| format!("{files} files"));
        vec![
            format!("{:>10}", ByteSize(bytes)),
            format!("{files:>14}"),
            meaning.to_owned(),
        ]
    };
    let tally = |tally: Tally, meaning: &str| row(tally.bytes, Some(tally.files), meaning);
    let alone = usage
        .views
        .iter()
        .fold(0u64, |sum, view| sum.saturating_add(view.bytes));
    let mut rows = vec![
        tally(usage.objects, "objects, each stored once"),
        tally(usage.unlinked, "of them in no view"),
        tally(usage.fresh, "verified, not yet synced"),
        tally(usage.partial, "unfinished downloads"),
        tally(usage.quarantine, "set aside as damaged"),
        tally(usage.unverified, "from a cloned disk, not yet verified"),
        tally(usage.metadata, "part tables, manifests, records"),
    ];
    rows.retain(|row| !row.iter().any(|cell| cell.trim() == "0 files"));
    rows.push(row(usage.total_bytes, None, "in all"));
    rows.push(row(
        alone,
        None,
        "what the views would take without sharing",
    ));
    rows.push(row(usage.free_bytes, None, "free on the file system"));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_shown() {
        let objects = Tally {
            files: 2,
            bytes: 3 << 20,
        };
        let usage = Usage {
            objects,
            total_bytes: 3 << 20,
            ..Usage::default()
        };
        let meanings: Vec<String> = rows(&usage)
            .into_iter()
            .filter_map(|row| row.last().cloned())
            .collect();
        assert_eq!(
            meanings,
            [
                "objects, each stored once",
                "in all",
                "what the views would take without sharing",
                "free on the file system"
            ]
        );
    }
}
