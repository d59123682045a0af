//! Connections and redirects.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn connects(site: &Site, host: &str) -> Result<(), Refusal> {
    site.gate.connect(&Connection {
        source: "models".to_owned(),
        host: host.to_owned(),
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        port: 443,
    })
}

fn redirects(site: &Site, load: &str, host: &str) -> Result<(), Refusal> {
    site.gate.redirect(&Redirection {
        source: "models",
        host,
        load,
    })
}

/// Namespace `a` may load from the mirror, too, and `b` from the source's own host alone.
fn mirrored() -> Site {
    let of = |name: &str, hosts: &[&str]| {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": name, "uid": name},
            "spec": {"namespaces": {"names": [name]}, "allow": [{"hosts": hosts}]},
        }))
    };
    Site::new(&[
        of("a", &["s3.example.com", "mirror.example.com"]),
        of("b", &["s3.example.com"]),
    ])
}

#[test]
fn a_source_reaches_its_own_host_and_whoever_gives_its_keys() {
    let site = mirrored();
    assert_eq!(connects(&site, "S3.example.com"), Ok(()));
    assert_eq!(connects(&site, "sts.example.com"), Ok(()));
    let refusal = connects(&site, "evil.example.com").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "host \"evil.example.com\" is not that of source \"models\", and no pod that may use it waits for something from there"
    );
}

#[test]
fn another_host_is_open_while_somebody_waits_who_may_use_it() {
    let site = mirrored();
    let (_opened, seats) = site.load(&["b", "a"]);
    assert_eq!(connects(&site, "mirror.example.com"), Ok(()));
    assert_eq!(redirects(&site, LOAD, "mirror.example.com"), Ok(()));
    assert!(redirects(&site, LOAD, "evil.example.com").is_err());
    drop(seats);
    assert!(connects(&site, "mirror.example.com").is_err());
}

#[test]
fn one_namespace_s_list_opens_no_host_for_the_load_of_another() {
    let site = mirrored();
    let (_opened, _seats) = site.load(&["b"]);
    let other = site.judge("a").unwrap();
    let (_other_opened, _other_seat) = other.open("l2", Arc::default());
    assert_eq!(redirects(&site, "l2", "mirror.example.com"), Ok(()));
    let refusal = redirects(&site, LOAD, "mirror.example.com").unwrap_err();
    assert!(matches!(refusal, Refusal::Denied(_)), "{refusal:?}");
    assert!(
        refusal.to_string().contains("host \"mirror.example.com\""),
        "{refusal}"
    );
    assert!(redirects(&site, "l3", "mirror.example.com").is_err());
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_use_the_host_that_a_source_leads_to_is_told_its_own_refusal_of_it() {
    let site = mirrored();
    let (a, b) = (site.judge("a").unwrap(), site.judge("b").unwrap());
    let (_opened, _seat) = a.open(LOAD, Arc::default());
    let _other = b.join(LOAD).unwrap();
    let said = redirects(&site, LOAD, "cdn.example.com").unwrap_err();
    for (admission, own, strange) in [(&a, "a", "b"), (&b, "b", "a")] {
        let told = admission.refusal_of_host(&said).unwrap();
        let of_bytes = admission.refusal_of_bytes(&said);
        assert_eq!(of_bytes.as_ref(), Some(&told));
        assert!(matches!(told, Refusal::Denied(_)), "{told:?}");
        let told = told.to_string();
        let begins = format!("service account {own}/default may not load this");
        assert!(told.starts_with(&begins), "{told}");
        assert!(told.contains(&format!("EgressPolicy {own} ")), "{told}");
        assert!(
            !told.contains(&format!("EgressPolicy {strange} ")),
            "{told}"
        );
        assert!(
            told.ends_with(" (asked for host \"cdn.example.com\")"),
            "{told}"
        );
    }
}

#[test]
fn a_host_that_all_who_wait_may_not_use_is_told_of_once_to_each_and_named() {
    let site = mirrored();
    let (opened, seats) = site.load(&["a", "b"]);
    for _ in 0..2 {
        assert!(redirects(&site, LOAD, "cdn.example.com").is_err());
        assert_eq!(redirects(&site, LOAD, "mirror.example.com"), Ok(()));
    }
    drop((opened, seats));
    assert_eq!(site.denials.lines(8 << 10).1.len(), 2);
    let events = site.events();
    let told: Vec<(&str, &str)> = events
        .iter()
        .map(|it| {
            assert_eq!(it.event, Event::Deny);
            let (who, what) = (it.who.as_ref().unwrap(), it.what.as_ref().unwrap());
            (who.namespace.as_str(), what.host.as_str())
        })
        .collect();
    assert_eq!(told, [("a", "cdn.example.com"), ("b", "cdn.example.com")]);
    let reason = events[1].reason.as_ref().unwrap();
    assert!(
        reason.ends_with(" (asked for host \"cdn.example.com\")"),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_may_use_the_host_is_told_nothing_of_a_refusal_that_is_another_s() {
    let site = mirrored();
    let (a, b) = (site.judge("a").unwrap(), site.judge("b").unwrap());
    let (_opened, _seat) = b.open(LOAD, Arc::default());
    let said = redirects(&site, LOAD, "mirror.example.com").unwrap_err();
    let _late = a.join(LOAD).unwrap();
    assert_eq!(a.refusal_of_host(&said), None);
    assert_eq!(b.refusal_of_host(&said), Some(said));
}
