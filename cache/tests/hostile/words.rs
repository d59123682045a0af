//! What the properties of parsers share: settings under which every run is the same, texts that nobody expects, and what a sentence
//! is. The driver's properties compile it in, too.

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed, TestCaseResult, TestRunner};

const SEED: u64 = 0x746f_6e6e_6167_6531;
/// From the package's directory, in which tests run.
const KEPT: &str = "tests/hostile/regressions.txt";
/// Longest sentence: a few escaped texts of 200 characters each.
const SENTENCE_MAX: usize = 8192;

/// `cases` and one seed, unless `PROPTEST_CASES` and `PROPTEST_RNG_SEED` (a number) say others. What holds is shown where a test
/// fails, and with `--nocapture`.
#[allow(
    clippy::print_stderr,
    reason = "what fails can be looked for again by its seed alone"
)]
pub(crate) fn settings(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if is_asked { asked.cases } else { cases };
    let seed = match asked.rng_seed {
        RngSeed::Random => SEED,
        RngSeed::Fixed(seed) => seed,
    };
    eprintln!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}");
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
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
