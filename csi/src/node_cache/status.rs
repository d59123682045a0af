//! From facts to a status, and whether a status says anything new. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tonnage_cache::report::{Origins, Report};

use super::collect::{Content, Facts};
use super::health;
use crate::crd::{CacheLoad, CachedManifest, NodeCacheStatus, ReadableFigures};
use crate::loads::Load;
use crate::size::ByteSize;

/// What stands for a figure that is not known.
const UNKNOWN: &str = "-";
/// A change of the free space by less than this part of the capacity is no news.
const NOTICED: i64 = 100;

/// What there is to say.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    /// What the last good look saw; `None` if there was none.
    pub(super) facts: Option<&'a Facts>,
    /// Why the store cannot be looked at, if so.
    pub(super) flaw: Option<&'a str>,
    /// The latest loads, newest first.
    pub(super) loads: &'a [Load],
    /// Published volumes.
    pub(super) published: usize,
    pub(super) now: Timestamp,
}

/// The status that says it; conditions that are as `before` keep their time.
pub(super) fn status(seen: &Seen<'_>, before: Option<&NodeCacheStatus>) -> NodeCacheStatus {
    let facts = seen.facts;
    let counted = facts.and_then(|facts| facts.counted);
    NodeCacheStatus {
        observed_at: Some(Time(seen.now)),
        driver_version: env!("CARGO_PKG_VERSION").to_owned(),
        readable: readable(facts),
        capacity_bytes: facts.map(|facts| signed(facts.capacity)),
        used_bytes: counted.map(|counted| signed(counted.count.used)),
        free_bytes: facts.map(|facts| signed(facts.free)),
        reserved_bytes: facts.map(|facts| signed(facts.reserved)),
        saved_bytes: counted.map(|counted| signed(counted.count.saved)),
        objects: counted.map(|counted| signed(counted.count.objects)),
        views: facts.map(|facts| number(facts.views)),
        published_volumes: number(seen.published),
        counted_at: counted.and_then(|counted| time(counted.millis)),
        manifest_count: facts.map(|facts| number(facts.contents)),
        manifests: facts.map_or_else(Vec::new, |facts| {
            facts.largest.iter().map(manifest).collect()
        }),
        loads: seen.loads.iter().filter_map(load).collect(),
        namespaces: facts.map_or_else(Vec::new, |facts| facts.namespaces.clone()),
        conditions: health::conditions(seen, before),
    }
}

/// Whether `after` is worth writing where `before` stands.
pub(super) fn is_news(before: &NodeCacheStatus, after: &NodeCacheStatus) -> bool {
    let (was, is) = (before.free_bytes, after.free_bytes);
    let noticed = after.capacity_bytes.unwrap_or_default() / NOTICED;
    let is_near = was
        .zip(is)
        .is_some_and(|(was, is)| was.abs_diff(is) <= noticed.unsigned_abs());
    let same = NodeCacheStatus {
        observed_at: after.observed_at.clone(),
        counted_at: after.counted_at.clone(),
        free_bytes: if is_near { is } else { was },
        ..before.clone()
    };
    same != *after
}

fn readable(facts: Option<&Facts>) -> ReadableFigures {
    let unknown = || UNKNOWN.to_owned();
    let counted = facts.and_then(|facts| facts.counted);
    let used = facts.zip(counted).map(|(facts, counted)| {
        let used = counted.count.used;
        let share = u128::from(used) * 100 / u128::from(facts.capacity.max(1));
        format!("{} ({share} %)", ByteSize(used))
    });
    ReadableFigures {
        capacity: facts.map_or_else(unknown, |facts| ByteSize(facts.capacity).to_string()),
        used: used.unwrap_or_else(unknown),
        saved: counted.map_or_else(unknown, |it| ByteSize(it.count.saved).to_string()),
    }
}

fn manifest(content: &Content) -> CachedManifest {
    let Content {
        digest,
        bytes,
        files,
        origin,
        volumes,
        pinned,
        released,
    } = content;
    CachedManifest {
        digest: digest.to_hex(),
        bytes: signed(*bytes),
        files: number(*files),
        source: origin.as_ref().map(|origin| origin.source.clone()),
        path: origin.as_ref().and_then(|origin| some(&origin.path)),
        volumes: number(*volumes),
        pinned: *pinned,
        last_released: released.and_then(time),
    }
}

/// Nothing for a load at a time that no calendar has.
fn load(load: &Load) -> Option<CacheLoad> {
    let Load {
        ended_millis,
        // Handles, uids and revisions are for `tonnage loads`.
        volume: _,
        pod,
        source,
        path,
        revision: _,
        digest: _,
        report,
    } = load;
    let pod = pod.as_ref();
    Some(CacheLoad {
        time: time(*ended_millis)?,
        namespace: pod.map(|pod| pod.namespace.clone()),
        pod: pod.map(|pod| pod.name.clone()),
        source: source.clone(),
        path: some(path),
        bytes: signed(report.bytes),
        bytes_by_origin: origins(report),
        milliseconds: i64::try_from(load.total().as_millis()).unwrap_or(i64::MAX),
    })
}

fn origins(report: &Report) -> BTreeMap<String, i64> {
    let Origins {
        source,
        retry,
        hedge,
        resumed,
        unchanged,
        dedup,
        cached,
    } = report.origins;
    let all = [
        ("source", source),
        ("retry", retry),
        ("hedge", hedge),
        ("resumed", resumed),
        ("unchanged", unchanged),
        ("dedup", dedup),
        ("cached", cached),
    ];
    all.into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(origin, bytes)| (origin.to_owned(), signed(bytes)))
        .collect()
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Whole seconds: more is of no use to a reader, and costs bytes.
fn time(millis: u64) -> Option<Time> {
    let seconds = i64::try_from(Duration::from_millis(millis).as_secs()).ok()?;
    Timestamp::from_second(seconds).ok().map(Time)
}

#[cfg(test)]
mod tests {
    use super::super::count::{Count, Counted};
    use super::super::notes::Origin;
    use super::*;
    use crate::crd::NamespaceContent;
    use serde_json::json;
    use tonnage_cache::digest::Digest;
    use tonnage_cache::report::Phase;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            capacity: 1 << 40,
            free: 600 << 30,
            reserved: 1 << 30,
            views: 2,
            contents: 1,
            largest: vec![Content {
                digest: Digest::of(b"m"),
                bytes: 15 << 30,
                files: 12,
                origin: Some(Origin {
                    source: "models".to_owned(),
                    path: "llama-3.1-8b".to_owned(),
                }),
                volumes: 0,
                pinned: true,
                released: Some(60_999),
            }],
            counted: Some(Counted {
                count: Count {
                    used: 412 << 30,
                    objects: 311,
                    saved: 96 << 30,
                },
                millis: 50_000,
                ended: Duration::ZERO,
                took: Duration::ZERO,
                names: Digest::of(b"names"),
            }),
            damaged: Vec::new(),
            namespaces: vec![NamespaceContent {
                namespace: "team".to_owned(),
                logical_bytes: 30 << 30,
                volumes: 2,
                physical_bytes: 15 << 30,
                shared_bytes: 0,
                wanted_bytes: None,
                wanted_volumes: None,
                seq: None,
            }],
        }
    }

    fn a_load() -> Load {
        let mut report = Report {
            bytes: 15 << 30,
            ..Report::default()
        };
        report.origins.source = 14 << 30;
        report.origins.dedup = 1 << 30;
        report.add_phase(Phase::Transfer, Duration::from_millis(12_345));
        Load::of_a_pod(90_500, report)
    }

    fn seen<'a>(facts: Option<&'a Facts>, loads: &'a [Load], second: i64) -> Seen<'a> {
        Seen {
            facts,
            flaw: None,
            loads,
            published: 3,
            now: at(second),
        }
    }

    #[test]
    fn a_status_has_figures_for_programs_and_for_people() {
        let (facts, loads) = (facts(), [a_load()]);
        let status = status(&seen(Some(&facts), &loads, 100), None);
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "1970-01-01T00:01:40Z",
            })
        };
        let expected = json!({
            "observedAt": "1970-01-01T00:01:40Z",
            "driverVersion": env!("CARGO_PKG_VERSION"),
            "readable": {"capacity": "1.0 TiB", "used": "412.0 GiB (40 %)", "saved": "96.0 GiB"},
            "capacityBytes": 1_099_511_627_776_i64,
            "usedBytes": 442_381_631_488_i64,
            "freeBytes": 644_245_094_400_i64,
            "reservedBytes": 1_073_741_824,
            "savedBytes": 103_079_215_104_i64,
            "objects": 311,
            "views": 2,
            "publishedVolumes": 3,
            "countedAt": "1970-01-01T00:00:50Z",
            "manifestCount": 1,
            "manifests": [{
                "digest": Digest::of(b"m").to_hex(), "bytes": 16_106_127_360_i64, "files": 12,
                "source": "models", "path": "llama-3.1-8b", "volumes": 0, "pinned": true,
                "lastReleased": "1970-01-01T00:01:00Z",
            }],
            "loads": [{
                "time": "1970-01-01T00:01:30Z", "namespace": "team", "pod": "server-0",
                "source": "models", "path": "llama-3.1-8b", "bytes": 16_106_127_360_i64,
                "bytesByOrigin": {"source": 15_032_385_536_i64, "dedup": 1_073_741_824},
                "milliseconds": 12_345,
            }],
            "namespaces": [{
                "namespace": "team", "logicalBytes": 32_212_254_720_i64, "volumes": 2,
                "physicalBytes": 16_106_127_360_i64, "sharedBytes": 0,
            }],
            "conditions": [
                condition("Ready", "True", "Serving", "The cache can be read and takes volumes."),
                condition("DiskPressure", "False", "EnoughFree", "At least reservedBytes are free."),
                condition("Damaged", "False", "Sound", "No stored file is known to be damaged."),
            ],
        });
        assert_eq!(serde_json::to_value(&status).unwrap(), expected);
    }

    #[test]
    fn a_store_that_cannot_be_read_is_not_ready_and_keeps_its_last_figures() {
        let good = facts();
        let broken = Seen {
            flaw: Some("list /c/views: Input/output error"),
            ..seen(Some(&good), &[], 100)
        };
        let told = status(&broken, None);
        assert_eq!(told.conditions[0].status, "False");
        assert_eq!(
            told.conditions[0].message,
            "The cache cannot be read (list /c/views: Input/output error); look at the node's disk, and at the log of the driver's pod on the node."
        );
        assert_eq!(told.objects, Some(311));
        let never = status(
            &Seen {
                facts: None,
                ..broken
            },
            None,
        );
        assert_eq!(never.used_bytes, None);
        assert_eq!(never.readable.used, "-");
        let states: Vec<&str> = never
            .conditions
            .iter()
            .map(|it| it.status.as_str())
            .collect();
        assert_eq!(states, ["False", "Unknown", "Unknown"]);
    }

    #[test]
    fn times_alone_and_a_little_free_space_are_no_news() {
        let mut facts = facts();
        let loads = [a_load()];
        let before = status(&seen(Some(&facts), &loads, 100), None);
        if let Some(counted) = &mut facts.counted {
            counted.millis += 60_000;
        }
        facts.free -= 5 << 30;
        let later = status(&seen(Some(&facts), &loads, 200), Some(&before));
        assert!(!is_news(&before, &later));
        facts.free -= 6 << 30;
        let fuller = status(&seen(Some(&facts), &loads, 300), Some(&before));
        assert!(is_news(&before, &fuller));
        let without = status(&seen(Some(&facts), &[], 300), Some(&fuller));
        assert!(is_news(&fuller, &without));
        facts.namespaces[0].volumes += 1;
        let loaded = status(&seen(Some(&facts), &[], 300), Some(&without));
        assert!(is_news(&without, &loaded));
        let more = Seen {
            published: 4,
            ..seen(Some(&facts), &loads, 300)
        };
        assert!(is_news(&fuller, &status(&more, Some(&fuller))));
    }
}
