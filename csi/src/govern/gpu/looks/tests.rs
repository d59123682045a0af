//! When is looked, and what each look settles.

use tonnage_proto::podresources::{ContainerDevices, ContainerResources};

use super::*;

const NOBODY: [(Waited, u32); 0] = [];

/// A moment, by the seconds since the first one.
#[derive(Debug, Clone, Copy)]
struct Start(Instant);

impl Start {
    fn now() -> Self {
        Self(Instant::now())
    }

    fn at(self, millis: u64) -> Instant {
        self.0 + Duration::from_millis(millis)
    }

    fn due(self, looks: &Looks) -> Option<u128> {
        Some(looks.due()?.duration_since(self.0).as_millis())
    }
}

fn waited(pod: &str, seconds: u64) -> Waited {
    Waited {
        namespace: "team".to_owned(),
        pod: pod.to_owned(),
        source: "models".to_owned(),
        time: Duration::from_secs(seconds),
    }
}

fn pod(name: &str, ids: &[&str]) -> PodResources {
    PodResources {
        name: name.to_owned(),
        namespace: "team".to_owned(),
        containers: vec![ContainerResources {
            name: "server".to_owned(),
            devices: vec![ContainerDevices {
                resource_name: "nvidia.com/gpu".to_owned(),
                device_ids: ids.iter().map(ToString::to_string).collect(),
            }],
            dynamic_resources: Vec::new(),
        }],
    }
}

#[test]
fn the_gpus_of_a_pod_count_for_each_of_its_loads_and_once() {
    let start = Start::now();
    let mut looks = Looks::default();
    looks.add(
        [waited("server-0", 30), waited("server-0", 12)],
        start.at(0),
    );
    assert_eq!(start.due(&looks), Some(0));
    let pods = [pod("server-0", &["a", "b"]), pod("other", &["c"])];
    assert_eq!(
        looks.looked(&pods, start.at(0)),
        [(waited("server-0", 30), 2), (waited("server-0", 12), 2)]
    );
    assert_eq!(start.due(&looks), None);
    assert_eq!(looks.looked(&pods, start.at(5_000)), NOBODY);
}

#[test]
fn a_pod_without_gpus_is_looked_up_five_times_in_five_minutes() {
    let start = Start::now();
    let mut looks = Looks::default();
    looks.add([waited("server-0", 30)], start.at(0));
    let mut seen = Vec::new();
    while let Some(due) = start.due(&looks) {
        seen.push(due);
        let now = start.at(u64::try_from(due).unwrap());
        assert_eq!(looks.looked(&[pod("server-0", &[])], now), NOBODY);
    }
    assert_eq!(seen, [0, 2_000, 10_000, 60_000, 300_000]);
}

#[test]
fn devices_of_a_claim_count_although_they_are_prepared_after_the_mount() {
    let start = Start::now();
    let mut looks = Looks::default();
    looks.add([waited("server-0", 30)], start.at(0));
    assert_eq!(looks.looked(&[pod("server-0", &[])], start.at(0)), NOBODY);
    assert_eq!(
        looks.looked(&[pod("server-0", &["a"])], start.at(2_000)),
        [(waited("server-0", 30), 1)]
    );
}

#[test]
fn a_load_that_ends_while_kubelet_is_away_is_counted_when_it_is_back() {
    let start = Start::now();
    let mut looks = Looks::default();
    looks.add([waited("server-0", 30)], start.at(0));
    for millis in [0, 2_000, 10_000] {
        assert_eq!(looks.looked(&[], start.at(millis)), NOBODY);
    }
    assert_eq!(
        looks.looked(&[pod("server-0", &["a", "b"])], start.at(60_000)),
        [(waited("server-0", 30), 2)]
    );
}

#[test]
fn a_look_is_for_all_that_wait_and_takes_no_look_from_who_is_not_due() {
    let start = Start::now();
    let mut looks = Looks::default();
    looks.add([waited("first", 30)], start.at(0));
    assert_eq!(looks.looked(&[], start.at(0)), NOBODY);
    looks.add([waited("second", 7)], start.at(1_500));
    assert_eq!(start.due(&looks), Some(1_500));
    assert_eq!(
        looks.looked(&[pod("second", &["a"])], start.at(1_500)),
        [(waited("second", 7), 1)]
    );
    // The look at 1.5 s was not the first one's second look, and the one at 2 s waits until a second has passed.
    assert_eq!(start.due(&looks), Some(2_500));
    assert_eq!(looks.looked(&[], start.at(2_500)), NOBODY);
    assert_eq!(start.due(&looks), Some(10_500));
}

#[test]
fn loads_that_end_one_after_the_other_are_looked_up_once_a_second() {
    let start = Start::now();
    let mut looks = Looks::default();
    let mut count = 0;
    for millis in (0..3_000).step_by(10) {
        looks.add([waited("server-0", 1)], start.at(millis));
        if looks.due().is_some_and(|due| due <= start.at(millis)) {
            looks.looked(&[pod("server-0", &["a"])], start.at(millis));
            count += 1;
        }
    }
    assert_eq!(count, 3);
}

#[test]
fn of_two_pods_of_one_name_the_one_with_more_gpus_counts() {
    let start = Start::now();
    let mut looks = Looks::default();
    looks.add([waited("server-0", 30)], start.at(0));
    let pods = [pod("server-0", &["a", "b"]), pod("server-0", &[])];
    assert_eq!(
        looks.looked(&pods, start.at(0)),
        [(waited("server-0", 30), 2)]
    );
}

#[test]
fn more_loads_than_can_wait_are_left_out() {
    let start = Start::now();
    let mut looks = Looks::default();
    looks.add((0..=MOST).map(|_| waited("server-0", 1)), start.at(0));
    looks.add([waited("server-0", 1)], start.at(0));
    let counted = looks.looked(&[pod("server-0", &["a"])], start.at(0));
    assert_eq!(counted.len(), MOST);
}
