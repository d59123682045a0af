//! Looks at sources that answer what they are told to.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use futures::future::BoxFuture;
use tonnage_cache::clock::ManualClock;
use tonnage_cache::source::{Body, Entry, Listing};

use super::*;

/// A source whose listings fail, but for one.
#[derive(Debug, Default)]
struct Moody {
    listings: AtomicU64,
    /// The listing that is answered, counted from 1.
    answered: u64,
}

impl Moody {
    fn listings(&self) -> u64 {
        self.listings.load(Ordering::Relaxed)
    }
}

impl Source for Moody {
    fn name(&self) -> &'static str {
        "moody"
    }

    fn uid(&self) -> &'static str {
        "memory://moody"
    }

    fn list<'a>(
        &'a self,
        _prefix: &'a str,
        _limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, Error>> {
        let number = self.listings.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = if number == self.answered {
            Ok(Listing {
                entries: Vec::new(),
                markers: 1,
            })
        } else {
            Err(refused(Kind::Transient))
        };
        Box::pin(std::future::ready(answer))
    }

    fn open<'a>(
        &'a self,
        _entry: &'a Entry,
        _range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, Error>> {
        panic!("nothing is read here")
    }
}

/// What a token service says that gives no keys.
fn refused(kind: Kind) -> Error {
    Error::Identity {
        service: "sts".to_owned(),
        what: "no".to_owned(),
        kind,
    }
}

fn identity(identity: &serde_json::Value) -> WorkloadIdentity {
    serde_json::from_value(identity.clone()).unwrap()
}

/// Read as the identity of every service account but the controller's.
fn object() -> crd::Source {
    serde_json::from_value(json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "Source",
        "metadata": {"name": "models"},
        "spec": {
            "url": "s3://b",
            "auth": {"mode": "WorkloadIdentity", "workloadIdentity": {"aws": {"roleArn": "arn:aws:iam::1:role/r"}}},
            "consumers": [{"namespaces": {"names": ["team-a"]}}],
        },
    }))
    .unwrap()
}

fn reason(finding: &Finding) -> Option<Reason> {
    match finding {
        Finding::Found(verdict) => Some(verdict.reason),
        Finding::Inapplicable | Finding::Unknown => None,
    }
}

fn consumer(names: &[&str], accounts: &[&str]) -> Consumer {
    let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
    Consumer {
        namespaces: crd::NamespaceSelector {
            names: owned(names),
            match_labels: BTreeMap::new(),
        },
        service_accounts: owned(accounts),
        paths: Vec::new(),
    }
}

fn trust(tokens: PathBuf) -> Trust {
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    Trust::new(tokens, "tonnage".to_owned(), clock)
}

#[test]
fn whoever_may_be_a_consumer_says_nothing_about_others() {
    for (consumer, expected) in [
        (consumer(&[], &[]), true),
        (consumer(&["tonnage"], &[]), true),
        (consumer(&[], &[ACCOUNT]), true),
        (consumer(&["team-a"], &[]), false),
        (consumer(&["tonnage"], &["trainer"]), false),
    ] {
        assert_eq!(may_name(&consumer, "tonnage"), expected, "{consumer:?}");
    }
}

#[test]
fn a_token_s_file_is_named_after_its_audience() {
    for (audience, expected) in [
        ("sts.amazonaws.com", "sts.amazonaws.com"),
        ("api://AzureADTokenExchange", "api___AzureADTokenExchange"),
        (
            "https://iam.googleapis.com/projects/1",
            "https___iam.googleapis.com_projects_1",
        ),
    ] {
        assert_eq!(file_name(audience), expected);
    }
}

#[test]
fn a_stranger_who_is_let_in_is_a_warning_and_one_who_is_not_a_good_sign() {
    let trust = trust(PathBuf::new());
    let role = identity(&json!({"aws": {"roleArn": "arn:aws:iam::1:role/r"}}));
    let judged = |answer| trust.judge(&role, &answer);
    assert_eq!(reason(&judged(Ok(()))), Some(Reason::AnyServiceAccount));
    for kind in [Kind::Denied, Kind::Unauthenticated] {
        assert_eq!(
            reason(&judged(Err(refused(kind)))),
            Some(Reason::Restricted)
        );
    }
    assert_eq!(judged(Err(refused(Kind::Transient))), Finding::Unknown);
}

#[test]
fn a_store_that_refuses_says_nothing_against_the_cloud_that_gave_the_keys() {
    let trust = trust(PathBuf::new());
    let pool = |account: serde_json::Value| json!({"gcp": {"audience": "//iam.googleapis.com/p", "serviceAccount": account}});
    for (given, expected) in [
        (
            json!({"aws": {"roleArn": "arn:aws:iam::1:role/r"}}),
            Reason::AnyServiceAccount,
        ),
        (
            json!({"azure": {"tenantId": "t", "clientId": "c"}}),
            Reason::AnyServiceAccount,
        ),
        (pool(json!("a@b.c")), Reason::AnyServiceAccount),
        // A pool gives keys to everyone: here the bucket is asked who it is.
        (pool(json!(null)), Reason::Restricted),
    ] {
        let denied = Err(Error::Denied {
            subject: "b".to_owned(),
            code: "AccessDenied".to_owned(),
        });
        let found = trust.judge(&identity(&given), &denied);
        assert_eq!(reason(&found), Some(expected), "{given}");
    }
}

#[tokio::test]
async fn what_could_not_be_found_out_is_tried_again_within_a_minute_and_what_was_after_an_hour() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("sts.amazonaws.com"), "token").unwrap();
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let time = Arc::clone(&clock) as Arc<dyn Clock>;
    let trust = Trust::new(directory.path().to_owned(), "tonnage".to_owned(), time);
    let moody = Arc::new(Moody {
        answered: 2,
        ..Moody::default()
    });
    let sources = Sources::default();
    sources.put(Arc::new(object()), Arc::clone(&moody) as Arc<dyn Source>);
    let facts = Facts::default();
    let found = async || reason(&trust.look(&sources, &object(), &facts).await);
    for (seconds, expected, listings) in [
        (0, None, 1),
        (10, None, 1),
        (44, Some(Reason::AnyServiceAccount), 2),
        (3599, Some(Reason::AnyServiceAccount), 2),
        (1, None, 3),
    ] {
        clock.advance(Duration::from_secs(seconds));
        assert_eq!((found().await, moody.listings()), (expected, listings));
    }
}

#[tokio::test]
async fn without_a_token_of_its_own_the_controller_tries_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // Whoever tries it is let in.
    let open = Arc::new(Moody {
        answered: 1,
        ..Moody::default()
    });
    let sources = Sources::default();
    sources.put(Arc::new(object()), Arc::clone(&open) as Arc<dyn Source>);
    let found = async || {
        let trust = trust(directory.path().to_owned());
        trust.look(&sources, &object(), &Facts::default()).await
    };
    assert_eq!(found().await, Finding::Inapplicable);
    assert_eq!(open.listings(), 0);
    std::fs::write(directory.path().join("sts.amazonaws.com"), "token").unwrap();
    assert_eq!(reason(&found().await), Some(Reason::AnyServiceAccount));
}

#[tokio::test]
async fn a_source_that_the_controller_may_not_judge_has_no_condition() {
    let trust = trust(PathBuf::new());
    let sources = Sources::default();
    let mut shared = object();
    shared.spec.auth = crd::SourceAuth::default();
    let mut own = object();
    own.spec.consumers = vec![consumer(&["tonnage"], &[])];
    for object in [shared, own] {
        let finding = trust.look(&sources, &object, &Facts::default()).await;
        assert_eq!(finding, Finding::Inapplicable);
    }
}
