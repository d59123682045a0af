//! The conversation of a node with the controller, as anybody might write it into the object.

use proptest::prelude::*;
use tonnage_csi::crd::{DemandLine, EgressLease, EgressLeaseSpec, EgressLeaseStatus, GrantLine};
use tonnage_csi::egress::ledger::objects::{read_lease, spec, status};
use tonnage_csi::egress::ledger::{Ask, Asks, grants};

use super::words::{settings, text};

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0i64..9, 1 => any::<i64>()]
}

fn incarnation() -> impl Strategy<Value = String> {
    prop_oneof![4 => "000000000000000[0-3]", 1 => "[0-9a-fA-F]{0,18}", 1 => text()]
}

prop_compose! {
    fn demand()(
        policy_uid in "[ab]",
        budget in "[cd]",
        namespace in proptest::option::of("[ef]"),
        (seq, wanted_bytes, spent_bytes) in (number(), number(), number()),
    ) -> DemandLine {
        DemandLine { policy_uid, budget, namespace, seq, wanted_bytes, spent_bytes, spent_by: Vec::new() }
    }
}

prop_compose! {
    fn grant()(
        policy_uid in "[ab]",
        budget in "[cd]",
        namespace in proptest::option::of("[ef]"),
        incarnation in incarnation(),
        (seq, bytes, duration_seconds) in (number(), number(), number()),
        message in proptest::option::of(text()),
    ) -> GrantLine {
        GrantLine { policy_uid, budget, namespace, incarnation, seq, bytes, duration_seconds, message }
    }
}

prop_compose! {
    fn lease()(
        node in "[n-p]",
        incarnation in incarnation(),
        demands in proptest::collection::vec(demand(), 0..6),
        answered in proptest::option::of(proptest::collection::vec(grant(), 0..6)),
    ) -> EgressLease {
        let spec = EgressLeaseSpec { incarnation, demands, ..EgressLeaseSpec::default() };
        let mut object = EgressLease::new(&node, spec);
        object.status = answered.map(|grants| EgressLeaseStatus { grants });
        object
    }
}

proptest! {
    #![proptest_config(settings(256))]

    #[test]
    fn a_lease_that_was_read_is_written_and_read_as_itself(object in lease()) {
        let lease = read_lease(&object);
        let mut again = EgressLease::new(&lease.node, spec(lease.incarnation, &lease.demands));
        again.status = Some(status(&lease.grants, |_| None));
        prop_assert_eq!(read_lease(&again), lease);
    }

    #[test]
    fn without_a_ledger_nothing_is_granted_that_was_not(object in lease()) {
        let lease = read_lease(&object);
        if let Some(granted) = grants(&lease, |_| None) {
            prop_assert!(granted.iter().all(|grant| lease.grants.contains(grant)));
        }
    }

    #[test]
    fn what_was_asked_is_forgotten_with_its_object(
        first in lease(),
        second in lease(),
        third in lease(),
    ) {
        let mut asks = Asks::default();
        for object in [&first, &second, &third] {
            asks.update(&read_lease(object));
        }
        // Of each node the newest object counts: what it asks, and nothing that it no longer asks.
        for node in ["n", "o", "p"] {
            let objects = [&third, &second, &first];
            let newest = objects.into_iter().find(|it| it.metadata.name.as_deref() == Some(node));
            let newest = newest.map(read_lease);
            let accounts: Vec<_> = asks.accounts().cloned().collect();
            for account in accounts {
                let found = asks.of(&account).get(node).copied();
                let expected = newest.as_ref().and_then(|lease| {
                    let mut demands = lease.demands.iter();
                    let demand = demands.rfind(|it| it.account == account);
                    demand.map(|demand| Ask::of(lease, demand))
                });
                prop_assert_eq!(found, expected);
            }
        }
        for node in ["n", "o", "p"] {
            asks.remove(node);
        }
        prop_assert_eq!(asks, Asks::default());
    }
}
