//! What a policy that cannot be read does to the namespaces that it selects. It is as strict as its mode, which is `Audit` while it is
//! overruled.

use tonnage_csi::crd::Mode;
use tonnage_csi::egress::compiled::Compiled;

/// What it does at these times, in words.
pub(super) fn effect(policy: &Compiled, times_unix: impl IntoIterator<Item = i64>) -> &'static str {
    let (mut denies, mut is_overruled) = (false, false);
    for now in times_unix {
        denies |= policy.mode(now) == Mode::Enforce;
        is_overruled |= policy.overruled(now).is_some();
    }
    match (denies, is_overruled) {
        (true, false) => "denies all that it selects",
        (true, true) => "denies all that it selects, but not while it is overruled",
        (false, true) => "denies nothing while it is overruled",
        (false, false) => "denies nothing, as its mode is Audit",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_malformed_policy_is_as_strict_as_its_mode_at_each_time() {
        let policy = |mode: &str| {
            Compiled::from_json(&json!({
                "apiVersion": "tonnage.dev/v1alpha1",
                "kind": "EgressPolicy",
                "metadata": {"name": "p", "annotations": {
                    "tonnage.dev/override-until": "1970-01-01T00:01:00Z",
                    "tonnage.dev/override-reason": "incident 4711",
                }},
                "spec": {"namespaces": {}, "mode": mode, "rate": {"connectionsPerNode": 0}},
            }))
        };
        let (enforce, audit) = (policy("Enforce"), policy("Audit"));
        assert!(enforce.rules().is_err() && audit.rules().is_err());
        for (policy, times, words) in [
            (&enforce, vec![60], "denies all that it selects"),
            (
                &enforce,
                vec![59, 60],
                "denies all that it selects, but not while it is overruled",
            ),
            (
                &enforce,
                vec![58, 59],
                "denies nothing while it is overruled",
            ),
            (&audit, vec![59, 60], "denies nothing, as its mode is Audit"),
        ] {
            assert_eq!(effect(policy, times.clone()), words, "{times:?}");
        }
    }
}
