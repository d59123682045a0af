//! Why a policy says no, in one sentence for who reads the pod's event: which policy, and what to change.

use std::fmt;

use tonnage_cache::path::Escaped;

use super::{Question, Said, Who};
use crate::egress::compiled::{Compiled, Dimension};

/// Most policies that a sentence names.
const NAMED: usize = 4;

/// A no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What kind.
    pub cause: Cause,
    /// Names of the policies that say it; none where the default does.
    pub policies: Vec<String>,
    /// The sentence.
    pub message: String,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No policy selects the namespace, and the default denies.
    Unselected,
    /// A policy cannot be read.
    Malformed,
    /// The policies of the namespace are for other service accounts.
    OtherAccounts,
    /// No allow-list names it.
    Unnamed,
    /// A digest must be named.
    NoDigest,
}

impl Cause {
    /// One word for labels of metrics and the audit log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unselected => "unselected",
            Self::Malformed => "malformed",
            Self::OtherAccounts => "other-accounts",
            Self::Unnamed => "unnamed",
            Self::NoDigest => "no-digest",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub(super) fn unselected(who: &Who<'_>) -> Denial {
    Denial {
        cause: Cause::Unselected,
        policies: Vec::new(),
        message: format!(
            "no EgressPolicy in mode Enforce selects namespace {}, and defaultEgress is Deny; ask an administrator for one that does",
            who.namespace
        ),
    }
}

pub(super) fn malformed(policy: &Compiled, who: &Who<'_>, why: &str) -> Denial {
    Denial {
        cause: Cause::Malformed,
        policies: vec![policy.name.clone()],
        message: format!(
            "EgressPolicy {} selects namespace {} and denies everything there until an administrator mends it: {why}",
            policy.name.escape_default(),
            who.namespace
        ),
    }
}

pub(super) fn other_accounts(policies: &[&Compiled], who: &Who<'_>) -> Denial {
    let policies: Vec<String> = policies.iter().map(|policy| policy.name.clone()).collect();
    Denial {
        cause: Cause::OtherAccounts,
        message: format!(
            "service account {}/{} may load nothing: {} {} for other service accounts of its namespace; ask an administrator to add it to spec.serviceAccounts",
            who.namespace,
            who.service_account,
            named(&policies),
            if policies.len() == 1 { "is" } else { "are" },
        ),
        policies,
    }
}

/// `closest` is the entry that misses least, with what it misses.
pub(super) fn unnamed(
    said: &[Said<'_>],
    question: &Question<'_>,
    closest: Option<(&Compiled, usize, Vec<Dimension>)>,
) -> Denial {
    let Question { who, what } = *question;
    let policies: Vec<String> = said.iter().map(|(policy, _)| policy.name.clone()).collect();
    let hint = match closest {
        None => "spec.allow is empty".to_owned(),
        Some((policy, index, missed)) => {
            let missed: Vec<String> = missed
                .iter()
                .map(|dimension| match dimension {
                    Dimension::Source => format!("source {}", Escaped(what.source)),
                    Dimension::Host => format!("host {}", Escaped(what.host)),
                    Dimension::Bucket => format!("bucket {}", Escaped(what.bucket)),
                    Dimension::Prefix if what.path.is_empty() => "all paths".to_owned(),
                    Dimension::Prefix => format!("path {}", Escaped(what.path)),
                })
                .collect();
            format!(
                "allow[{index}] of {} comes closest and does not name {}",
                policy.name.escape_default(),
                missed.join(", ")
            )
        }
    };
    Denial {
        cause: Cause::Unnamed,
        message: format!(
            "service account {}/{} may not load this from source {}: no entry of spec.allow of {} names it ({hint}); ask an administrator to add it",
            who.namespace,
            who.service_account,
            Escaped(what.source),
            named(&policies),
        ),
        policies,
    }
}

pub(super) fn no_digest(policy: &Compiled, who: &Who<'_>) -> Denial {
    Denial {
        cause: Cause::NoDigest,
        policies: vec![policy.name.clone()],
        message: format!(
            "EgressPolicy {} requires pods of namespace {} to name the digest of what they load: set the volume's attribute digest",
            policy.name.escape_default(),
            who.namespace
        ),
    }
}

/// Some policies by name. Those of a cluster are plain, those of a file are what stands there.
fn named(policies: &[String]) -> String {
    let first = policies.iter().take(NAMED);
    let first: Vec<String> = first.map(|it| it.escape_default().to_string()).collect();
    let first = first.join(", ");
    match policies.len().saturating_sub(NAMED) {
        0 => format!("EgressPolicy {first}"),
        more => format!("EgressPolicy {first} and {more} others"),
    }
}
