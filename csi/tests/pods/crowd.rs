//! One namespace with very many sources at a slow server, and another with one. Time is counted in answers of the server.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use hyper::body::Bytes;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tonic::Code;
use tonnage_cache::buffer::without_reserve;
use tonnage_cache::fetch::Settings;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::{self, Body, Entry, Error, Limits, Listing, Source, Version};

use crate::world::{Pod, World, of_namespace, with};

/// How many sources one namespace has.
const CROWD: usize = 1_000;
/// Bytes of each source's one file.
const SIZE: u64 = 100;

/// The server of all sources. Listings are quick; a request for content is answered when there is a turn, in the order of asking.
#[derive(Debug)]
struct Server {
    turns: Semaphore,
    asked: watch::Sender<usize>,
}

#[derive(Debug)]
struct SlowSource {
    uid: String,
    server: Arc<Server>,
}

impl SlowSource {
    fn content(&self) -> Bytes {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.uid.as_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        bytes.into()
    }
}

impl Source for SlowSource {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn list<'a>(&'a self, prefix: &'a str, _: &'a Limits) -> BoxFuture<'a, Result<Listing, Error>> {
        Box::pin(async move {
            let entry = Entry {
                path: RelPath::parse("weights")?,
                key: format!("{prefix}/weights"),
                size: SIZE,
                version: Version {
                    etag: Some("\"v1\"".to_owned()),
                    ..Version::default()
                },
            };
            Ok(Listing {
                entries: vec![entry],
                markers: 0,
            })
        })
    }

    fn open<'a>(&'a self, _: &'a Entry, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        Box::pin(async move {
            self.server.asked.send_modify(|asked| *asked += 1);
            self.server.turns.acquire().await.unwrap().forget();
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let bytes = self.content().slice(range);
            Ok(source::frames(futures::stream::iter([Ok(bytes)])))
        })
    }
}

/// A pod of a namespace with a source of its own.
fn pod(world: &World, server: &Arc<Server>, (name, namespace): (&str, &str)) -> Pod {
    let object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "Source",
        "metadata": {"name": name, "uid": name, "generation": 1},
        "spec": {"url": "s3://bucket"},
    });
    let source = SlowSource {
        uid: format!("slow://{name}"),
        server: Arc::clone(server),
    };
    world.sources().put(
        Arc::new(serde_json::from_value(object).unwrap()),
        Arc::new(source),
    );
    of_namespace(
        with(world.pod(name, "model"), &[("source", name)]),
        namespace,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_with_a_thousand_distinct_sources_does_not_delay_another_s_one() {
    let world = World::start().await;
    let server = Arc::new(Server {
        turns: Semaphore::new(0),
        asked: watch::Sender::new(0),
    });
    let crowd: Vec<Pod> = (0..CROWD)
        .map(|number| pod(&world, &server, (&format!("m{number}"), "team-a")))
        .collect();
    for some in crowd.chunks(50) {
        let calls = some.iter().map(|pod| world.publish_hastily(pod));
        for answer in join_all(calls).await {
            assert_eq!(answer.unwrap_err().code(), Code::Aborted);
        }
    }
    // All connections of the node that one namespace may have wait for the server on behalf of the crowd.
    let mut asked = server.asked.subscribe();
    let connections = without_reserve(Settings::default().connections_max);
    asked.wait_for(|asked| *asked >= connections).await.unwrap();
    assert_eq!(world.publisher().counts(), (0, CROWD, CROWD));
    let own = pod(&world, &server, ("own", "team-b"));
    let mut publishing = pin!(world.publish(&own));
    // A connection was kept for it: it asks although nobody was answered.
    tokio::select! {
        published = &mut publishing => panic!("{published:?}"),
        next = asked.wait_for(|asked| *asked > connections) => drop(next.unwrap()),
    }
    // In the order of asking.
    server.turns.add_permits(connections + 1);
    publishing.await.unwrap();
    let (published, waiting, _) = world.publisher().counts();
    assert_eq!((published, waiting), (1, CROWD));
}
