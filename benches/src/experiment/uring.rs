//! The same stager with `io_uring`: one ring per connection, registered buffers and a registered file, so that a part is
//! written while the next one is received, without an I/O thread.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _};

use io_uring::{IoUring, opcode, types};
use tonnage_cache::buffer::{Buffer, CAPACITY};

/// Parts that may be under way: one is received, the others are written.
const BUFFERS: usize = 3;

/// Writes of one connection.
pub(super) struct Writer {
    // Dropped first: the kernel writes from the buffers until the ring is gone.
    ring: IoUring,
    buffers: Vec<Buffer>,
    free: Vec<u16>,
}

impl Writer {
    /// A writer into `file`, which was opened with `O_DIRECT`.
    #[expect(unsafe_code, reason = "the kernel is told of the buffers' memory")]
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let mut buffers: Vec<Buffer> = (0..BUFFERS).map(|_| Buffer::unpooled()).collect();
        let ring = IoUring::new(8)?;
        let vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.bytes_mut().as_mut_ptr().cast(),
                iov_len: CAPACITY,
            })
            .collect();
        // SAFETY: the buffers live as long as the ring: both are fields of the writer, and a buffer's memory does not move.
        unsafe { ring.submitter().register_buffers(&vectors) }?;
        ring.submitter()
            .register_files(&[file.as_fd().as_raw_fd()])?;
        let free = (0..BUFFERS).filter_map(|it| it.try_into().ok()).collect();
        Ok(Self {
            ring,
            buffers,
            free,
        })
    }

    /// Receives one part and begins to write it.
    #[expect(unsafe_code, reason = "the kernel reads a buffer after this returns")]
    pub(super) fn part(
        &mut self,
        stream: &mut TcpStream,
        length: usize,
        offset: u64,
    ) -> io::Result<()> {
        let index = loop {
            match self.free.pop() {
                Some(index) => break index,
                None => self.reap(1)?,
            }
        };
        let Some(buffer) = self.buffers.get_mut(usize::from(index)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let room = buffer.bytes_mut().get_mut(..length).unwrap_or_default();
        stream.read_exact(room)?;
        let bytes = u32::try_from(length).map_err(io::Error::other)?;
        let write = opcode::WriteFixed::new(types::Fixed(0), room.as_ptr(), bytes, index)
            .offset(offset)
            .build()
            .user_data(u64::from(index) << 32 | u64::from(bytes));
        // SAFETY: the buffer is not touched again before its completion has been reaped.
        unsafe { self.ring.submission().push(&write) }.map_err(io::Error::other)?;
        self.ring.submit()?;
        Ok(())
    }

    /// Waits until all is written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        while self.free.len() < self.buffers.len() {
            self.reap(1)?;
        }
        Ok(())
    }

    fn reap(&mut self, least: usize) -> io::Result<()> {
        self.ring.submit_and_wait(least)?;
        for done in self.ring.completion() {
            let written = u64::try_from(done.result())
                .map_err(|_| io::Error::from_raw_os_error(-done.result()))?;
            if written != done.user_data() & 0xffff_ffff {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.free.extend(u16::try_from(done.user_data() >> 32).ok());
        }
        Ok(())
    }
}
