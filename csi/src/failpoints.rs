//! Crash points, compiled in only for tests (`--features failpoints`): the process kills itself at the point that the
//! environment names, as a machine would. `TONNAGE_KILL_AT=name` strikes at the first passing, `name:3` at the third.
//!
//! Never part of a production build, and the only place where this program ends itself by a signal.

use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that names the crash point.
pub const KILL_AT: &str = "TONNAGE_KILL_AT";

/// Arms the crash point that the environment names, if it names one.
pub fn arm() -> Result<(), String> {
    let Some(text) = std::env::var(KILL_AT).ok().filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let (name, passing) = match text.rsplit_once(':') {
        Some((name, count)) => match count.parse::<u64>() {
            Ok(passing) => (name, passing),
            Err(_) => (text.as_str(), 1),
        },
        None => (text.as_str(), 1),
    };
    let passed = AtomicU64::new(0);
    fail::cfg_callback(name, move || {
        if passed.fetch_add(1, Ordering::Relaxed).saturating_add(1) == passing {
            die();
        }
    })
}

/// SIGKILL to this process; the kernel lets nothing run after it.
fn die() {
    let own = rustix::process::getpid();
    // Only a missing process can fail here, and this one is not.
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}
