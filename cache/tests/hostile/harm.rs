//! Ways to break what is right.

use proptest::prelude::*;
use proptest::sample::Index;

/// One way to break bytes.
#[derive(Debug, Clone)]
pub(crate) enum Harm {
    Flip(Index, u8),
    Cut(Index, u8),
    Insert(Index, Vec<u8>),
    Repeat(Index, u8),
    End(Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = || any::<Index>();
    let new = prop_oneof![
        2 => proptest::collection::vec(any::<u8>(), 0..6),
        3 => "[<>/&;\"{}\\[\\],:0-9a-z -]{0,6}".prop_map(String::into_bytes),
    ];
    prop_oneof![
        (at(), 1u8..).prop_map(|(at, bits)| Harm::Flip(at, bits)),
        (at(), 1u8..40).prop_map(|(at, count)| Harm::Cut(at, count)),
        (at(), new).prop_map(|(at, new)| Harm::Insert(at, new)),
        (at(), 1u8..40).prop_map(|(at, count)| Harm::Repeat(at, count)),
        at().prop_map(Harm::End),
    ]
}

/// A few ways to break bytes.
pub(crate) fn harms() -> impl Strategy<Value = Vec<Harm>> {
    proptest::collection::vec(harm(), 0..4)
}

/// The bytes after all that.
pub(crate) fn harmed(bytes: &[u8], harms: &[Harm]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for harm in harms {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        let part = |at: &Index, count: u8| {
            let from = at.index(length);
            from..length.min(from + usize::from(count))
        };
        match harm {
            Harm::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Harm::Cut(at, count) => drop(bytes.drain(part(at, *count))),
            Harm::Insert(at, new) => {
                let at = at.index(length);
                drop(bytes.splice(at..at, new.iter().copied()));
            }
            Harm::Repeat(at, count) => {
                let part = part(at, *count);
                let again = bytes[part.clone()].to_vec();
                drop(bytes.splice(part.start..part.start, again));
            }
            Harm::End(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}
