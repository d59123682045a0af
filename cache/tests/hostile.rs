//! Whatever a tenant or a server sends ends in a value or in one sentence: parsers by themselves, and sources as a whole against
//! a server that says anything. Bytes are arbitrary, or what is right with pieces of it broken; and what is accepted obeys laws.
//!
//! Every run is the same. Case numbers and seeds of the environment (`PROPTEST_CASES`, `PROPTEST_RNG_SEED`) look further; what
//! fails is kept in `hostile/regressions.txt` and tried first from then on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

#[path = "hostile/addresses.rs"]
mod addresses;
#[path = "hostile/answers.rs"]
mod answers;
#[path = "hostile/configs.rs"]
mod configs;
#[path = "hostile/exchanges.rs"]
mod exchanges;
#[path = "hostile/globs.rs"]
mod globs;
#[path = "hostile/harm.rs"]
mod harm;
#[path = "hostile/listings.rs"]
mod listings;
#[path = "hostile/play.rs"]
mod play;
#[path = "hostile/redirects.rs"]
mod redirects;
#[path = "hostile/texts.rs"]
mod texts;
#[path = "hostile/words.rs"]
mod words;

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "source/responder.rs"]
mod responder;
