//! The rules of egress, as far as they concern a claim: what no pod of its namespace may load is not listed for it either. Which
//! service accounts may is asked at each mount, as is what budgets have left: nothing is downloaded here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonnage_cache::clock::{Clock, unix_millis};
use tonnage_cache::source::location::Location;

use crate::egress::compiled::Compiled;
use crate::egress::policy::{What, Who};
use crate::govern::rules::{Rulebook, Snapshot};
use crate::policy::Refusal;
use crate::volume::Attributes;

/// How old the rules may be: what policies have for `maxStalenessSeconds` where they do not say.
const OLDEST: Duration = Duration::from_mins(30);

/// Asks the rules.
#[derive(Debug)]
pub(super) struct Egress {
    rulebook: Rulebook,
    clock: Arc<dyn Clock>,
}

/// The rules at one moment.
#[derive(Debug)]
pub(super) struct Rules {
    snapshot: Snapshot,
    now_unix: i64,
}

/// The namespace of a claim, with its labels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tenant<'a> {
    pub(super) namespace: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
}

impl Egress {
    pub(super) fn new(rulebook: Rulebook, clock: Arc<dyn Clock>) -> Self {
        Self { rulebook, clock }
    }

    /// The rules now. Until they were read, and when that was long ago, nobody knows what they forbid.
    pub(super) fn rules(&self) -> Result<Rules, Refusal> {
        let snapshot = self.rulebook.snapshot();
        if snapshot.age.is_none_or(|age| age > OLDEST) {
            return Err(Refusal::Unavailable(
                "the EgressPolicies could not be read from the API server lately; this is tried again by itself, and the controller's log says what is wrong"
                    .to_owned(),
            ));
        }
        let seconds = unix_millis(self.clock.now()) / 1_000;
        Ok(Rules {
            snapshot,
            now_unix: i64::try_from(seconds).unwrap_or(i64::MAX),
        })
    }
}

impl Rules {
    /// Whether labels of a namespace can change an answer.
    pub(super) fn needs_labels(&self) -> bool {
        self.snapshot.policies.iter().any(Compiled::needs_labels)
    }

    /// Whether some service account of a namespace may load a volume; otherwise why the first of them may not.
    pub(super) fn check(
        &self,
        tenant: Tenant<'_>,
        location: &Location,
        attributes: &Attributes,
    ) -> Result<(), Refusal> {
        let path = location.path(&attributes.path);
        let what = What {
            source: &attributes.source,
            host: &location.host,
            bucket: &location.bucket,
            path: &path,
            has_digest: attributes.digest.is_some(),
        };
        let mut why = None;
        for service_account in self.accounts(tenant) {
            let who = Who {
                namespace: tenant.namespace,
                labels: tenant.labels,
                service_account,
            };
            match self.snapshot.decide(self.now_unix, &who, &what).verdict {
                Ok(_) => return Ok(()),
                Err(denial) => why = why.or(Some(denial.message)),
            }
        }
        why.map_or(Ok(()), |sentence| Err(Refusal::Denied(sentence)))
    }

    /// Service accounts that stand for all of a namespace: those that its policies name, and last one that no policy can name.
    fn accounts(&self, tenant: Tenant<'_>) -> Vec<&str> {
        let policies = self.snapshot.policies.iter();
        let selecting = policies.filter(|it| it.selects(tenant.namespace, tenant.labels));
        let named = selecting
            .filter_map(|policy| policy.rules().ok())
            .flat_map(|rules| &rules.service_accounts)
            .map(String::as_str);
        named.chain(["default", ""]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};
    use tonnage_cache::clock::ManualClock;
    use tonnage_cache::error::Kind;

    use super::*;
    use crate::egress::policy::DefaultEgress;

    fn egress(default_egress: DefaultEgress) -> (Egress, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let seam: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let own: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        (Egress::new(Rulebook::new(default_egress, seam), own), clock)
    }

    fn policy(spec: &Value) -> Compiled {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "p", "uid": "u", "generation": 1},
            "spec": spec,
        }))
    }

    /// What a claim of `team-a` for `llama` of the source `models` is told by policies with these specifications.
    fn told(specs: &[Value]) -> Result<(), Refusal> {
        let (egress, _) = egress(DefaultEgress::Allow);
        let policies = specs.iter().map(policy).collect();
        egress.rulebook.replace(policies, Duration::ZERO);
        let labels = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        let tenant = Tenant {
            namespace: "team-a",
            labels: &labels,
        };
        let location = Location {
            host: "s3.example.com".to_owned(),
            bucket: "weights".to_owned(),
            base: "base".to_owned(),
            ..Location::default()
        };
        let attributes = Attributes {
            source: "models".to_owned(),
            path: "llama".to_owned(),
            ..Attributes::default()
        };
        egress.rules()?.check(tenant, &location, &attributes)
    }

    fn denial(specs: &[Value]) -> String {
        match told(specs) {
            Err(Refusal::Denied(sentence)) => sentence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rules_that_were_never_read_or_long_ago_are_waited_for() {
        let (egress, clock) = egress(DefaultEgress::Deny);
        let refusal = egress.rules().unwrap_err();
        assert_eq!(refusal.kind(), Kind::Transient);
        egress.rulebook.replace(Vec::new(), Duration::ZERO);
        assert!(egress.rules().is_ok());
        clock.advance(OLDEST + Duration::from_secs(1));
        assert_eq!(egress.rules().unwrap_err().kind(), Kind::Transient);
        egress.rulebook.prove(clock.monotonic());
        let labels = BTreeMap::new();
        let tenant = Tenant {
            namespace: "team-a",
            labels: &labels,
        };
        let rules = egress.rules().unwrap();
        assert!(!rules.needs_labels());
        let told = rules.check(tenant, &Location::default(), &Attributes::default());
        let told = told.unwrap_err();
        assert_eq!(told.kind(), Kind::Denied);
        assert!(told.to_string().contains("defaultEgress is Deny"), "{told}");
    }

    #[test]
    fn a_claim_is_refused_what_no_policy_of_its_namespace_names_in_the_policy_s_words() {
        let names = json!({"names": ["team-a"]});
        let of = |prefix: &str| json!({"namespaces": names, "allow": [{"hosts": ["s3.example.com"], "prefixes": [prefix]}]});
        assert_eq!(told(&[of("base/llama")]), Ok(()));
        let sentence = denial(&[of("base/other")]);
        assert!(
            sentence.contains("no entry of spec.allow of EgressPolicy p names it"),
            "{sentence}"
        );
        let elsewhere = json!({"namespaces": {"names": ["team-b"]}, "allow": []});
        assert_eq!(told(&[elsewhere]), Ok(()));
        let audit = json!({"namespaces": {}, "mode": "Audit", "allow": []});
        assert_eq!(told(&[audit]), Ok(()));
        let labelled = json!({"namespaces": {"matchLabels": {"tier": "gold"}}, "allow": []});
        assert!(told(&[labelled]).is_err());
        let pinned = json!({"namespaces": {}, "allow": [{}], "requireDigest": true});
        assert!(denial(&[pinned]).contains("set the volume's attribute digest"));
    }

    #[test]
    fn it_is_enough_that_one_service_account_may() {
        let of = |accounts: Value, allow: Value| json!({"namespaces": {}, "serviceAccounts": accounts, "allow": allow});
        let trainers = of(json!(["trainer"]), json!([{}]));
        assert_eq!(told(std::slice::from_ref(&trainers)), Ok(()));
        let nothing = of(json!(["trainer"]), json!([{"sources": ["other"]}]));
        let sentence = denial(&[nothing]);
        assert!(
            sentence.starts_with("service account team-a/trainer "),
            "{sentence}"
        );
        // Whom the strict policy does not name needs no digest.
        let strict = json!({"namespaces": {}, "serviceAccounts": ["default"], "allow": [{}], "requireDigest": true});
        let open = json!({"namespaces": {}, "allow": [{}]});
        assert_eq!(told(&[strict, open]), Ok(()));
    }
}
