//! Who may do what: access keys that can expire or be revoked, anonymous access, and denied prefixes.

use super::answer::Refusal;
use super::request::{Op, Request};
use super::signature;
use std::collections::HashMap;
use time::OffsetDateTime;

/// An access key as a client holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AKIA…`.
    pub access_key: String,
    /// What signatures are made with.
    pub secret_key: String,
    /// Must be sent with every request if set.
    pub session_token: Option<String>,
}

impl Credentials {
    /// A key without a session token.
    pub fn new(access_key: &str, secret_key: &str) -> Credentials {
        Credentials {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            session_token: None,
        }
    }

    /// The same key with a session token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Credentials {
        self.session_token = Some(token.to_owned());
        self
    }
}

impl std::fmt::Debug for Credentials {
    /// Shows no secret: a test's output is searched for them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.access_key)
    }
}

/// Keys below `prefix` of `bucket` are refused: to `access_key` or to everyone.
#[derive(Clone, Debug)]
struct Denial {
    access_key: Option<String>,
    bucket: String,
    prefix: String,
}

#[derive(Clone, Debug)]
struct Known {
    credentials: Credentials,
    /// Requests it is still good for.
    uses_left: u64,
}

/// The access rules of a server. While no key was ever added, every request is let in, signed or not.
#[derive(Debug, Default)]
pub(super) struct Access {
    known: HashMap<String, Known>,
    denials: Vec<Denial>,
    /// Whether a key was ever known: from then on signatures are looked at.
    keyed: bool,
    /// Unsigned requests pass although keys are known.
    pub(super) anonymous: bool,
    pub(super) check_dates: bool,
}

impl Access {
    pub(super) fn add(&mut self, credentials: Credentials) {
        let known = Known {
            credentials,
            uses_left: u64::MAX,
        };
        self.keyed = true;
        self.known
            .insert(known.credentials.access_key.clone(), known);
    }

    pub(super) fn revoke(&mut self, access_key: &str) {
        self.known.remove(access_key);
    }

    pub(super) fn expire_after(&mut self, access_key: &str, requests: u64) {
        if let Some(known) = self.known.get_mut(access_key) {
            known.uses_left = requests;
        }
    }

    pub(super) fn deny(&mut self, access_key: Option<&str>, bucket: &str, prefix: &str) {
        self.denials.push(Denial {
            access_key: access_key.map(str::to_owned),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        });
    }

    pub(super) fn allow_all(&mut self) {
        self.denials.clear();
    }

    /// Checks signature, then rules.
    pub(super) fn check(&mut self, request: &Request) -> Result<(), Refusal> {
        let access_key = signature::access_key(request);
        if self.keyed {
            self.authenticate(request, access_key.as_deref())?;
        }
        let subject = match request.op {
            Op::List => request.param("prefix").unwrap_or_default(),
            Op::Get | Op::Head | Op::Put | Op::Delete | Op::Other => &request.key,
        };
        let strikes = |denial: &Denial| {
            denial.bucket == request.bucket
                && subject.starts_with(denial.prefix.as_bytes())
                && denial
                    .access_key
                    .as_ref()
                    .is_none_or(|key| Some(key) == access_key.as_ref())
        };
        if self.denials.iter().any(strikes) {
            return Err(denied());
        }
        Ok(())
    }

    fn authenticate(&mut self, request: &Request, access_key: Option<&str>) -> Result<(), Refusal> {
        let Some(access_key) = access_key else {
            let unsigned = request.header("authorization").is_none();
            return if self.anonymous && unsigned {
                Ok(())
            } else {
                Err(denied())
            };
        };
        let unknown = || {
            let why = "The AWS Access Key Id you provided does not exist in our records.";
            Refusal::new(403, "InvalidAccessKeyId", why)
        };
        let now = self.check_dates.then(now);
        let known = self.known.get_mut(access_key).ok_or_else(unknown)?;
        signature::verify(request, &known.credentials.secret_key, now)?;
        if request.header("x-amz-security-token") != known.credentials.session_token.as_deref() {
            let why = "The provided token is malformed or otherwise invalid.";
            return Err(Refusal::new(400, "InvalidToken", why));
        }
        if known.uses_left == 0 {
            return Err(Refusal::new(
                400,
                "ExpiredToken",
                "The provided token has expired.",
            ));
        }
        known.uses_left -= 1;
        Ok(())
    }
}

fn denied() -> Refusal {
    Refusal::new(403, "AccessDenied", "Access Denied")
}

#[expect(
    clippy::disallowed_methods,
    reason = "clients sign with the machine's time, and so a server must judge by it"
)]
fn now() -> OffsetDateTime {
    OffsetDateTime::from(std::time::SystemTime::now())
}
