//! The cluster's own ranges are closed to Sources, whoever they are read as, and open to those that name them.

use tokio::net::TcpListener;
use tonnage_cache::gate::address::{AddressRules, Class, decide};
use tonnage_cache::source::Limits;

use super::*;

const CLUSTER: [&str; 3] = ["10.96.0.0/16", "10.244.0.0/16", "fd00:10:96::/112"];

/// What every mode may connect to, in this order: `Anonymous`, `PodSecret`, `Node`, `WorkloadIdentity`.
fn rules(allowed: &[&str]) -> Vec<AddressRules> {
    let role = json!({"aws": {"roleArn": "arn:aws:iam::1:role/r"}});
    let modes = [
        json!({"mode": "Anonymous"}),
        json!({"mode": "PodSecret"}),
        json!({"mode": "Node"}),
        json!({"mode": "WorkloadIdentity", "workloadIdentity": role}),
    ];
    let of_mode = |auth: &Value| {
        let mut keeper = keeper(&CLUSTER);
        let spec = json!({"url": "s3://private", "auth": auth, "allowedCIDRs": allowed});
        keeper.take(Event::Apply(parsed("models", &spec)));
        keeper.built.get("models").unwrap().address_rules()
    };
    modes.iter().map(of_mode).collect()
}

/// The one source of a cluster with these ranges.
fn known(cluster: &[&str], spec: &Value) -> Sources {
    let mut keeper = keeper(cluster);
    keeper.take(Event::Init);
    keeper.take(Event::InitApply(parsed("models", spec)));
    keeper.take(Event::InitDone);
    keeper.sources
}

#[test]
fn the_ranges_of_the_cluster_are_closed_to_every_source_that_does_not_name_them() {
    let may = |address: &str, rules: &AddressRules| decide(address.parse().unwrap(), rules);
    for closed in rules(&[]) {
        for address in [
            "10.96.0.1",
            "10.96.255.255",
            "10.244.3.7",
            "fd00:10:96::a",
            "::ffff:10.96.0.1",
        ] {
            assert_eq!(may(address, &closed), Err(Class::Cluster), "{address}");
        }
        for address in ["10.97.0.1", "192.168.1.1", "fd00:10:97::a", "52.218.0.1"] {
            assert_eq!(may(address, &closed), Ok(()), "{address}");
        }
    }
    for open in rules(&["10.96.0.10/32"]) {
        assert_eq!(may("10.96.0.10", &open), Ok(()));
        assert_eq!(may("10.96.0.11", &open), Err(Class::Cluster));
    }
}

#[tokio::test]
async fn a_store_and_a_token_service_in_a_closed_range_are_refused_in_a_sentence() {
    let role = json!({"roleArn": "arn:aws:iam::1:role/r", "stsEndpoint": "http://10.244.0.9:8080"});
    let keys = Secrets::new(std::collections::HashMap::from([
        ("accessKeyId".to_owned(), "id".to_owned()),
        ("secretAccessKey".to_owned(), "secret".to_owned()),
    ]));
    for (spec, secrets, sentence) in [
        (
            json!({"url": "s3://b", "endpoint": "http://10.96.0.10:9000"}),
            Secrets::default(),
            "host \"10.96.0.10\" is at 10.96.0.10: an address inside the cluster, which this source does not allow",
        ),
        (
            json!({"url": "s3://b", "endpoint": "http://10.244.0.7:9000", "auth": {"mode": "PodSecret"}}),
            keys,
            "host \"10.244.0.7\" is at 10.244.0.7: an address inside the cluster, which this source does not allow",
        ),
        (
            json!({"url": "s3://b", "auth": {"mode": "WorkloadIdentity", "workloadIdentity": {"aws": role}}}),
            tokens(&["sts.amazonaws.com"]),
            "no temporary keys from 10.244.0.9:8080: host \"10.244.0.9\" is at 10.244.0.9: an address inside the cluster, which this source does not allow",
        ),
    ] {
        let sources = known(&CLUSTER, &spec);
        let source = sources
            .get_for("models", &principal("trainer"), &secrets)
            .unwrap();
        let listed = source.list("", &Limits::default()).await;
        let error = listed.map(drop).unwrap_err();
        assert_eq!(error.to_string(), sentence);
        assert_eq!(error.kind(), Kind::Denied, "{error}");
    }
}

#[tokio::test]
async fn a_proxy_in_a_closed_range_is_refused_in_a_sentence_until_the_source_names_it() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let through = |allowed: &[&str]| {
        let spec = json!({
            "url": "s3://b",
            "endpoint": "https://store.example",
            "proxy": format!("http://{address}"),
            "allowedCIDRs": allowed,
        });
        known(&["127.0.0.0/8"], &spec).get("models").unwrap()
    };
    let limits = Limits::default();
    let listed = through(&[]).list("", &limits).await;
    let error = listed.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    let text = error.to_string();
    assert!(text.contains("is at 127.0.0.1: "), "{text}");
    let open = through(&["127.0.0.1/32"]);
    tokio::select! {
        accepted = proxy.accept() => drop(accepted.unwrap()),
        listed = open.list("", &limits) => panic!("{listed:?}"),
    }
}

#[tokio::test]
async fn a_store_in_a_closed_range_that_the_source_names_is_connected_to() {
    let store = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", store.local_addr().unwrap());
    let spec = json!({"url": "s3://b", "endpoint": endpoint, "allowedCIDRs": ["127.0.0.1/32"]});
    let source = known(&["127.0.0.0/8"], &spec).get("models").unwrap();
    let limits = Limits::default();
    tokio::select! {
        accepted = store.accept() => drop(accepted.unwrap()),
        listed = source.list("", &limits) => panic!("{listed:?}"),
    }
}
