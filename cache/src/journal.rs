//! The journal of a partial file: which parts were written, with what hash.
//!
//! ```text
//! header (64 bytes): "TNGJRNL1"  u32 version  u32 log2 part size  u64 file length  [u8;32] key  [u8;8] check
//! record (48 bytes): u64 part index  [u8;32] hash (chaining value, or digest of a one-part file)  [u8;8] check
//! ```
//! Integers are little-endian; a check is the first 8 bytes of the BLAKE3 of what precedes it in its header or record.
//! A journal is never synced: a record is a claim, believed only after its part was read again and gives the hash.
//! Reading stops at the first torn record. This file does no I/O.

use crate::digest::{ChainingValue, Digest, PART_SIZE, PartHash, part_count};

const MAGIC: &[u8; 8] = b"TNGJRNL1";
const VERSION: u32 = 1;
/// Length of the header in bytes.
pub const HEADER_LENGTH: usize = 64;
/// Length of one record in bytes.
pub const RECORD_LENGTH: usize = 48;
const CHECK_LENGTH: usize = 8;

/// What a journal claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// The partial file's key.
    pub key: [u8; 32],
    /// Length of the finished file in bytes.
    pub length: u64,
    /// The parts that were written; of several claims for one part the last.
    pub parts: Vec<Option<PartHash>>,
}

/// The header of the journal of a file of `length` bytes.
pub fn encode_header(key: &[u8; 32], length: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LENGTH);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&PART_SIZE.trailing_zeros().to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(key);
    let check = check(&bytes);
    bytes.extend_from_slice(&check);
    bytes
}

/// The record of one written part.
pub fn encode_record(index: u64, hash: &PartHash) -> [u8; RECORD_LENGTH] {
    let mut bytes = [0; RECORD_LENGTH];
    let (content, end) = bytes.split_at_mut(RECORD_LENGTH - CHECK_LENGTH);
    let (start, middle) = content.split_at_mut(size_of::<u64>());
    start.copy_from_slice(&index.to_le_bytes());
    middle.copy_from_slice(hash.as_bytes());
    end.copy_from_slice(&check(content));
    bytes
}

/// Reads a journal; `None` if the header is not ours, torn or of another version.
pub fn decode(bytes: &[u8]) -> Option<Journal> {
    let (header, records) = bytes.split_at_checked(HEADER_LENGTH)?;
    let claimed = checked(header)?;
    let rest = claimed.strip_prefix(MAGIC)?;
    let rest = rest.strip_prefix(&VERSION.to_le_bytes())?;
    let rest = rest.strip_prefix(&PART_SIZE.trailing_zeros().to_le_bytes())?;
    let (length, key) = rest.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let count = usize::try_from(part_count(length)).ok()?;
    let mut parts = vec![None; count];
    for record in records.chunks_exact(RECORD_LENGTH) {
        let Some((index, hash)) = decode_record(record, length) else {
            break;
        };
        if let Some(part) = usize::try_from(index)
            .ok()
            .and_then(|index| parts.get_mut(index))
        {
            *part = Some(hash);
        }
    }
    Some(Journal {
        key: key.try_into().ok()?,
        length,
        parts,
    })
}

fn decode_record(record: &[u8], length: u64) -> Option<(u64, PartHash)> {
    let (index, hash) = checked(record)?.split_first_chunk::<8>()?;
    let hash: [u8; 32] = hash.try_into().ok()?;
    let hash = if length <= PART_SIZE {
        PartHash::Whole(Digest::from_bytes(hash))
    } else {
        PartHash::Part(ChainingValue(hash))
    };
    Some((u64::from_le_bytes(*index), hash))
}

fn check(bytes: &[u8]) -> [u8; 8] {
    blake3::hash(bytes)
        .as_bytes()
        .first_chunk::<8>()
        .copied()
        .unwrap_or_default()
}

fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (claimed, found) = bytes.split_last_chunk::<8>()?;
    (check(claimed) == *found).then_some(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [9; 32];

    fn part(byte: u8) -> PartHash {
        PartHash::Part(ChainingValue([byte; 32]))
    }

    #[test]
    fn bytes_are_golden() {
        let header = encode_header(&KEY, 3 << 20);
        assert_eq!(header.len(), HEADER_LENGTH);
        assert_eq!(&header[..8], b"TNGJRNL1");
        assert_eq!(header[8..16], [1, 0, 0, 0, 20, 0, 0, 0]);
        assert_eq!(header[16..24], [0, 0, 0x30, 0, 0, 0, 0, 0]);
        assert_eq!(header[24..56], KEY);
        let record = encode_record(2, &part(5));
        assert_eq!(record.len(), RECORD_LENGTH);
        assert_eq!(record[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(record[8..40], [5; 32]);
        assert_eq!(record[40..], blake3::hash(&record[..40]).as_bytes()[..8]);
    }

    #[test]
    fn a_torn_record_ends_the_journal() {
        let mut bytes = encode_header(&KEY, 3 << 20);
        bytes.extend(encode_record(0, &part(1)));
        bytes.extend(encode_record(2, &part(3)));
        let whole = decode(&bytes).unwrap();
        assert_eq!(whole.parts, [Some(part(1)), None, Some(part(3))]);
        let torn = decode(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(torn.parts, [Some(part(1)), None, None]);
        bytes[HEADER_LENGTH] ^= 1;
        assert_eq!(decode(&bytes).unwrap().parts, [None, None, None]);
        bytes[0] ^= 1;
        assert_eq!(decode(&bytes), None);
    }

    #[test]
    fn a_record_beyond_the_end_is_ignored() {
        let mut bytes = encode_header(&KEY, 2 << 20);
        bytes.extend(encode_record(u64::MAX, &part(1)));
        bytes.extend(encode_record(1, &part(2)));
        assert_eq!(decode(&bytes).unwrap().parts, [None, Some(part(2))]);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_none());
        }

        #[test]
        fn a_flipped_bit_never_yields_a_part_that_was_not_written(at in 0usize..(64 + 3 * 48) * 8) {
            let mut bytes = encode_header(&KEY, 3 << 20);
            for index in 0..3u8 { bytes.extend(encode_record(u64::from(index), &part(index))); }
            bytes[at / 8] ^= 1 << (at % 8);
            if let Some(journal) = decode(&bytes) {
                for (index, found) in (0u8..).zip(&journal.parts) {
                    prop_assert!(found.is_none() || *found == Some(part(index)));
                }
            }
        }
    }
}
