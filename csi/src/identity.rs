//! Who asks. A [`Principal`] is what authorizers decide about; pod information that kubelet adds is carried along for
//! accounting and reports, never as proof. Secrets are kept in a type that does not show them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::volume::PodInfo;

pub mod tokens;

/// On whose behalf a volume is published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Who, in the words of the authorizer that found out.
    pub name: String,
    /// Namespace that pays for bytes; empty if there is none.
    pub namespace: String,
    /// Name of the service account in that namespace; empty if there is none.
    pub service_account: String,
    /// Labels of the namespace; none are read where no rule of governance asks for any.
    pub labels: Arc<BTreeMap<String, String>>,
}

/// What a request offers as proof of who asks.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// What kubelet says about the pod.
    pub pod: Option<PodInfo>,
    /// What came in the request's secrets: tokens and keys.
    pub secrets: Secrets,
}

/// Values that must never be seen in a log line, an event or an error.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(HashMap<String, String>);

/// Key under which kubelet sends the pod's service account tokens.
pub const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Shorter values are words that may well be part of an honest message.
const SHORTEST_SECRET: usize = 6;

impl Secrets {
    /// Takes the secrets of a request.
    pub fn new(secrets: HashMap<String, String>) -> Self {
        Self(secrets)
    }

    /// Takes the secrets of a request, and the tokens that kubelets without `serviceAccountTokenInSecrets` put into the
    /// volume context instead. Tokens among the secrets win; those of the context are then only kept out of sight.
    pub fn of_request(
        secrets: &HashMap<String, String>,
        context: &HashMap<String, String>,
    ) -> Self {
        let mut all = secrets.clone();
        if let Some(tokens) = context.get(TOKENS) {
            let key = if all.contains_key(TOKENS) {
                format!("volume context {TOKENS}")
            } else {
                TOKENS.to_owned()
            };
            all.insert(key, tokens.clone());
        }
        Self(all)
    }

    /// One of them.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// `text` with every secret value, and every string inside a secret's JSON, replaced.
    pub fn redact(&self, text: &str) -> String {
        let mut values = Vec::new();
        for secret in self.0.values() {
            values.push(secret.clone());
            if let Ok(json) = serde_json::from_str(secret) {
                strings(&json, &mut values);
            }
        }
        // Longest first: a secret may be part of another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        let mut text = text.to_owned();
        for value in values.iter().filter(|value| value.len() >= SHORTEST_SECRET) {
            text = text.replace(value.as_str(), "[redacted]");
        }
        text
    }
}

fn strings(json: &serde_json::Value, into: &mut Vec<String>) {
    use serde_json::Value;
    match json {
        Value::String(text) => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, into)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} redacted)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_shows_in_debug_or_in_a_redacted_text() {
        let tokens =
            r#"{"csi.tonnage.dev":{"token":"canary-token-1","expirationTimestamp":"2026"}}"#;
        let secrets = Secrets::new(HashMap::from([
            (
                "csi.storage.k8s.io/serviceAccount.tokens".to_owned(),
                tokens.to_owned(),
            ),
            ("key".to_owned(), "canary-key".to_owned()),
        ]));
        assert!(!format!("{secrets:?}").contains("canary"));
        let text = secrets.redact("denied: canary-token-1 and canary-key, said models");
        assert_eq!(text, "denied: [redacted] and [redacted], said models");
    }

    #[test]
    fn tokens_of_the_volume_context_stand_in_for_missing_ones_and_are_never_seen() {
        let map = |value: &str| HashMap::from([(TOKENS.to_owned(), value.to_owned())]);
        let fallback = Secrets::of_request(&HashMap::new(), &map("canary-old"));
        assert_eq!(fallback.get(TOKENS), Some("canary-old"));
        let both = Secrets::of_request(&map("canary-new"), &map("canary-old"));
        assert_eq!(both.get(TOKENS), Some("canary-new"));
        assert_eq!(
            both.redact("canary-new canary-old"),
            "[redacted] [redacted]"
        );
        assert_eq!(
            Secrets::of_request(&HashMap::new(), &HashMap::new()),
            Secrets::default()
        );
    }
}
