//! One sentence in a pod's events when its volume is there: how long it took, how many bytes, from where, at what speed.
//! (What a mount failed of, kubelet writes there itself.)
//!
//! Loads are told from blocking threads: they go into a bounded queue, and [`Poster::run`] takes them from there to the API
//! server. An event is worth less than the volume that it is about: what does not fit into the queue, and what the API
//! server does not take, is logged at debug and gone.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::chain;
use tonnage_cache::report::{Origins, Phase, Report};

use crate::loads::{Load, Observer};
use crate::size::ByteSize;

/// Loads that may wait to be posted.
const QUEUE: usize = 256;
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest note, reporting instance and object name (events.k8s.io/v1 and Kubernetes' object names).
const NOTE_MAX: usize = 1024;
const INSTANCE_MAX: usize = 128;
const NAME_MAX: usize = 253;

/// Takes loads to the API server.
#[derive(Debug)]
pub struct Events {
    queue: Sender<Load>,
}

/// The other end of the queue, to be run for as long as the service.
pub struct Poster {
    client: kube::Client,
    /// Name of the node.
    node: String,
    /// Name of the driver.
    driver: String,
    queue: Receiver<Load>,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Events {
    /// An observer, and what posts the events of the loads that it sees.
    pub fn new(client: kube::Client, driver: &str, node: &str) -> (Self, Poster) {
        let (sender, receiver) = channel(QUEUE);
        let poster = Poster {
            client,
            node: node.to_owned(),
            driver: driver.to_owned(),
            queue: receiver,
        };
        (Self { queue: sender }, poster)
    }
}

impl Observer for Events {
    fn load_ended(&self, load: &Load) {
        if load.pod.is_none() {
            return;
        }
        if let Err(error) = self.queue.try_send(load.clone()) {
            tracing::debug!(volume.id = load.volume, %error, "an event was dropped");
        }
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, _targets: usize) {}
}

impl Poster {
    /// Posts one event after the other until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let load = tokio::select! {
                () = stop.cancelled() => return,
                load = self.queue.recv() => load,
            };
            let Some(load) = load else { return };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.post(&load) => {}
            }
        }
    }

    async fn post(&self, load: &Load) {
        let Some((namespace, event)) = event(load, &self.driver, &self.node) else {
            return;
        };
        let events = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let params = PostParams::default();
        match tokio::time::timeout(PATIENCE, events.create(&params, &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(
                    volume.id = load.volume,
                    error = chain(&error),
                    "an event was not taken"
                );
            }
            Err(_) => tracing::debug!(volume.id = load.volume, "an event was not taken in time"),
        }
    }
}

/// The event of a load and its namespace; nothing for a load without a pod.
fn event(load: &Load, driver: &str, node: &str) -> Option<(String, Event)> {
    let pod = load.pod.as_ref()?;
    let millis = i64::try_from(load.ended_millis).ok()?;
    let time = Timestamp::from_millisecond(millis).ok()?;
    // One load, one name: the same event cannot be there twice.
    let digest = Digest::of(format!("{} {} {millis}", pod.uid, load.volume).as_bytes()).to_hex();
    let suffix = digest.get(..16).unwrap_or(&digest);
    let room = NAME_MAX.saturating_sub(suffix.len()).saturating_sub(1);
    let stem = cut(&pod.name, room).trim_end_matches(['-', '.']);
    let some = |text: &str| Some(text.to_owned());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{suffix}")),
            namespace: some(&pod.namespace),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(time)),
        type_: some("Normal"),
        reason: some("Loaded"),
        action: some("Mount"),
        note: some(cut(&sentence(load), NOTE_MAX)),
        regarding: Some(ObjectReference {
            api_version: some("v1"),
            kind: some("Pod"),
            name: some(&pod.name),
            namespace: some(&pod.namespace),
            uid: some(&pod.uid),
            ..ObjectReference::default()
        }),
        reporting_controller: some(driver),
        reporting_instance: some(cut(node, INSTANCE_MAX)),
        ..Event::default()
    };
    Some((pod.namespace.clone(), event))
}

/// At most so many bytes of a text.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

/// `Mounted models/llama in 3.20 s: 2.1 GiB from the source at 812.0 MB/s`.
fn sentence(load: &Load) -> String {
    let slash = if load.path.is_empty() { "" } else { "/" };
    format!(
        "Mounted {}{slash}{} in {}: {}",
        load.source,
        load.path,
        Took(load.total()),
        origins(&load.report)
    )
}

/// Where the bytes came from.
fn origins(report: &Report) -> String {
    let Origins {
        source,
        // What was received besides is an account of the network, not of the volume.
        retry: _,
        hedge: _,
        resumed,
        unchanged,
        dedup,
        cached,
    } = report.origins;
    if report.bytes == 0 {
        return "it is empty".to_owned();
    }
    if cached >= report.bytes {
        let bytes = ByteSize(report.bytes);
        // Who joins another's load lists nothing itself.
        let joined = report.phase(Phase::Resolve).is_zero();
        return if joined && report.phase(Phase::Queue) >= Duration::from_secs(1) {
            format!("{bytes} came with the load of another pod, which it waited for")
        } else {
            format!("{bytes} were cached")
        };
    }
    let mut parts = Vec::new();
    if source > 0 {
        let time = report.phase(Phase::FirstByte) + report.phase(Phase::Transfer);
        parts.push(format!(
            "{} from the source at {}",
            ByteSize(source),
            Speed {
                bytes: source,
                time
            }
        ));
    }
    for (bytes, what) in [
        (dedup, "of it stored already"),
        (resumed, "kept from an earlier attempt"),
        (unchanged, "unchanged since another revision"),
        (cached, "cached"),
    ] {
        if bytes > 0 {
            parts.push(format!("{} {what}", ByteSize(bytes)));
        }
    }
    if parts.is_empty() {
        return format!("{} were here", ByteSize(report.bytes));
    }
    parts.join(", ")
}

/// Shows a speed: `812.0 MB/s`.
struct Speed {
    bytes: u64,
    time: Duration,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = u128::from(self.bytes) * 1_000_000_000 / self.time.as_nanos().max(1);
        let (unit, size) = if per_second >= 1_000_000_000 {
            ("GB/s", 1_000_000_000)
        } else {
            ("MB/s", 1_000_000)
        };
        let tenths = per_second * 10 / size;
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// Shows a time: `43 ms`, `3.20 s`, `4 min 12 s`.
struct Took(Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis < 1_000 {
            write!(f, "{} ms", millis.max(1))
        } else if millis < 60_000 {
            write!(f, "{}.{:02} s", millis / 1_000, millis / 10 % 100)
        } else {
            write!(f, "{} min {} s", millis / 60_000, millis / 1_000 % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    fn load(origins: Origins, phases: &[(Phase, u64)]) -> Load {
        let mut report = Report {
            bytes: origins.source + origins.resumed + origins.unchanged + origins.cached,
            origins,
            files: 3,
            ..Report::default()
        };
        for (phase, millis) in phases {
            report.add_phase(*phase, Duration::from_millis(*millis));
        }
        Load::of_a_pod(1_700_000_000_000, report)
    }

    #[test]
    fn the_sentence_says_how_long_how_many_bytes_from_where_and_how_fast() {
        let fetched = Origins {
            source: 2 << 30,
            ..Origins::default()
        };
        let cached = Origins {
            cached: 2 << 30,
            ..Origins::default()
        };
        let mixed = Origins {
            source: 1 << 30,
            dedup: 1 << 20,
            resumed: 512 << 20,
            unchanged: 3 << 20,
            ..Origins::default()
        };
        for (load, text) in [
            (
                load(
                    fetched,
                    &[
                        (Phase::Resolve, 200),
                        (Phase::Transfer, 2_000),
                        (Phase::Mount, 1_000),
                    ],
                ),
                "Mounted models/llama-3.1-8b in 3.20 s: 2.0 GiB from the source at 1.0 GB/s",
            ),
            (
                load(cached, &[(Phase::Resolve, 1), (Phase::Mount, 3)]),
                "Mounted models/llama-3.1-8b in 4 ms: 2.0 GiB were cached",
            ),
            (
                load(cached, &[(Phase::Queue, 9_000), (Phase::Mount, 3)]),
                "Mounted models/llama-3.1-8b in 9.00 s: 2.0 GiB came with the load of another pod, which it waited for",
            ),
            (
                load(mixed, &[(Phase::Resolve, 1), (Phase::Transfer, 70_000)]),
                "Mounted models/llama-3.1-8b in 1 min 10 s: 1.0 GiB from the source at 15.3 MB/s, 1.0 MiB of it stored already, 512.0 MiB kept from an earlier attempt, 3.0 MiB unchanged since another revision",
            ),
            (
                load(Origins::default(), &[]),
                "Mounted models/llama-3.1-8b in 1 ms: it is empty",
            ),
        ] {
            assert_eq!(sentence(&load), text);
        }
        let mut whole = load(cached, &[(Phase::Resolve, 1)]);
        whole.path = String::new();
        assert!(sentence(&whole).starts_with("Mounted models in "));
    }

    #[test]
    fn an_event_keeps_within_the_api_s_bounds() {
        let mut long = load(Origins::default(), &[]);
        long.path = "ü".repeat(900);
        if let Some(pod) = &mut long.pod {
            pod.name = format!("{}-x", "a".repeat(235));
        }
        let (namespace, event) = event(&long, "csi.tonnage.dev", &"n".repeat(200)).unwrap();
        assert_eq!(namespace, "team");
        assert!(event.note.unwrap().len() <= NOTE_MAX);
        assert_eq!(event.reporting_instance.unwrap().len(), INSTANCE_MAX);
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= NAME_MAX && name.starts_with("aaa") && !name.contains("-."));
    }

    #[tokio::test]
    async fn a_load_of_a_pod_becomes_an_event_of_that_pod_and_others_do_not() {
        let (service, mut server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let client = kube::Client::new(service, "tonnage");
        let (events, poster) = Events::new(client, "csi.tonnage.dev", "node-1");
        let stop = CancellationToken::new();
        let mut bare = load(Origins::default(), &[]);
        bare.pod = None;
        events.load_ended(&bare);
        events.load_ended(&load(Origins::default(), &[]));
        let story = async {
            let (request, respond) = server.next_request().await.unwrap();
            assert_eq!(request.method(), "POST");
            let path = request.uri().path().to_owned();
            assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/team/events");
            let body = request.into_body().collect_bytes().await.unwrap();
            let event: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(event["type"], "Normal");
            assert_eq!(event["reason"], "Loaded");
            assert_eq!(event["regarding"]["kind"], "Pod");
            assert_eq!(event["regarding"]["uid"], "3f2a");
            assert_eq!(event["metadata"]["namespace"], "team");
            assert_eq!(event["reportingController"], "csi.tonnage.dev");
            assert_eq!(event["reportingInstance"], "node-1");
            assert_eq!(event["eventTime"], "2023-11-14T22:13:20.000000Z");
            respond.send_response(Response::new(Body::from(body.to_vec())));
            stop.cancel();
        };
        tokio::join!(poster.run(stop.clone()), story);
    }

    #[test]
    fn a_full_queue_drops_events_and_waits_for_nobody() {
        let (sender, mut receiver) = channel(1);
        let events = Events { queue: sender };
        events.load_ended(&load(Origins::default(), &[]));
        events.load_ended(&load(Origins::default(), &[]));
        assert!(receiver.try_recv().is_ok());
        assert!(receiver.try_recv().is_err());
    }
}
