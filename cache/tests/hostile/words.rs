//! What the properties share: settings under which every run is the same, texts that parsers dislike, ways to break what is
//! right, and what a sentence is.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{FileFailurePersistence, RngSeed, TestCaseResult, TestRunner};

const SEED: u64 = 0x746f_6e6e_6167_6531;
/// From the package's directory, in which tests run.
const KEPT: &str = "tests/hostile/regressions.txt";
/// Longest sentence: a few escaped texts of 200 characters each.
const SENTENCE_MAX: usize = 8192;

pub(crate) fn settings(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_asked { asked.cases } else { cases },
        rng_seed: match asked.rng_seed {
            RngSeed::Random => RngSeed::Fixed(SEED),
            fixed @ RngSeed::Fixed(_) => fixed,
        },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(KEPT))),
        ..asked
    }
}

/// Holds a property that needs something made once for all cases.
pub(crate) fn hold<S: Strategy>(
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> TestCaseResult,
) {
    let mut runner = TestRunner::new(settings(cases));
    if let Err(error) = runner.run(strategy, property) {
        panic!("{error}\n{runner}");
    }
}

/// Whether a person can read it on one line, and no terminal does anything else with it.
pub(crate) fn is_sentence(text: &str) -> bool {
    !text.is_empty() && text.len() <= SENTENCE_MAX && !text.chars().any(char::is_control)
}

/// Any text, often of characters that mean something to somebody.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ -~]{0,40}",
        2 => "\\PC{0,30}",
        2 => proptest::collection::vec(any::<char>(), 0..20)
            .prop_map(|characters| characters.into_iter().collect::<String>()),
        1 => "[./:@%#?*&=+~\u{0}\n\u{1b}\u{7f}\u{9b}\u{202e}]{0,30}",
    ]
}

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
