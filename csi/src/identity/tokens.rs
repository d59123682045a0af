//! The pod's tokens as kubelet writes them (Kubernetes, CSI drivers, `tokenRequests`): one for each audience, with the time at
//! which it expires. Found and taken apart here; whether one is worth anything only those know whom it is meant for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonnage_cache::path::Escaped;

use super::{Secrets, TOKENS};

/// Most audiences that are named to a reader.
const NAMED: usize = 4;

/// A token for one audience. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PodToken {
    /// The token itself.
    pub text: String,
    /// As kubelet says; `None` if it does not.
    pub expires: Option<SystemTime>,
}

impl fmt::Debug for PodToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodToken")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Why there is no token for an audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// kubelet sends none at all.
    All,
    /// What is there was not written by kubelet.
    Malformed,
    /// There are others, for these audiences.
    Audience(Vec<String>),
}

impl Missing {
    /// The audiences that there are tokens for, some of them by name.
    pub fn others(&self) -> String {
        let Self::Audience(names) = self else {
            return String::new();
        };
        let others = if names.len() > NAMED {
            " and others"
        } else {
            ""
        };
        let shown = names.iter().take(NAMED);
        let shown: Vec<String> = shown.map(|name| Escaped(name).to_string()).collect();
        format!("{}{others}", shown.join(", "))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    token: String,
    #[serde(default)]
    expiration_timestamp: Option<String>,
}

impl PodToken {
    /// The token for an audience among those of a request.
    pub fn of_request(secrets: &Secrets, audience: &str) -> Result<Self, Missing> {
        let json = secrets.get(TOKENS).ok_or(Missing::All)?;
        // What serde says of text that is not understood shows parts of it.
        let written: BTreeMap<String, Written> =
            serde_json::from_str(json).map_err(|_| Missing::Malformed)?;
        match written.get(audience) {
            Some(Written {
                token,
                expiration_timestamp,
            }) if !token.is_empty() => Ok(Self {
                text: token.clone(),
                expires: expiration_timestamp.as_deref().and_then(parse_time),
            }),
            None if written.is_empty() => Err(Missing::All),
            Some(_) | None => Err(Missing::Audience(written.into_keys().collect())),
        }
    }
}

fn parse_time(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(Into::into)
}
