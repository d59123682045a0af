//! Keeps a `NodeCache` below 16 KiB: long texts are shortened, and then the smallest contents and the oldest loads go until
//! the rest fits; then, if ever, the namespaces that use least, because quotas of the cluster are sums of them. Pure.

use crate::crd::{NodeCacheStatus, json_bytes};

/// Most bytes of the whole object, as JSON.
const MOST: usize = 16 << 10;
/// What of it is for names, the owner and what the API server notes about who wrote which field.
const METADATA: usize = 5 << 9;
/// Longest name or path, in bytes.
const LONGEST_NAME: usize = 128;
/// Longest sentence, in bytes.
const LONGEST_SENTENCE: usize = 512;
/// What shows that a text was shortened.
const CUT: char = '…';

/// The status, shortened where that is necessary.
pub(super) fn fit(mut status: NodeCacheStatus) -> NodeCacheStatus {
    shorten(&mut status);
    while json_bytes(&status) > MOST - METADATA {
        // The longer list gives way, so that both say something.
        let dropped = if status.manifests.len() >= status.loads.len() {
            status.manifests.pop().is_some()
        } else {
            status.loads.pop().is_some()
        };
        if !dropped && status.namespaces.pop().is_none() {
            break;
        }
    }
    status
}

fn shorten(status: &mut NodeCacheStatus) {
    for manifest in &mut status.manifests {
        for text in [&mut manifest.source, &mut manifest.path] {
            clip_some(text);
        }
    }
    for load in &mut status.loads {
        clip(&mut load.source, LONGEST_NAME);
        for text in [&mut load.namespace, &mut load.pod, &mut load.path] {
            clip_some(text);
        }
    }
    for condition in &mut status.conditions {
        clip(&mut condition.message, LONGEST_SENTENCE);
    }
}

fn clip_some(text: &mut Option<String>) {
    if let Some(text) = text {
        clip(text, LONGEST_NAME);
    }
}

/// Shortens a text, and replaces characters that JSON would write as six and a terminal would obey.
fn clip(text: &mut String, most: usize) {
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, "\u{fffd}");
    }
    if text.len() > most {
        let mut end = most.saturating_sub(CUT.len_utf8());
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        text.truncate(end);
        text.push(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::super::collect::MOST_CONTENTS;
    use super::*;
    use crate::crd::{
        CacheLoad, CachedManifest, MOST_NAMESPACES, NamespaceContent, NodeCache,
        NodeCacheCondition, NodeCacheSpec, ReadableFigures,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
        FieldsV1, ManagedFieldsEntry, ObjectMeta, OwnerReference, Time,
    };
    use k8s_openapi::jiff::Timestamp;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn now() -> Time {
        Time(Timestamp::from_second(1_800_000_000).unwrap())
    }

    fn manifest(source: &str, path: &str) -> CachedManifest {
        CachedManifest {
            digest: "f".repeat(64),
            bytes: i64::MAX,
            files: i64::MAX,
            source: Some(source.to_owned()),
            path: Some(path.to_owned()),
            volumes: i64::MAX,
            pinned: true,
            last_released: Some(now()),
        }
    }

    fn load(name: &str, path: &str) -> CacheLoad {
        CacheLoad {
            time: now(),
            namespace: Some(name.to_owned()),
            pod: Some(name.to_owned()),
            source: name.to_owned(),
            path: Some(path.to_owned()),
            bytes: i64::MAX,
            bytes_by_origin: [
                "source",
                "retry",
                "hedge",
                "resumed",
                "unchanged",
                "dedup",
                "cached",
            ]
            .map(|origin| (origin.to_owned(), i64::MAX))
            .into(),
            milliseconds: i64::MAX,
        }
    }

    fn status(
        manifests: Vec<CachedManifest>,
        loads: Vec<CacheLoad>,
        message: &str,
    ) -> NodeCacheStatus {
        let condition = |kind: &str| NodeCacheCondition {
            kind: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: "FilesDamaged".to_owned(),
            message: message.to_owned(),
            last_transition_time: now(),
        };
        NodeCacheStatus {
            observed_at: Some(now()),
            driver_version: "1000.1000.1000".to_owned(),
            readable: ReadableFigures {
                capacity: "16383.9 PiB".to_owned(),
                used: "16383.9 PiB (18446744073709551615 %)".to_owned(),
                saved: "16383.9 PiB".to_owned(),
            },
            capacity_bytes: Some(i64::MAX),
            used_bytes: Some(i64::MAX),
            free_bytes: Some(i64::MAX),
            reserved_bytes: Some(i64::MAX),
            saved_bytes: Some(i64::MAX),
            objects: Some(i64::MAX),
            views: Some(i64::MAX),
            published_volumes: i64::MAX,
            counted_at: Some(now()),
            manifest_count: Some(i64::MAX),
            manifests,
            loads,
            namespaces: Vec::new(),
            conditions: ["Ready", "DiskPressure", "Damaged"].map(condition).into(),
        }
    }

    /// The object as the API server keeps it, with the longest name that a Node can have.
    fn whole(status: NodeCacheStatus) -> usize {
        let name = "n".repeat(253);
        let mut object = NodeCache::new(&name, NodeCacheSpec {});
        let fields = |bytes: usize| FieldsV1(serde_json::json!({"f:status": "x".repeat(bytes)}));
        let entry = |subresource: Option<&str>, bytes| ManagedFieldsEntry {
            api_version: Some("tonnage.dev/v1alpha1".to_owned()),
            fields_type: Some("FieldsV1".to_owned()),
            fields_v1: Some(fields(bytes)),
            manager: Some("tonnage-node".to_owned()),
            operation: Some("Apply".to_owned()),
            subresource: subresource.map(str::to_owned),
            time: Some(now()),
        };
        object.metadata = ObjectMeta {
            creation_timestamp: Some(now()),
            generation: Some(1),
            managed_fields: Some(vec![entry(None, 150), entry(Some("status"), 1_000)]),
            name: Some(name.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name,
                uid: "u".repeat(36),
                ..OwnerReference::default()
            }]),
            resource_version: Some("1".repeat(20)),
            uid: Some("u".repeat(36)),
            ..ObjectMeta::default()
        };
        object.status = Some(status);
        serde_json::to_vec(&object).unwrap().len()
    }

    #[test]
    fn fifty_contents_and_ten_loads_of_ordinary_names_fit() {
        let one = |n: usize| CachedManifest {
            bytes: 16_060_522_496,
            files: 12,
            volumes: 0,
            pinned: false,
            ..manifest("models", &format!("llama-3.1-8b-{n}"))
        };
        let load = |n: usize| CacheLoad {
            bytes: 16_060_522_496,
            bytes_by_origin: [("source".to_owned(), 16_060_522_496)].into(),
            milliseconds: 12_345,
            ..load("models", &format!("llama-3.1-8b-{n}"))
        };
        let full = status(
            (0..MOST_CONTENTS).map(one).collect(),
            (0..10).map(load).collect(),
            "At least reservedBytes are free.",
        );
        assert_eq!(fit(full.clone()), full);
        assert!(whole(full) <= MOST);
    }

    #[test]
    fn the_smallest_contents_and_the_oldest_loads_go_first() {
        let name = |n: usize| format!("{n}-{}", "x".repeat(120));
        let full = status(
            (0..50).map(|n| manifest(&name(n), &name(n))).collect(),
            (0..10).map(|n| load(&name(n), &name(n))).collect(),
            "m",
        );
        let fitted = fit(full.clone());
        assert!(fitted.manifests.len() < 50 && fitted.loads.len() > 5);
        assert!(full.manifests.starts_with(&fitted.manifests));
        assert!(full.loads.starts_with(&fitted.loads));
    }

    /// Namespaces of the longest names with the largest numbers.
    fn namespaces(count: usize) -> Vec<NamespaceContent> {
        (0..count)
            .map(|n| NamespaceContent {
                namespace: format!("{n:063}"),
                logical_bytes: i64::MAX,
                volumes: i64::MAX,
                physical_bytes: i64::MAX,
                shared_bytes: i64::MAX,
                wanted_bytes: None,
                wanted_volumes: None,
                seq: None,
            })
            .collect()
    }

    #[test]
    fn namespaces_go_only_when_contents_and_loads_are_gone() {
        let some = NodeCacheStatus {
            namespaces: namespaces(20),
            ..status(
                (0..50).map(|_| manifest("models", "llama")).collect(),
                (0..10).map(|_| load("models", "llama")).collect(),
                "m",
            )
        };
        let fitted = fit(some);
        assert_eq!(fitted.namespaces.len(), 20);
        assert!(!fitted.manifests.is_empty() && !fitted.loads.is_empty());
        let many = NodeCacheStatus {
            namespaces: namespaces(MOST_NAMESPACES),
            ..status(Vec::new(), vec![load("models", "llama")], "m")
        };
        let fitted = fit(many);
        assert!(fitted.loads.is_empty());
        assert!(fitted.namespaces.len() > 40, "{}", fitted.namespaces.len());
        assert_eq!(
            fitted.namespaces,
            namespaces(MOST_NAMESPACES)[..fitted.namespaces.len()]
        );
        assert!(whole(fitted) <= MOST);
    }

    #[test]
    fn a_text_is_shortened_between_characters_and_shows_it() {
        for (text, wanted) in [
            ("short", "short".to_owned()),
            (&*"ü".repeat(70), format!("{}…", "ü".repeat(62))),
            (&*"a".repeat(128), "a".repeat(128)),
            (&*"a".repeat(129), format!("{}…", "a".repeat(125))),
            ("a\u{1b}[31m\n", "a\u{fffd}[31m\u{fffd}".to_owned()),
        ] {
            let mut text = text.to_owned();
            clip(&mut text, LONGEST_NAME);
            assert_eq!(text, wanted);
            assert!(text.len() <= LONGEST_NAME);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_a_cache_holds_the_object_fits(
            manifests in vec((any::<String>(), "\\PC{0,40}|[\"\\\\\u{0}-\u{1f}]{0,900}|a{0,4000}"), 0..=50),
            loads in vec((any::<String>(), "[\"\\\\\u{0}-\u{1f}\u{202e}]{0,900}"), 0..=10),
            message in "[\"\\\\\n]{0,2000}",
        ) {
            let manifests = manifests.iter().map(|(source, path)| manifest(source, path));
            let loads = loads.iter().map(|(name, path)| load(name, path));
            let full = status(manifests.collect(), loads.collect(), &message);
            let fitted = fit(full.clone());
            prop_assert!(fitted.manifests.len() <= full.manifests.len());
            prop_assert!(fitted.loads.len() <= full.loads.len());
            prop_assert_eq!(fitted.conditions.len(), 3);
            prop_assert!(whole(fitted) <= MOST);
        }
    }
}
