//! What a pod waits for is said at once, and what other nodes may have is not kept from them for a minute.

use super::*;
use crate::govern::quotas::{Asked, place};
use crate::inflight::WaiterId;
use crate::volume::VolumeId;

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_written_within_a_second_and_what_is_given_back_within_twelve() {
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
        (stay, site.quotas.size_is(name, 1_000))
    };
    rule("cluster");
    site.tell(async |asked| {
        let [_, _, first] = expect(asked, [NODE, OBJECT, STATUS]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (stay, sized) = enter("a");
        assert_eq!(sized, None, "nothing is set aside");
        let [second] = expect(asked, [STATUS]).await;
        let between = (second.at - first.at).as_secs();
        assert!((2..=3).contains(&between), "{between}");
        let said = |wanted: i64, seq: i64, volumes: i64| {
            json!([{
                "namespace": "team", "logicalBytes": 0, "volumes": 0, "physicalBytes": 0, "sharedBytes": 0,
                "wantedBytes": wanted, "wantedVolumes": volumes, "seq": seq,
            }])
        };
        assert_eq!(second.body["status"]["namespaces"], said(1_000, 1, 1));
        drop(stay);
        let [third] = expect(asked, [STATUS]).await;
        let between = (third.at - second.at).as_secs();
        assert!((10..=12).contains(&between), "{between}");
        assert_eq!(third.body["status"]["namespaces"], said(0, 2, 0));
        // On the node alone it matters to nobody else.
        rule("perNode");
        let (stay, sized) = enter("b");
        assert_eq!(sized, Some(Ok(())));
        let [fourth] = expect(asked, [STATUS]).await;
        let between = (fourth.at - third.at).as_secs();
        assert!((60..=75).contains(&between), "{between}");
        drop(stay);
    })
    .await;
}
