//! Memory for buffers: two parts in one huge page. What goes past the page cache is pinned page by page and handed to the
//! disk segment by segment; a part in a huge page is one segment, one in small pages is 256.
//!
//! The unsafe lines that memory of one's own needs are here and nowhere else. Invariant: each half of a slab is owned
//! by exactly one [`Half`], because [`Half::pair`] makes both and nothing makes another.

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::CAPACITY;

/// A huge page of every machine that has them; two parts.
const SLAB: usize = 2 * CAPACITY;

/// A mapping with a slab somewhere in it.
struct Slab {
    mapping: NonNull<u8>,
    start: NonNull<u8>,
}

// SAFETY: the memory is anonymous and private to the process; halves are only reached through their owners.
#[expect(unsafe_code, reason = "raw pointers to a mapping of our own")]
unsafe impl Send for Slab {}
// SAFETY: as above; a shared slab is only ever asked for its address.
#[expect(unsafe_code, reason = "raw pointers to a mapping of our own")]
unsafe impl Sync for Slab {}

/// One part of memory, zeroed when new.
pub(super) struct Half {
    slab: Arc<Slab>,
    offset: usize,
}

impl Slab {
    /// Maps a new slab; small pages where the machine has no huge ones. A machine without memory ends the process, as it
    /// does for every other allocation.
    #[expect(unsafe_code, reason = "mapping memory")]
    fn map() -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // Twice the size, so that an aligned slab is in it; what is not touched costs nothing.
        // SAFETY: a new mapping at an address that the kernel chooses.
        let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), 2 * SLAB, protection, flags) };
        let Some(mapping) = mapped
            .ok()
            .and_then(|start| NonNull::new(start.cast::<u8>()))
        else {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; SLAB]>());
        };
        let skip = mapping.align_offset(SLAB).min(SLAB);
        // SAFETY: `skip` is at most half of the mapping.
        let start = unsafe { mapping.add(skip) };
        // SAFETY: advice on memory of the mapping above; it changes no content.
        let advised = unsafe { madvise(start.as_ptr().cast(), SLAB, Advice::LinuxHugepage) };
        if let Err(error) = advised {
            tracing::debug!(error = %error, "buffers are in small pages");
        }
        Self { mapping, start }
    }
}

impl Drop for Slab {
    #[expect(unsafe_code, reason = "unmapping what was mapped")]
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, whose halves are gone: each of them holds the slab.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), 2 * SLAB) };
        if let Err(error) = unmapped {
            tracing::warn!(error = %error, "memory was not given back");
        }
    }
}

impl Half {
    /// Both halves of a new slab.
    pub(super) fn pair() -> (Self, Self) {
        let slab = Arc::new(Slab::map());
        let other = Self {
            slab: Arc::clone(&slab),
            offset: CAPACITY,
        };
        (Self { slab, offset: 0 }, other)
    }

    /// The part.
    #[expect(unsafe_code, reason = "memory of our own as a slice")]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `CAPACITY` initialized bytes of the slab, which lives as long as `self`; only this half's owner writes
        // them, and needs `&mut self` to.
        unsafe { std::slice::from_raw_parts(self.slab.start.add(self.offset).as_ptr(), CAPACITY) }
    }

    /// The part, to be written.
    #[expect(unsafe_code, reason = "memory of our own as a slice")]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` of the one owner makes the reference unique.
        unsafe {
            std::slice::from_raw_parts_mut(self.slab.start.add(self.offset).as_ptr(), CAPACITY)
        }
    }
}
