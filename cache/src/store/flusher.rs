//! The thread that does, within seconds, what nobody waits for: syncing directories that got names, and writing
//! down when leases ended.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Shared;

/// Time between two rounds.
const PAUSE: Duration = Duration::from_secs(3);

/// The running thread; dropping it does a last round and joins it.
#[derive(Debug)]
pub(super) struct Flusher {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let stop = Arc::<(Mutex<bool>, Condvar)>::default();
        let signal = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("tonnage-flush".to_owned())
            .spawn(move || {
                while !pause(&signal) {
                    flush(&shared);
                }
                flush(&shared);
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

fn flush(shared: &Shared) {
    shared.sync_directories();
    shared.record_releases();
}

/// Waits for the next round; true if there is to be none.
fn pause((stop, changed): &(Mutex<bool>, Condvar)) -> bool {
    let stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = changed.wait_timeout_while(stopped, PAUSE, |stopped| !*stopped);
    *waited.unwrap_or_else(PoisonError::into_inner).0
}

impl Drop for Flusher {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the flushing thread panicked");
        }
    }
}
