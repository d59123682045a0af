//! What each waiter of a load is told when the gate or the quotas have refused it. The load's error is about one of them, and may
//! name that one's namespace, service account and policies; so no other is shown it. Whoever was alone is told it as it is; of
//! several each is told its own, or that it was another's, and then its next call begins anew.

use std::sync::Arc;

use tonnage_cache::gate::Refusal;
use tonnage_cache::{cache, fetch, source};

use super::admit::no_room;
use super::audience::Member;
use super::{Error, Failed, Joined, Publisher};
use crate::govern::gate::Admission;
use crate::inflight::WaiterId;

/// A no in a load's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum No<'a> {
    /// Nobody has room for so much.
    Size,
    /// Bytes.
    Bytes(&'a Refusal),
    /// A connection or a redirect.
    Host(&'a Refusal),
}

impl<'a> No<'a> {
    fn find(error: &'a cache::Error) -> Option<Self> {
        if matches!(error, cache::Error::Refused(_)) {
            return Some(Self::Size);
        }
        if let cache::Error::Fetch(fetch::Error::Refused(refusal)) = error {
            return Some(Self::Bytes(refusal));
        }
        if let cache::Error::Source(error)
        | cache::Error::Fetch(
            fetch::Error::Source(error) | fetch::Error::GaveUp { last: error, .. },
        ) = error
            && let source::Error::Gate(refusal) = error
        {
            return Some(Self::Host(refusal));
        }
        None
    }
}

impl Publisher {
    /// Why a waiter does not get what it waited for, after its load has failed. To be asked while it is still a waiter: its seat keeps
    /// what is known of its namespace.
    pub(super) fn told(
        &self,
        id: &WaiterId,
        joined: &Joined,
        (source, failed): (&str, &Failed),
    ) -> Error {
        let Failed { error, audience } = failed;
        let is_alone = |admission: &Admission| {
            let (namespace, service_account) = admission.account();
            audience.is_only(&Member {
                namespace: namespace.to_owned(),
                service_account: service_account.to_owned(),
            })
        };
        let own = match (No::find(error), &joined.admission) {
            (Some(No::Size), admission) => {
                let refusal = self.parts.quotas.refusal(id);
                refusal.map(|refused| no_room(admission.as_ref(), refused))
            }
            (Some(No::Bytes(said) | No::Host(said)), Some(admission)) if is_alone(admission) => {
                Some(Error::Gate(said.clone()))
            }
            (Some(No::Bytes(said)), Some(admission)) => {
                admission.refusal_of_bytes(said).map(Error::Gate)
            }
            (Some(No::Host(said)), Some(admission)) => {
                admission.refusal_of_host(said).map(Error::Gate)
            }
            // Where nobody governs, a no is the address rules', and the same for all.
            (Some(No::Bytes(_) | No::Host(_)), None) | (None, _) => {
                return Error::of_load(source, Arc::clone(error));
            }
        };
        own.unwrap_or(Error::OthersRefused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_is_found_wherever_it_was_said() {
        let no = || Refusal::Denied("no".to_owned());
        let gate = || source::Error::Gate(no());
        let gave_up = fetch::Error::GaveUp {
            attempts: 3,
            last: gate(),
        };
        for (error, found) in [
            (cache::Error::Refused(no()), Some(No::Size)),
            (
                cache::Error::Fetch(fetch::Error::Refused(no())),
                Some(No::Bytes(&no())),
            ),
            (cache::Error::Source(gate()), Some(No::Host(&no()))),
            (
                cache::Error::Fetch(fetch::Error::Source(gate())),
                Some(No::Host(&no())),
            ),
            (cache::Error::Fetch(gave_up), Some(No::Host(&no()))),
            (cache::Error::Fetch(fetch::Error::Cancelled), None),
            (cache::Error::Cancelled, None),
        ] {
            assert_eq!(No::find(&error), found, "{error}");
        }
    }
}
