//! The smallest true gzip: stored blocks, for a server that sends an encoding nobody asked for (RFC 1951,
//! RFC 1952).

/// `bytes` as a gzip member that compresses nothing.
pub(super) fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut chunks = bytes.chunks(0xffff).peekable();
    if bytes.is_empty() {
        out.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(chunk) = chunks.next() {
        let len = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        out.push(u8::from(chunks.peek().is_none()));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(chunk);
    }
    let len = u32::try_from(bytes.len() & 0xffff_ffff).unwrap_or_default();
    out.extend(crc32(bytes).to_le_bytes());
    out.extend(len.to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            (crc >> 1) ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_member_carries_its_bytes_and_length() {
        let out = stored(b"abc");
        assert_eq!(&out[10..18], [1, 3, 0, 0xfc, 0xff, b'a', b'b', b'c']);
        assert_eq!(out[22..], [3, 0, 0, 0]);
        assert_eq!(stored(&vec![7; 70_000]).len(), 10 + 2 * 5 + 70_000 + 8);
    }
}
