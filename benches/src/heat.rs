//! Makes memory quick: on a virtual machine whose free pages go back to the host, the first touch of a page costs a
//! trip to the host and decides every result that goes through the page cache.

use std::io;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use tonnage_cache::clock::{Clock as _, SystemClock};

/// Touches `size` bytes of fresh memory, frees them, and returns the bytes per second.
#[expect(unsafe_code, reason = "the kernel touches the pages of one mapping")]
pub fn pass(size: usize) -> io::Result<u64> {
    let clock = SystemClock::new();
    // SAFETY: a new private mapping that nothing else refers to.
    let start = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    // Huge pages where there are any: what the host has is what counts, and the guest's faults only take time.
    // SAFETY: advice on the mapping made above; populating it is what this is for.
    let touched = unsafe {
        let _small_pages_do = madvise(start, size, Advice::LinuxHugepage);
        madvise(start, size, Advice::LinuxPopulateWrite)
    };
    let nanos = clock.monotonic().as_nanos().max(1);
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { munmap(start, size) }?;
    touched?;
    Ok(u64::try_from(size as u128 * 1_000_000_000 / nanos).unwrap_or(u64::MAX))
}
