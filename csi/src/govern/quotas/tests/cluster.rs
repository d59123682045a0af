//! A quota of the cluster: nothing is let in that is not set aside for this node.

use tokio::time::timeout;

use super::*;

fn spec() -> Value {
    json!({"cluster": {"logicalBytes": "100Gi"}})
}

/// A node that knows where its numbers begin.
fn node() -> Node {
    let node = Node::with(&spec());
    node.quotas.begins_above(6);
    node
}

impl Node {
    /// The controller has set so much aside for this node, by that report, and for another.
    fn sets_aside(&self, gib: u64, seq: u64, elsewhere: u64) {
        let rows = json!({"reserved": [
            {"node": "gpu-1", "bytes": gib * GIB, "seq": seq},
            {"node": "gpu-2", "bytes": elsewhere * GIB, "seq": 1},
        ]});
        self.set(&spec(), &rows);
        self.quotas.reconsider();
    }

    /// What is reported: gibibytes had and wanted, and the number.
    fn reports(&self) -> Option<(u64, u64, u64)> {
        let uses = self.quotas.uses();
        let report = uses.iter().find(|it| it.namespace == "team-a")?.report?;
        let (has, wants) = (report.has.logical_bytes, report.wants.logical_bytes);
        Some((has / GIB, wants / GIB, report.seq.unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_waits_until_it_is_set_aside_and_no_longer() {
    let node = node();
    node.enter("p1", "a").unwrap();
    let mut sized = Box::pin(node.quotas.sized("a", 20 * GIB));
    assert!(futures::poll!(sized.as_mut()).is_pending());
    node.quotas.wished().await;
    assert_eq!(node.reports(), Some((0, 20, 7)));
    assert_eq!(node.used(), (0, 0));
    // An answer to what was said before it wanted that.
    node.sets_aside(20, 6, 0);
    assert!(futures::poll!(sized.as_mut()).is_pending());
    node.sets_aside(20, 7, 80);
    assert_eq!(sized.await, Ok(()));
    assert_eq!(node.used(), (20, 1));
    node.publish("p1", "a", 20);
    assert_eq!(node.reports(), Some((20, 20, 7)));
    assert!(node.quotas.counts_the_cluster());
    // Two pods of a claim are one volume.
    node.enter("p2", "a").unwrap();
    node.sized("a", 20).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_others_have_is_told_at_once_and_what_could_be_had_only_after_a_while() {
    let node = node();
    node.sets_aside(0, 0, 90);
    node.enter("p1", "a").unwrap();
    assert_eq!(
        sentence(node.sized("a", 11)),
        "the volume has 11.0 GiB and the namespace's others in the cluster have 90.0 GiB, together more than the 100.0 GiB that CacheQuota q allows: delete pods or retained content, or ask an administrator to raise spec.cluster.logicalBytes"
    );
    node.enter("p2", "b").unwrap();
    let began = Instant::now();
    let refused = node.quotas.sized("b", 10 * GIB).await;
    assert_eq!(began.elapsed(), PATIENCE);
    assert_eq!(
        sentence(refused),
        "CacheQuota q has room in the cluster for this volume, which the controller has not set aside for this node yet; this goes on by itself when it has"
    );
    let waiter = waiter("p2", "b");
    let refusal = node.quotas.refusal(&waiter).unwrap();
    assert_eq!(refusal.kind(), Kind::Transient);
    // Whoever has given up wants nothing any more.
    node.leave(&waiter);
    let uses = node.quotas.uses();
    assert!(
        uses.iter()
            .all(|it| it.report.is_none_or(|report| report.wants == Usage::NONE))
    );
}

#[tokio::test(start_paused = true)]
async fn of_a_shared_load_whoever_has_no_reservation_waits_alone() {
    let node = node();
    node.enter("p1", "v").unwrap();
    let other = neighbour("p2");
    let free = other.waiter.clone();
    node.ask(other).unwrap();
    node.sized("v", 11).unwrap();
    assert_eq!(node.quotas.settled(&free, 11 * GIB, PATIENCE).await, Ok(()));
    let poor = waiter("p1", "v");
    let mut settled = Box::pin(node.quotas.settled(&poor, 11 * GIB, PATIENCE));
    assert!(futures::poll!(settled.as_mut()).is_pending());
    assert_eq!(node.reports(), Some((0, 11, 7)));
    node.sets_aside(11, 7, 0);
    assert_eq!(settled.await, Ok(()));
    assert_eq!(node.used(), (11, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_controller_longer_than_the_call_can_be_held() {
    let node = node();
    node.enter("p1", "v").unwrap();
    let (began, left) = (Instant::now(), Duration::from_secs(3));
    let refused = node.quotas.settled(&waiter("p1", "v"), GIB, left).await;
    let quota = "q".to_owned();
    assert_eq!(refused, Err(Refused::NotSetAside { quota }));
    assert!(began.elapsed() <= Duration::from_millis(3_001));
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_is_not_taken_again_before_the_controller_knows() {
    let node = node();
    node.enter("p1", "a").unwrap();
    assert_eq!(node.quotas.size_is("a", 20 * GIB), None);
    assert_eq!(node.reports(), Some((0, 20, 7)));
    node.sets_aside(20, 7, 0);
    node.sized("a", 20).unwrap();
    node.leave(&waiter("p1", "a"));
    // Nobody has been told yet.
    node.run("p2", "b", 20);
    node.records.lock().unwrap().clear();
    assert_eq!(node.reports(), Some((0, 0, 8)));
    node.enter("p3", "c").unwrap();
    assert_eq!(node.quotas.size_is("c", 20 * GIB), None);
    assert_eq!(node.reports(), Some((0, 20, 9)));
    node.sets_aside(0, 8, 100);
    let refused = sentence(node.sized("c", 20));
    assert!(
        refused.contains("in the cluster have 100.0 GiB"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_or_let_in_until_it_is_known_where_the_numbers_begin() {
    let node = Node::with(&spec());
    assert!(!node.quotas.counts_the_cluster());
    node.sets_aside(50, 3, 0);
    node.enter("p1", "a").unwrap();
    assert_eq!(node.quotas.size_is("a", GIB), None);
    assert_eq!(node.reports(), None);
    // Its predecessor may have said more than any row answers.
    node.quotas.begins_above(12);
    assert_eq!(node.reports(), Some((0, 1, 13)));
    let wait = Duration::from_millis(1);
    let waiter = waiter("p1", "a");
    let settled = node.quotas.settled(&waiter, GIB, PATIENCE);
    assert!(timeout(wait, settled).await.is_err());
    node.sets_aside(1, 13, 0);
    node.sized("a", 1).unwrap();
}

#[test]
fn what_a_predecessor_left_is_given_back_though_nobody_asks() {
    let node = node();
    node.sets_aside(50, 9, 0);
    assert_eq!(node.reports(), Some((0, 0, 10)));
}

#[tokio::test(start_paused = true)]
async fn of_two_volumes_that_wait_the_later_is_refused_where_there_is_room_for_one() {
    let node = node();
    node.enter("p1", "a").unwrap();
    node.enter("p2", "b").unwrap();
    assert_eq!(node.quotas.size_is("a", 60 * GIB), None);
    let refused = sentence(node.sized("b", 60));
    assert!(
        refused.contains("in the cluster have 60.0 GiB"),
        "{refused}"
    );
    assert_eq!(node.reports(), Some((0, 60, 7)));
    node.sets_aside(60, 7, 0);
    node.sized("a", 60).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_joins_a_load_of_which_nobody_knows_the_size_is_decided_about_at_its_end() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi"}}));
    let first = neighbour("p1");
    node.ask(first.clone()).unwrap();
    node.sized("v", 11).unwrap();
    node.ask(neighbour("p2")).unwrap();
    // Whoever knew the size has gone.
    node.leave(&first.waiter);
    node.quotas
        .lock()
        .seats
        .values_mut()
        .for_each(|seat| seat.bytes = None);
    node.enter("p3", "v").unwrap();
    let refused = node
        .quotas
        .settled(&waiter("p3", "v"), 11 * GIB, PATIENCE)
        .await;
    assert!(matches!(refused, Err(Refused::Exceeded(_))), "{refused:?}");
}

#[test]
fn who_has_said_something_with_a_number_goes_on_so_without_a_limit() {
    let node = node();
    node.sets_aside(20, 6, 0);
    assert_eq!(node.reports(), Some((0, 0, 7)));
    node.set(&json!({"perNode": {"volumes": 9}}), &Value::Null);
    node.enter("p1", "a").unwrap();
    assert_eq!(node.quotas.size_is("a", 5 * GIB), Some(Ok(())));
    assert_eq!(node.reports(), Some((5, 5, 8)));
}

#[tokio::test(start_paused = true)]
async fn volumes_of_the_cluster_are_set_aside_and_counted_as_bytes_are() {
    let node = Node::with(&json!({"cluster": {"volumes": 3}}));
    node.quotas.begins_above(6);
    let sets_aside = |volumes: u64, seq: u64, elsewhere: u64| {
        let rows = json!({"reserved": [
            {"node": "gpu-1", "bytes": 0, "volumes": volumes, "seq": seq},
            {"node": "gpu-2", "bytes": GIB, "volumes": elsewhere, "seq": 1},
        ]});
        node.set(&json!({"cluster": {"volumes": 3}}), &rows);
        node.quotas.reconsider();
    };
    let wants = || {
        let uses = node.quotas.uses();
        let report = uses.iter().find_map(|it| it.report).unwrap();
        (report.has.volumes, report.wants.volumes, report.seq)
    };
    sets_aside(0, 6, 1);
    node.enter("p1", "a").unwrap();
    assert_eq!(node.quotas.size_is("a", 20 * GIB), None);
    assert_eq!(wants(), (0, 1, Some(7)), "it is not let in yet");
    // However many bytes it has: these are not limited.
    sets_aside(1, 7, 1);
    node.sized("a", 20).unwrap();
    node.publish("p1", "a", 20);
    assert_eq!(wants(), (1, 1, Some(7)));
    // A second pod of it is no second volume.
    node.enter("p2", "a").unwrap();
    node.sized("a", 20).unwrap();
    // Whoever comes after the last is refused before anything is known of it, one who waits included.
    node.enter("p3", "b").unwrap();
    let refused = sentence(node.enter("p4", "c"));
    assert_eq!(
        refused,
        "the namespace has 3 volumes in the cluster and CacheQuota q allows 3: delete pods or retained content, or ask an administrator to raise spec.cluster.volumes"
    );
    node.leave(&waiter("p3", "b"));
    node.enter("p4", "c").unwrap();
    assert_eq!(node.quotas.size_is("c", GIB), None);
    assert_eq!(wants(), (1, 2, Some(8)));
    // It went to another node meanwhile.
    sets_aside(1, 8, 2);
    let refused = sentence(node.sized("c", 1));
    assert!(
        refused.starts_with("the namespace has 3 volumes in the cluster"),
        "{refused}"
    );
}
