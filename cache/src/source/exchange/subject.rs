//! Whose token is exchanged: the newest one of a workload, which whoever brings tokens and whoever exchanges them share.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a token is tried after it has expired by our clock: the service's own decides.
const SKEW: Duration = Duration::from_secs(30);

/// A workload's token for the service. Never shown.
#[derive(Clone)]
pub struct SubjectToken {
    text: String,
    expires: Option<SystemTime>,
}

impl SubjectToken {
    /// A token, and when it expires; `None` if that is not known.
    pub fn new(text: impl Into<String>, expires: Option<SystemTime>) -> Self {
        Self {
            text: text.into(),
            expires,
        }
    }
}

impl fmt::Debug for SubjectToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectToken")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The newest token of one workload. Whoever brings tokens and whoever exchanges them share it.
#[derive(Debug, Default)]
pub struct Subject(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    token: Option<SubjectToken>,
    /// How often the token was replaced.
    version: u64,
}

impl Subject {
    /// A workload that has brought no token yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a token in place of the one that is known, unless that one is valid for longer. The next exchange uses it.
    pub fn offer(&self, token: SubjectToken) {
        let mut newest = self.lock();
        let is_older = match (&newest.token, token.expires) {
            (Some(known), Some(expires)) => known.expires.is_some_and(|until| until >= expires),
            (Some(_), None) | (None, _) => false,
        };
        if !is_older {
            newest.token = Some(token);
            newest.version = newest.version.wrapping_add(1);
        }
    }

    /// The token to be shown now, or in a sentence why there is none.
    pub(super) fn current(&self, now: SystemTime) -> Result<String, &'static str> {
        let newest = self.lock();
        let token = newest
            .token
            .as_ref()
            .ok_or("the pod has brought no token for it")?;
        match token.expires.and_then(|until| until.checked_add(SKEW)) {
            Some(end) if end <= now => Err(
                "the pod's token has expired and no newer one has come; kubelet brings one when it mounts a volume for a pod of this service account",
            ),
            Some(_) | None => Ok(token.text.clone()),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.lock().version
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn token(text: &str, expires: u64) -> SubjectToken {
        SubjectToken::new(text, Some(at(expires)))
    }

    #[test]
    fn the_token_that_is_valid_for_longest_is_shown_and_none_that_has_expired() {
        let subject = Subject::new();
        assert_eq!(
            subject.current(at(0)),
            Err("the pod has brought no token for it")
        );
        subject.offer(token("canary-1", 100));
        subject.offer(token("canary-2", 200));
        // Another pod of the same service account has an older one.
        subject.offer(token("canary-1", 100));
        assert_eq!(subject.version(), 2);
        assert_eq!(subject.current(at(229)).as_deref(), Ok("canary-2"));
        let expired = subject.current(at(230)).unwrap_err();
        assert!(expired.starts_with("the pod's token has expired and no newer one has come"));
        subject.offer(SubjectToken::new("canary-3", None));
        assert_eq!(subject.current(at(9999)).as_deref(), Ok("canary-3"));
        assert!(!format!("{subject:?}").contains("canary"));
    }
}
