//! What is retained, beside what is shown.

use super::super::retained::Retained;
use super::*;

#[test]
fn retained_content_counts_where_no_volume_shows_it() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi", "volumes": 1}}));
    node.quotas.lock().retained = vec![Retained {
        place: place("models", "llama"),
        namespaces: BTreeSet::from(["team-a".to_owned()]),
        manifest: Digest::of(b"llama"),
        bytes: 8 * GIB,
    }];
    assert_eq!(node.used(), (8, 1));
    assert!(node.enter("p1", "other").is_err());
    // The same place: it takes the retained content's place.
    node.run("p1", "llama", 10);
    assert_eq!(node.used(), (10, 1));
    node.records.lock().unwrap().clear();
    assert_eq!(node.used(), (8, 1));
    // With less than is retained there: that is still here when the volume goes.
    node.run("p1", "llama", 3);
    assert_eq!(node.used(), (8, 1));
    node.records.lock().unwrap().clear();
    assert_eq!(node.used(), (8, 1));
}

#[test]
fn retained_content_is_not_counted_twice_by_a_volume_of_its_place_that_is_smaller() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi"}}));
    node.quotas.lock().retained = vec![Retained {
        place: place("models", "llama"),
        namespaces: BTreeSet::from(["team-a".to_owned()]),
        manifest: Digest::of(b"llama"),
        bytes: 8 * GIB,
    }];
    // Eight are retained and five of them are shown, so that there is room for two.
    node.run("p1", "llama", 5);
    node.run("p2", "other", 2);
    assert_eq!(node.used(), (10, 2));
}

#[test]
fn retained_content_is_hidden_by_all_volumes_of_its_place_together_and_once() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi"}}));
    let retained = |name: &str, gib: u64| Retained {
        place: place("models", name),
        namespaces: BTreeSet::from(["team-a".to_owned()]),
        manifest: Digest::of(name.as_bytes()),
        bytes: gib * GIB,
    };
    node.quotas.lock().retained = vec![retained("llama", 8)];
    let at_llama = |pod: &str| Asked {
        place: place("models", "llama"),
        ..asked("team-a", pod, pod)
    };
    for pod in ["p1", "p2"] {
        node.ask(at_llama(pod)).unwrap();
        node.sized(pod, 5).unwrap();
    }
    assert_eq!(node.used(), (10, 2));
    node.leave(&waiter("p2", "p2"));
    assert_eq!(node.used(), (8, 1));
    // A pin of a version before, of the same path: what is shown hides five of both.
    node.quotas.lock().retained.push(retained("llama", 4));
    assert_eq!(node.used(), (12, 1));
}

#[test]
fn what_a_version_before_has_retained_counts_once_beside_a_volume_of_the_same_path() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi"}}));
    let retained = |name: &str| Retained {
        place: place("models", name),
        namespaces: BTreeSet::from(["team-a".to_owned()]),
        manifest: Digest::of(name.as_bytes()),
        bytes: GIB,
    };
    node.quotas.lock().retained = vec![retained("llama"), retained("llama-2")];
    let own = Asked {
        place: format!("{}@team-a.0123456789abcdef", place("models", "llama")),
        ..asked("team-a", "p1", "llama")
    };
    node.ask(own).unwrap();
    node.sized("llama", 8).unwrap();
    assert_eq!(node.used(), (9, 2));
}
