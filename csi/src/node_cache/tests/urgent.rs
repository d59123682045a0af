//! What other nodes decide by is not kept from them for a minute.

use super::*;
use crate::govern::quotas::{Asked, place};
use crate::inflight::WaiterId;
use crate::volume::VolumeId;

#[tokio::test(start_paused = true)]
async fn what_other_nodes_decide_by_is_written_within_twelve_seconds() {
    let site = Site::new();
    let rule = |spec: &str| {
        let quota = json!({
            "apiVersion": "tonnage.dev/v1alpha1", "kind": "CacheQuota",
            "metadata": {"name": "q", "namespace": "team"}, "spec": {spec: {"logicalBytes": "1Ti"}},
        });
        site.quotas.learn(&serde_json::from_value(quota).unwrap());
    };
    let enter = |name: &str| {
        let asked = Asked {
            waiter: WaiterId {
                volume: VolumeId::parse(name).unwrap(),
                target: name.into(),
            },
            load: name.to_owned(),
            namespace: "team".to_owned(),
            place: place("models", name),
        };
        let stay = site.quotas.enter(asked).unwrap();
        site.quotas.size_is(name, 1_000);
        stay
    };
    rule("cluster");
    site.tell(async |asked| {
        let [_, _, first] = expect(asked, [NODE, OBJECT, STATUS]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stay = enter("a");
        let [second] = expect(asked, [STATUS]).await;
        let between = (second.at - first.at).as_secs();
        assert!((10..=12).contains(&between), "{between}");
        assert_eq!(
            second.body["status"]["namespaces"],
            json!([{
                "namespace": "team", "logicalBytes": 1_000, "volumes": 1,
                "physicalBytes": 0, "sharedBytes": 0,
            }])
        );
        // On the node alone it matters to nobody else.
        rule("perNode");
        drop(stay);
        let [third] = expect(asked, [STATUS]).await;
        let between = (third.at - second.at).as_secs();
        assert!((60..=75).contains(&between), "{between}");
        assert!(third.body["status"]["namespaces"].is_null());
    })
    .await;
}
