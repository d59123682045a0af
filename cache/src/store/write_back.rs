//! The thread that asks the kernel to begin writing back what was just written to the page cache.
//!
//! `sync_file_range(2)` waits where the disk's queue is full, so that on a disk slower than the network it would hold
//! up who receives and hashes. What this thread does is only advice: what it could report, the sync will; a file
//! that is gone meanwhile is passed over, and is not kept open by what waits here.

use std::io;
use std::sync::{Arc, Weak};

use super::Shared;
use crate::disk::{Crew, Handle, Queue};

/// Bytes of a file.
#[derive(Debug)]
struct Written {
    file: Weak<Handle>,
    offset: u64,
    length: u64,
}

/// The running thread; dropping it joins it.
#[derive(Debug)]
pub(super) struct WriteBack(Crew<Written>);

impl WriteBack {
    /// Starts the thread.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let disk = Arc::clone(&shared.disk);
        let work = move |queue: &Queue<Written>| {
            while let Some(written) = queue.next() {
                if let Some(file) = written.file.upgrade()
                    && let Err(error) = disk.write_back(&file, written.offset, written.length)
                {
                    tracing::debug!(error = %error, "early write-back failed");
                }
            }
        };
        Crew::start("tonnage-wback", 1, work).map(Self)
    }

    /// Asks for it, in the order of asking; never waits.
    pub(super) fn begin(&self, file: &Arc<Handle>, offset: u64, length: u64) {
        self.0.submit(Written {
            file: Arc::downgrade(file),
            offset,
            length,
        });
    }
}
