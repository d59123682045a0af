//! What a thousand nodes and two hundred quotas cost: how much is written is what is tested, how long it takes is shown.
#![allow(clippy::print_stderr, reason = "how long it takes is a result")]

use tonnage_cache::clock::SystemClock;

use super::*;

const NODES: usize = 1_000;
const NAMESPACES: usize = 200;
/// Namespaces that a node has content of.
const OWN: usize = 8;
/// Nodes that a namespace has content on.
const EACH: usize = NODES * OWN / NAMESPACES;
/// Looks until the first writes are done, and until everything may be written again.
const SETTLED: usize = 20;
/// Looks that find nothing new.
const IDLE: u32 = 10;
/// Most processor time of such a look, in a test build on a slow machine.
const MOST: Duration = Duration::from_secs(3);
const GIB: i64 = 1 << 30;

fn node(index: usize) -> String {
    format!("ip-10-{}-{}.ec2.internal", index / 250, index % 250)
}

fn team(index: usize) -> String {
    format!("team-{}", index % NAMESPACES)
}

/// What a node says: it has 10 GiB of each of its namespaces, and a GiB more of so many of them.
fn said(index: usize, grown: usize) -> DynamicObject {
    let lines = (0..OWN).map(|it| {
        let (bytes, seq) = if it < grown {
            (11 * GIB, 2)
        } else {
            (10 * GIB, 1)
        };
        json!({
            "namespace": team(index * OWN + it), "logicalBytes": bytes, "volumes": 2, "physicalBytes": 6 * GIB,
            "sharedBytes": GIB, "wantedBytes": bytes, "wantedVolumes": 2, "seq": seq,
        })
    });
    let lines: Vec<Value> = lines.collect();
    let object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "NodeCache",
        "metadata": {"name": node(index), "resourceVersion": "5"},
        "spec": {},
        "status": {"namespaces": lines},
    });
    serde_json::from_value(object).unwrap()
}

/// One that limits nodes and the cluster: it costs most.
fn limits(index: usize) -> Value {
    let mut quota = quota(&json!({
        "perNode": {"logicalBytes": "50Gi"}, "cluster": {"logicalBytes": "1Ti", "volumes": 10_000},
    }));
    quota["metadata"]["namespace"] = json!(team(index));
    quota
}

/// The loop's state, and the quotas as the API server has them.
struct Story {
    keeper: Keeper,
    server: Server,
    /// By namespace.
    quotas: BTreeMap<String, Value>,
    cpu: SystemClock,
}

impl Story {
    fn new() -> Self {
        let (service, server) = tower_test::mock::pair();
        let client = kube::Client::new(service, "tonnage");
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let quotas = (0..NAMESPACES).map(|index| (team(index), limits(index)));
        Self {
            keeper: Keeper::new(client, clock),
            server,
            quotas: quotas.collect(),
            cpu: SystemClock::new(),
        }
    }

    /// Everything is listed; returns the processor time of that.
    fn list(&mut self) -> Duration {
        let caches: Vec<DynamicObject> = (0..NODES).map(|index| said(index, 0)).collect();
        let quotas = self.quotas.values();
        let quotas: Vec<_> = quotas.map(understood).collect();
        let started = self.cpu.thread_cpu();
        self.keeper.learn_use(Event::Init);
        for cache in caches {
            self.keeper.learn_use(Event::InitApply(cache));
        }
        self.keeper.learn_use(Event::InitDone);
        self.keeper.learn_quota(Event::Init);
        for quota in quotas {
            self.keeper.learn_quota(Event::InitApply(quota));
        }
        self.keeper.learn_quota(Event::InitDone);
        self.cpu.thread_cpu().saturating_sub(started)
    }

    /// The next look. Returns the namespaces whose quotas were written, and the processor time, which the API server's part is in. What
    /// was written comes back by the watch.
    async fn look(&mut self) -> (Vec<String>, Duration) {
        tokio::time::sleep(LOOK).await;
        let mut written = Vec::new();
        let started = self.cpu.thread_cpu();
        tokio::select! {
            () = self.keeper.write(Instant::now()) => {}
            () = take(&mut self.server, &mut self.quotas, &mut written) => panic!("the server ended"),
        }
        let took = self.cpu.thread_cpu().saturating_sub(started);
        for namespace in &written {
            let quota = understood(&self.quotas[namespace]);
            self.keeper.learn_quota(Event::Apply(quota));
        }
        (written, took)
    }

    /// So many further looks: writes in all, and the processor time of each.
    async fn looks(&mut self, looks: u32) -> (usize, Duration) {
        let (mut writes, mut took) = (0, Duration::ZERO);
        for _ in 0..looks {
            let (written, of_one) = self.look().await;
            writes += written.len();
            took += of_one;
        }
        (writes, took / looks)
    }

    fn status(&self, index: usize) -> &Value {
        &self.quotas[&team(index)]["status"]
    }
}

fn understood(quota: &Value) -> DeserializeGuard<CacheQuota> {
    serde_json::from_value(quota.clone()).unwrap()
}

/// Takes statuses, each written by the newest version of its quota and small enough.
async fn take(
    server: &mut Server,
    quotas: &mut BTreeMap<String, Value>,
    written: &mut Vec<String>,
) {
    while let Some((request, respond)) = server.next_request().await {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        assert_eq!(parts.method, "PATCH");
        assert!(path.ends_with("/cachequotas/q/status"), "{path}");
        let namespace = path.split('/').nth(5).unwrap().to_owned();
        let body = body.collect_bytes().await.unwrap();
        let sent: Value = serde_json::from_slice(&body).unwrap();
        let bytes = sent["status"].to_string().len();
        assert!(bytes < 16 << 10, "{bytes}");
        let quota = quotas.get_mut(&namespace).unwrap();
        let version = quota["metadata"]["resourceVersion"].clone();
        assert_eq!(sent["metadata"]["resourceVersion"], version);
        let version: u64 = version.as_str().unwrap().parse().unwrap();
        quota["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        quota["status"] = sent["status"].clone();
        let answer = Body::from(quota.to_string().into_bytes());
        respond.send_response(Response::new(answer));
        written.push(namespace);
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_and_two_hundred_quotas_cost_two_writes_each_and_then_one_where_use_changes()
 {
    let mut story = Story::new();
    let listed = story.list();
    let (written, first) = story.look().await;
    assert_eq!(written.len(), NAMESPACES, "what is used");
    let mut writes = Vec::new();
    for _ in 0..SETTLED {
        writes.push(story.look().await.0.len());
    }
    writes.retain(|writes| *writes > 0);
    assert_eq!(writes, [NAMESPACES], "what is set aside, all in one look");
    for index in 0..NAMESPACES {
        let status = story.status(index);
        assert_eq!(status["used"], "400.0 GiB in 80 volumes on 40 nodes");
        assert_eq!(status["nodes"].as_array().unwrap().len(), EACH);
        assert_eq!(status["reserved"].as_array().unwrap().len(), EACH);
    }
    let (writes, idle) = story.looks(IDLE).await;
    assert_eq!(writes, 0, "nothing has changed");
    assert!(idle < MOST, "{idle:?}");
    // One node's use changes, of one namespace.
    story.keeper.learn_use(Event::Apply(said(0, 1)));
    let (written, one) = story.look().await;
    assert_eq!(written, [team(0)]);
    assert_eq!(
        story.status(0)["used"],
        "401.0 GiB in 80 volumes on 40 nodes"
    );
    assert_eq!(story.looks(IDLE).await.0, 0);
    // Every node's changes, of all of its namespaces.
    let caches: Vec<DynamicObject> = (0..NODES).map(|index| said(index, OWN)).collect();
    let started = story.cpu.thread_cpu();
    for cache in caches {
        story.keeper.learn_use(Event::Apply(cache));
    }
    let learned = story.cpu.thread_cpu().saturating_sub(started);
    let (written, all) = story.look().await;
    assert_eq!(written.len(), NAMESPACES);
    assert_eq!(story.looks(IDLE).await.0, 0);
    let statuses = (0..NAMESPACES).map(|index| {
        let status = story.status(index);
        assert_eq!(status["used"], "440.0 GiB in 80 volumes on 40 nodes");
        status.to_string().len()
    });
    let largest = statuses.max().unwrap();
    eprintln!(
        "{NODES} nodes, {NAMESPACES} quotas, {EACH} nodes each: list {listed:?}; first look {first:?}; idle {idle:?} a look; one node's news {one:?}; all nodes' news {learned:?}, and their look {all:?}; the largest status {largest} bytes"
    );
}
