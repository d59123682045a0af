//! An `EgressPolicy` read once, so that deciding parses nothing. What cannot be read makes the policy malformed, with a sentence
//! for its author, and not less strict: it then denies the namespaces that it selects.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use serde_json::Value;
use tonnage_cache::path::Escaped;

use super::overrule::Overrule;
use super::policy::{What, Who};
use super::price::Price;
use super::select::{HostPattern, covers, is_plain, selects};
use super::terms::PolicyUid;
use super::window::Window;
use crate::crd::{
    AllowEntry, Budget, EgressPolicy, EgressPolicySpec, MOST_BUDGETS, Mode, NamespaceSelector,
    Quantity, RateLimits, Scope, WhenControllerUnreachable,
};

/// A policy, ready to decide by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Its name.
    pub name: String,
    /// Its uid; of one that is not in a cluster yet, its name.
    pub uid: PolicyUid,
    /// Its generation, for the audit log.
    pub generation: Option<i64>,
    mode: Mode,
    overrule: Result<Option<Overrule>, String>,
    namespaces: NamespaceSelector,
    rules: Result<Rules, String>,
}

/// What a policy that can be read says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Service accounts that it is for; empty: all.
    pub service_accounts: Vec<String>,
    /// What it allows.
    pub allow: Vec<Entry>,
    /// Its budgets.
    pub budgets: Vec<Allowance>,
    /// Its limits of speed.
    pub rate: Rate,
    /// What its bytes cost.
    pub price: Option<Price>,
    /// What happens while the controller is away.
    pub unreachable: WhenControllerUnreachable,
    /// How old the rules may be.
    pub max_staleness_seconds: u64,
    /// Whether a digest must be named.
    pub require_digest: bool,
}

/// An entry of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    sources: Vec<String>,
    hosts: Vec<HostPattern>,
    buckets: Vec<String>,
    prefixes: Vec<String>,
}

/// One thing that an entry asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// The source's name.
    Source,
    /// The host.
    Host,
    /// The bucket.
    Bucket,
    /// The path.
    Prefix,
}

/// A budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Its name.
    pub name: String,
    /// How many bytes.
    pub limit_bytes: u64,
    /// In which time.
    pub window: Window,
    /// Whether all namespaces have it together.
    pub shared: bool,
}

/// Limits of speed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bytes per second of a node.
    pub bytes_per_second_per_node: Option<u64>,
    /// Bytes per second of a namespace on a node.
    pub bytes_per_second_per_namespace: Option<u64>,
    /// Connections of a node.
    pub connections_per_node: Option<u64>,
    /// Connections of a namespace on a node.
    pub connections_per_namespace: Option<u64>,
}

impl Compiled {
    /// Reads an object.
    pub fn of(policy: &EgressPolicy) -> Self {
        let name = policy.name_any();
        Self {
            uid: PolicyUid(policy.uid().unwrap_or_else(|| name.clone())),
            generation: policy.metadata.generation,
            mode: policy.spec.mode,
            overrule: Overrule::find(policy.annotations()),
            namespaces: policy.spec.namespaces.clone(),
            rules: Rules::of(&policy.spec),
            name,
        }
    }

    /// Reads an object as the API server or a file has it, also one that a newer version of this program wrote. Whatever cannot
    /// be read is taken strictly: without a readable selector all namespaces are selected, without a readable mode it enforces.
    pub fn from_json(object: &Value) -> Self {
        let why = match serde_json::from_value::<EgressPolicy>(object.clone()) {
            Ok(policy) => return Self::of(&policy),
            Err(error) => error,
        };
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default().to_owned();
        let selector = object.pointer("/spec/namespaces").cloned();
        let annotations = object.pointer("/metadata/annotations").cloned();
        let annotations = annotations
            .and_then(|annotations| serde_json::from_value(annotations).ok())
            .unwrap_or_default();
        let is_audit = text("/spec/mode") == Some("Audit");
        Self {
            uid: PolicyUid(text("/metadata/uid").unwrap_or(&name).to_owned()),
            generation: object
                .pointer("/metadata/generation")
                .and_then(Value::as_i64),
            mode: if is_audit { Mode::Audit } else { Mode::Enforce },
            overrule: Overrule::find(&annotations),
            namespaces: selector
                .and_then(|selector| serde_json::from_value(selector).ok())
                .unwrap_or_default(),
            rules: Err(format!("it cannot be read: {}", Escaped(&why.to_string()))),
            name,
        }
    }

    /// What it says, or in a sentence why it is malformed.
    pub fn rules(&self) -> Result<&Rules, &str> {
        self.rules.as_ref().map_err(String::as_str)
    }

    /// Whether it denies at a time, or records only.
    pub fn mode(&self, now_unix: i64) -> Mode {
        if self.overruled(now_unix).is_some() {
            Mode::Audit
        } else {
            self.mode
        }
    }

    /// What keeps a policy that enforces from doing so at a time.
    pub fn overruled(&self, now_unix: i64) -> Option<&Overrule> {
        let overrule = self.overrule.as_ref().ok()?.as_ref()?;
        (self.mode == Mode::Enforce && overrule.holds(now_unix)).then_some(overrule)
    }

    /// Why annotations that should overrule it do not at any time.
    pub fn overrule_problem(&self) -> Option<&str> {
        self.overrule.as_ref().err().map(String::as_str)
    }

    /// What would overrule it, if it had not longer to go than such an exception may.
    pub fn overruled_too_long(&self, now_unix: i64) -> Option<&Overrule> {
        let overrule = self.overrule.as_ref().ok()?.as_ref()?;
        (self.mode == Mode::Enforce && overrule.is_too_long(now_unix)).then_some(overrule)
    }

    /// Whether it selects a namespace.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        selects(&self.namespaces, namespace, labels)
    }

    /// Whether labels of a namespace can change what it selects.
    pub fn needs_labels(&self) -> bool {
        !self.namespaces.match_labels.is_empty()
    }

    /// What it says to somebody in a namespace that it selects; nothing if it is for other service accounts or malformed.
    pub(super) fn rules_for(&self, who: &Who<'_>) -> Option<&Rules> {
        let rules = self.rules.as_ref().ok()?;
        rules.is_for(who.service_account).then_some(rules)
    }
}

impl Rules {
    fn of(spec: &EgressPolicySpec) -> Result<Self, String> {
        let EgressPolicySpec {
            namespaces: _,
            service_accounts,
            allow,
            budgets,
            rate,
            price_per_gib,
            mode: _,
            when_controller_unreachable,
            max_staleness_seconds,
            require_digest,
        } = spec;
        Ok(Self {
            service_accounts: service_accounts.clone(),
            allow: each(allow, Entry::of)
                .map_err(|(index, why)| format!("allow[{index}]: {why}"))?,
            budgets: allowances(budgets)?,
            rate: rate.as_ref().map_or(Ok(Rate::default()), Rate::of)?,
            price: price_per_gib.as_ref().map(Price::parse).transpose()?,
            unreachable: *when_controller_unreachable,
            max_staleness_seconds: u64::try_from(*max_staleness_seconds)
                .map_err(|_| "maxStalenessSeconds is negative".to_owned())?,
            require_digest: *require_digest,
        })
    }

    fn is_for(&self, account: &str) -> bool {
        let accounts = &self.service_accounts;
        accounts.is_empty() || accounts.iter().any(|name| name == account)
    }
}

impl Entry {
    fn of(entry: &AllowEntry) -> Result<Self, String> {
        let AllowEntry {
            sources,
            hosts,
            buckets,
            prefixes,
        } = entry;
        let unclear = prefixes
            .iter()
            .find(|prefix| !is_plain(prefix.trim_end_matches('/')));
        if let Some(prefix) = unclear {
            return Err(format!(
                "prefix {} must be a path without a leading slash, empty components, \".\" and \"..\"",
                Escaped(prefix)
            ));
        }
        Ok(Self {
            sources: sources.clone(),
            hosts: each(hosts, |host| HostPattern::parse(host)).map_err(|(_, why)| why)?,
            buckets: buckets.clone(),
            prefixes: prefixes.clone(),
        })
    }

    /// What does not fit; empty if the entry allows it.
    pub fn misses(&self, what: &What<'_>) -> Vec<Dimension> {
        let Self {
            sources,
            hosts,
            buckets,
            prefixes,
        } = self;
        let has = |list: &[String], name: &str| list.is_empty() || list.iter().any(|it| it == name);
        let below = |prefix: &String| covers(prefix, what.path);
        let checks = [
            (Dimension::Source, has(sources, what.source)),
            (
                Dimension::Host,
                hosts.is_empty() || hosts.iter().any(|host| host.fits(what.host)),
            ),
            (Dimension::Bucket, has(buckets, what.bucket)),
            (
                Dimension::Prefix,
                prefixes.is_empty() || is_plain(what.path) && prefixes.iter().any(below),
            ),
        ];
        let missed = checks.into_iter().filter(|(_, fits)| !fits);
        missed.map(|(dimension, _)| dimension).collect()
    }
}

impl Rate {
    fn of(limits: &RateLimits) -> Result<Self, String> {
        let RateLimits {
            bytes_per_second_per_node,
            bytes_per_second_per_namespace,
            connections_per_node,
            connections_per_namespace,
        } = limits;
        let bytes = |name: &str, value: Option<&Quantity>| match value.map(Quantity::bytes) {
            None => Ok(None),
            Some(Ok(0)) => Err(format!("rate.{name} must be above 0")),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(why)) => Err(format!("rate.{name}: {why}")),
        };
        let count = |name: &str, value: Option<i64>| match value.map(u64::try_from) {
            None => Ok(None),
            Some(Ok(0) | Err(_)) => Err(format!("rate.{name} must be above 0")),
            Some(Ok(count)) => Ok(Some(count)),
        };
        let per_node = bytes_per_second_per_node.as_ref();
        let per_namespace = bytes_per_second_per_namespace.as_ref();
        Ok(Self {
            bytes_per_second_per_node: bytes("bytesPerSecondPerNode", per_node)?,
            bytes_per_second_per_namespace: bytes("bytesPerSecondPerNamespace", per_namespace)?,
            connections_per_node: count("connectionsPerNode", *connections_per_node)?,
            connections_per_namespace: count(
                "connectionsPerNamespace",
                *connections_per_namespace,
            )?,
        })
    }
}

fn allowances(budgets: &[Budget]) -> Result<Vec<Allowance>, String> {
    if budgets.len() > MOST_BUDGETS {
        return Err(format!("budgets: there are more than {MOST_BUDGETS}"));
    }
    let read = each(budgets, |budget| {
        let Budget {
            name,
            bytes,
            window,
            scope,
        } = budget;
        Ok(Allowance {
            name: name.clone(),
            limit_bytes: bytes.bytes().map_err(|why| format!("bytes: {why}"))?,
            window: Window::parse(window)?,
            shared: *scope == Scope::Shared,
        })
    });
    let budgets = read.map_err(|(index, why)| format!("budgets[{index}].{why}"))?;
    for (index, budget) in budgets.iter().enumerate() {
        if budgets
            .iter()
            .skip(index + 1)
            .any(|other| other.name == budget.name)
        {
            return Err(format!("budgets: two are named {}", Escaped(&budget.name)));
        }
    }
    Ok(budgets)
}

/// Reads every element, or says which cannot be read and why.
fn each<T, U>(
    list: &[T],
    read: impl Fn(&T) -> Result<U, String>,
) -> Result<Vec<U>, (usize, String)> {
    let read = |(index, element)| read(element).map_err(|why| (index, why));
    list.iter().enumerate().map(read).collect()
}
