//! Proofs against a store that remembers what it was asked and can be told to refuse.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::SystemTime;

use futures::future::join;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tonnage_cache::clock::ManualClock;
use tonnage_cache::error::{Kind, PathError};
use tonnage_cache::gate;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::select::Selection;
use tonnage_cache::source::{self, Body, Entry, Limits, Listing, Source, Version, frames};

use super::*;

/// A store as the keys of one pod see it.
#[derive(Debug)]
struct Store {
    uid: String,
    files: Vec<Entry>,
    /// What listing fails with, if it does.
    refuses_list: Mutex<Option<fn() -> source::Error>>,
    /// What reading fails with, if it does.
    refuses_read: Mutex<Option<fn() -> source::Error>>,
    /// Keys of files that were read, and ranges.
    reads: Mutex<Vec<(String, Range<u64>)>>,
    limits: Mutex<Vec<Limits>>,
    /// One permit for each listing that may be answered.
    answers: Semaphore,
}

impl Store {
    fn with(files: &[(&str, u64)]) -> Arc<Self> {
        let entry = |(path, size): &(&str, u64)| Entry {
            path: RelPath::parse(path).unwrap(),
            key: format!("llama/{path}"),
            size: *size,
            version: Version {
                etag: Some(format!("\"{path}\"")),
                ..Version::default()
            },
        };
        Arc::new(Self {
            uid: "s3:bucket#keys".to_owned(),
            files: files.iter().map(entry).collect(),
            refuses_list: Mutex::default(),
            refuses_read: Mutex::default(),
            reads: Mutex::default(),
            limits: Mutex::default(),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn usual() -> Arc<Self> {
        Self::with(&[("a", 1), ("b", 0), ("c", 3)])
    }

    fn refuse_list(&self, error: fn() -> source::Error) {
        *self.refuses_list.lock().unwrap() = Some(error);
    }

    fn refuse_read(&self, error: fn() -> source::Error) {
        *self.refuses_read.lock().unwrap() = Some(error);
    }

    /// Answers no more listings until it is told to.
    fn hold(&self) {
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn listings(&self) -> usize {
        self.limits.lock().unwrap().len()
    }

    fn keys_read(&self) -> Vec<String> {
        let reads = self.reads.lock().unwrap();
        reads.iter().map(|(key, _)| key.clone()).collect()
    }
}

impl Source for Store {
    fn name(&self) -> &'static str {
        "models"
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, source::Error>> {
        Box::pin(async move {
            assert_eq!(prefix, "llama");
            self.limits.lock().unwrap().push(*limits);
            let permit = self.answers.acquire().await.unwrap();
            permit.forget();
            if let Some(error) = *self.refuses_list.lock().unwrap() {
                return Err(error());
            }
            Ok(Listing {
                entries: self.files.clone(),
                markers: 0,
            })
        })
    }

    fn open<'a>(
        &'a self,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, source::Error>> {
        Box::pin(async move {
            if let Some(error) = *self.refuses_read.lock().unwrap() {
                return Err(error());
            }
            assert!(range.end <= entry.size, "{} has no {range:?}", entry.key);
            let length = usize::try_from(range.end - range.start).unwrap();
            let mut reads = self.reads.lock().unwrap();
            reads.push((entry.key.clone(), range));
            let bytes = Bytes::from(vec![7u8; length]);
            Ok(frames(futures::stream::iter([Ok(bytes)])))
        })
    }
}

fn denied() -> source::Error {
    source::Error::Denied {
        subject: "bucket \"b\"".to_owned(),
        code: "AccessDenied".to_owned(),
    }
}

fn unavailable() -> source::Error {
    source::Error::Unavailable {
        subject: "store:443".to_owned(),
        what: "connection refused".to_owned(),
    }
}

fn absent() -> source::Error {
    source::Error::NotFound("\"llama\" in bucket \"b\"".to_owned())
}

fn too_many() -> source::Error {
    source::Error::Limit("the listing has more than 4 pages".to_owned())
}

struct World {
    clock: Arc<ManualClock>,
    sources: Sources,
    grants: ProbeGrants,
}

impl World {
    /// With one source, whose specification is this besides its URL.
    fn with(spec: &Value) -> Self {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let sources = Sources::default();
        let grants = ProbeGrants::new(sources.clone(), Arc::clone(&clock) as Arc<dyn Clock>);
        let world = Self {
            clock,
            sources,
            grants,
        };
        world.describe(spec, 1);
        world
    }

    fn keyed() -> Self {
        Self::with(&json!({"auth": {"mode": "PodSecret"}}))
    }

    fn describe(&self, spec: &Value, generation: i64) {
        let mut object: crd::Source = serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "Source",
            "metadata": {"name": "models", "uid": "u", "generation": generation},
            "spec": {"url": "s3://bucket"},
        }))
        .unwrap();
        if let Some(auth) = spec.get("auth") {
            object.spec.auth = serde_json::from_value(auth.clone()).unwrap();
        }
        if let Some(limits) = spec.get("limits") {
            object.spec.limits = serde_json::from_value(limits.clone()).unwrap();
        }
        self.sources.put(Arc::new(object), Store::usual());
    }

    async fn prove(&self, store: &Arc<Store>) -> Result<Grant, Refusal> {
        self.grants.prove(&principal("a"), &reference(store)).await
    }

    async fn refused(&self, store: &Arc<Store>) -> Refusal {
        self.prove(store).await.unwrap_err()
    }

    /// A proof that holds for so long from now.
    fn until(&self, minutes: u64) -> Grant {
        let expires = self.clock.monotonic() + Duration::from_mins(minutes);
        Grant {
            expires: Some(expires),
        }
    }
}

fn principal(name: &str) -> Principal {
    Principal {
        name: name.to_owned(),
        namespace: "team-a".to_owned(),
        service_account: name.to_owned(),
        labels: Arc::default(),
    }
}

fn reference(store: &Arc<Store>) -> Reference {
    Reference::new(Arc::clone(store) as Arc<dyn Source>, "llama")
}

#[tokio::test(start_paused = true)]
async fn what_an_administrator_s_keys_read_needs_no_proof() {
    for auth in [
        json!({}),
        json!({"mode": "SharedSecret", "secretName": "keys"}),
        json!({"mode": "Node"}),
    ] {
        let (world, store) = (World::with(&json!({"auth": auth})), Store::usual());
        assert_eq!(world.prove(&store).await, Ok(Grant { expires: None }));
        assert_eq!(store.listings(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_s_keys_are_proved_by_a_listing_and_a_byte_of_each_file_that_has_one() {
    let (world, store) = (World::keyed(), Store::usual());
    assert_eq!(world.prove(&store).await, Ok(world.until(10)));
    assert_eq!(
        *store.reads.lock().unwrap(),
        [("llama/a".to_owned(), 0..1), ("llama/c".to_owned(), 0..1)]
    );
    let limits = store.limits.lock().unwrap()[0];
    assert_eq!((limits.pages, limits.objects), (4, u64::MAX));
}

#[tokio::test(start_paused = true)]
async fn of_many_files_the_same_eight_at_most_are_read() {
    let names: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut all = BTreeSet::new();
    for _ in 0..2 {
        let (world, store) = (World::keyed(), Store::with(&files));
        world.prove(&store).await.unwrap();
        all.insert(store.keys_read());
    }
    let numbers = [0, 13, 26, 39, 52, 65, 78, 91];
    let expected: Vec<String> = numbers
        .iter()
        .map(|number| format!("llama/{number:03}"))
        .collect();
    assert_eq!(all, BTreeSet::from([expected]));
}

#[tokio::test(start_paused = true)]
async fn only_files_that_are_wanted_are_read() {
    let (world, store) = (World::keyed(), Store::usual());
    let mut wanted = reference(&store);
    wanted.selection = Selection::new(&["c".to_owned()], &[]).unwrap();
    world.grants.prove(&principal("a"), &wanted).await.unwrap();
    assert_eq!(store.keys_read(), ["llama/c"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_says_how_often_is_proved() {
    let with = |policy: Value| {
        let mut auth = json!({"mode": "PodSecret"});
        auth.as_object_mut()
            .unwrap()
            .extend(policy.as_object().unwrap().clone());
        (World::with(&json!({"auth": auth})), Store::usual())
    };
    let (world, store) = with(json!({"grantPolicy": "AlwaysVerify"}));
    for listings in 1..=3 {
        world.prove(&store).await.unwrap();
        assert_eq!(store.listings(), listings);
    }
    store.hold();
    let mut both = Box::pin(join(world.prove(&store), world.prove(&store)));
    assert!(futures::poll!(&mut both).is_pending());
    store.answers.add_permits(1);
    let (first, second) = both.await;
    assert_eq!((first.is_ok(), second.is_ok()), (true, true));
    assert_eq!(store.listings(), 4);

    let (world, store) = with(json!({"grantPolicy": "NeverVerify"}));
    store.refuse_list(denied);
    assert_eq!(world.prove(&store).await, Ok(Grant { expires: None }));
    assert_eq!(store.listings(), 0);

    let (world, store) = with(json!({"grantTTLSeconds": 30}));
    world.prove(&store).await.unwrap();
    world.clock.advance(Duration::from_secs(29));
    world.prove(&store).await.unwrap();
    assert_eq!(store.listings(), 1);
    world.clock.advance(Duration::from_secs(1));
    world.prove(&store).await.unwrap();
    assert_eq!(store.listings(), 2);
}

#[tokio::test(start_paused = true)]
async fn per_object_a_byte_of_every_file_is_read_and_too_many_files_are_refused() {
    let names: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let world = World::with(&json!({"auth": {"mode": "PodSecret", "perObject": true}}));
    let store = Store::with(&files);
    world.prove(&store).await.unwrap();
    assert_eq!(store.keys_read().len(), 100);
    let many = Arc::new(Store {
        uid: "s3:bucket#many".to_owned(),
        ..Arc::into_inner(Store::usual()).unwrap()
    });
    many.refuse_list(too_many);
    assert_eq!(
        world.refused(&many).await,
        Refusal::Denied(
            "source models, path \"llama\": it holds more than 4000 files, and spec.auth.perObject of the source wants a proof for each; name a path with fewer"
                .to_owned()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_account_is_told_what_it_lacks_in_the_cloud() {
    let auth = json!({"mode": "WorkloadIdentity", "workloadIdentity": {"aws": {"roleArn": "arn:aws:iam::1:role/r"}}});
    let (world, store) = (World::with(&json!({"auth": auth})), Store::usual());
    assert_eq!(world.prove(&store).await, Ok(world.until(10)));
    let identity = |kind| source::Error::Identity {
        service: "sts".to_owned(),
        what: "no".to_owned(),
        kind,
    };
    world.clock.advance(Duration::from_mins(10));
    store.refuse_list(denied);
    assert_eq!(
        world.refused(&store).await,
        Refusal::Denied(
            "source models, path \"llama\": bucket \"b\": the store refuses access (AccessDenied); whom the service account is in the cloud (spec.auth.workloadIdentity of the source) needs the right to list and read it"
                .to_owned()
        )
    );
    for (kind, refusal) in [
        (
            Kind::Denied,
            Refusal::Denied(
                "source models, path \"llama\": no temporary keys from sts: no".to_owned(),
            ),
        ),
        (
            Kind::Unauthenticated,
            Refusal::Unauthenticated(
                "source models, path \"llama\": no temporary keys from sts: no".to_owned(),
            ),
        ),
        (
            Kind::Transient,
            Refusal::Unavailable(
                "source models, path \"llama\": the store cannot say now whether the pod's service account may read it (no temporary keys from sts: no); this is tried again by itself"
                    .to_owned(),
            ),
        ),
    ] {
        let question = Question {
            reference: reference(&store),
            whose: Whose::Account,
            per_object: false,
            listing_seconds: None,
            now: Duration::ZERO,
            holds: Duration::ZERO,
        };
        assert_eq!(question.refusal(&identity(kind)), refusal);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_holds_for_ten_minutes_whatever_becomes_of_the_store() {
    let (world, store) = (World::keyed(), Store::usual());
    let proved = world.prove(&store).await;
    store.refuse_list(unavailable);
    world.clock.advance(Duration::from_secs(599));
    assert_eq!(world.prove(&store).await, proved);
    assert_eq!(store.listings(), 1);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(
        world.refused(&store).await,
        Refusal::Unavailable(
            "source models, path \"llama\": the store cannot say now whether the pod's keys may read it (store:443: connection refused); this is tried again by itself"
                .to_owned()
        )
    );
    assert_eq!(store.listings(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_remembered_and_a_revocation_is_noticed_when_the_proof_ends() {
    let (world, store) = (World::keyed(), Store::usual());
    world.prove(&store).await.unwrap();
    world.clock.advance(Duration::from_mins(10));
    store.refuse_read(denied);
    assert_eq!(
        world.refused(&store).await,
        Refusal::Denied(
            "source models, path \"llama\": bucket \"b\": the store refuses access (AccessDenied); the keys in the Secret of the volume's nodePublishSecretRef need the right to list and read it"
                .to_owned()
        )
    );
    *store.refuses_read.lock().unwrap() = None;
    assert_eq!(world.prove(&store).await, Ok(world.until(10)));
}

#[tokio::test(start_paused = true)]
async fn others_and_other_keys_references_and_sources_prove_for_themselves() {
    let (world, store) = (World::keyed(), Store::usual());
    let mut pinned = reference(&store);
    pinned.revision = Some(Digest::of(b"r"));
    let mut part = reference(&store);
    part.selection = Selection::new(&["a".to_owned()], &[]).unwrap();
    let questions = [
        (principal("a"), reference(&store)),
        (principal("b"), reference(&store)),
        (principal("a"), pinned),
        (principal("a"), part),
    ];
    for round in 0..2 {
        for (index, (who, what)) in questions.iter().enumerate() {
            world.grants.prove(who, what).await.unwrap();
            let expected = if round == 0 {
                index + 1
            } else {
                questions.len()
            };
            assert_eq!(store.listings(), expected);
        }
    }
    let other_keys = Arc::new(Store {
        uid: "s3:bucket#other".to_owned(),
        ..Arc::into_inner(Store::usual()).unwrap()
    });
    world.prove(&other_keys).await.unwrap();
    assert_eq!(other_keys.listings(), 1);
    world.describe(&json!({"auth": {"mode": "PodSecret"}}), 2);
    world.prove(&store).await.unwrap();
    assert_eq!(store.listings(), questions.len() + 1);
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_once_wait_for_one_answer() {
    let (world, store) = (World::keyed(), Store::usual());
    let (first, second) = join(world.prove(&store), world.prove(&store)).await;
    assert_eq!(first, Ok(world.until(10)));
    assert_eq!(first, second);
    assert_eq!(store.listings(), 1);
    world.clock.advance(Duration::from_mins(10));
    store.refuse_list(denied);
    store.hold();
    let mut both = Box::pin(join(world.prove(&store), world.prove(&store)));
    assert!(futures::poll!(&mut both).is_pending());
    store.answers.add_permits(1);
    let (first, second) = both.await;
    assert!(matches!(first, Err(Refusal::Denied(_))), "{first:?}");
    assert_eq!(first, second);
    assert_eq!(store.listings(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_survives_the_one_who_asked_first_and_dies_with_the_last() {
    let (world, store) = (World::keyed(), Store::usual());
    store.hold();
    let mut first = Box::pin(world.prove(&store));
    let mut second = Box::pin(world.prove(&store));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    store.answers.add_permits(1);
    assert_eq!(second.await, Ok(world.until(10)));
    assert_eq!(store.listings(), 1);
    world.clock.advance(Duration::from_mins(10));
    let mut third = Box::pin(world.prove(&store));
    assert!(futures::poll!(&mut third).is_pending());
    drop(third);
    store.answers.add_permits(1);
    assert_eq!(world.prove(&store).await, Ok(world.until(10)));
    assert_eq!(store.listings(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_grants_nothing() {
    let (world, store) = (World::keyed(), Store::usual());
    store.hold();
    assert_eq!(
        world.refused(&store).await,
        Refusal::Unavailable(
            "source models, path \"llama\": the store has not said within 4 s whether the pod's keys may read it; this is tried again by itself"
                .to_owned()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_path_with_very_many_files_the_right_to_list_is_proved() {
    let (world, store) = (World::keyed(), Store::usual());
    store.refuse_list(too_many);
    assert_eq!(world.prove(&store).await, Ok(world.until(10)));
    assert!(store.keys_read().is_empty());
    // A limit of time looks the same, and proves nothing.
    let spec = json!({"auth": {"mode": "PodSecret"}, "limits": {"listingSeconds": 4}});
    let hasty = World::with(&spec);
    assert!(matches!(
        hasty.refused(&store).await,
        Refusal::Unavailable(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_the_load_s_to_tell_unless_a_pin_could_be_served_without_one() {
    let (world, store) = (World::keyed(), Store::usual());
    store.refuse_list(absent);
    assert_eq!(world.prove(&store).await, Ok(world.until(0)));
    assert_eq!(world.prove(&store).await, Ok(world.until(0)));
    assert_eq!(store.listings(), 2);
    let mut pinned = reference(&store);
    pinned.revision = Some(Digest::of(b"r"));
    assert_eq!(
        world.grants.prove(&principal("a"), &pinned).await,
        Err(Refusal::Denied(
            "source models, path \"llama\": \"llama\" in bucket \"b\" does not exist, so that nothing shows that the pod's keys may read the pinned revision; pin one that is there"
                .to_owned()
        ))
    );
}

#[tokio::test(start_paused = true)]
async fn every_error_of_a_store_is_told_by_what_can_be_done_about_it() {
    let errors: [(fn() -> source::Error, Kind); 8] = [
        (denied, Kind::Denied),
        (unavailable, Kind::Transient),
        (
            || source::Error::Unauthenticated {
                subject: "bucket \"b\"".to_owned(),
                code: "InvalidAccessKeyId".to_owned(),
            },
            Kind::Unauthenticated,
        ),
        (
            || source::Error::Gate(gate::Refusal::Denied("host not allowed".to_owned())),
            Kind::Denied,
        ),
        (
            || source::Error::Gate(gate::Refusal::Exhausted("budget used up".to_owned())),
            Kind::Transient,
        ),
        (
            || source::Error::Changed {
                key: "a".to_owned(),
            },
            Kind::Transient,
        ),
        (
            || source::Error::Untrusted {
                host: "store:443".to_owned(),
                what: "certificate expired".to_owned(),
            },
            Kind::Denied,
        ),
        (
            || {
                source::Error::Local(PathError {
                    operation: "open",
                    path: "/x".into(),
                    source: std::io::Error::other("broken"),
                })
            },
            Kind::Transient,
        ),
    ];
    for (error, kind) in errors {
        let (world, store) = (World::keyed(), Store::usual());
        store.refuse_read(error);
        let refusal = world.refused(&store).await;
        assert_eq!(refusal.kind(), kind, "{refusal}");
        assert!(
            refusal
                .to_string()
                .starts_with("source models, path \"llama\": "),
            "{refusal}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_gone_grants_nothing() {
    let (world, store) = (World::keyed(), Store::usual());
    let empty = ProbeGrants::new(
        Sources::default(),
        Arc::clone(&world.clock) as Arc<dyn Clock>,
    );
    let refusal = empty.prove(&principal("a"), &reference(&store)).await;
    assert_eq!(
        refusal,
        Err(Refusal::Unavailable(
            "source models is gone; if it comes back, this goes on by itself".to_owned()
        ))
    );
    assert_eq!(store.listings(), 0);
}
