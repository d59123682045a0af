//! Part tables: the chaining value of every part of an object of at least two parts.
//!
//! ```text
//! "TNGPART1"  u32 version  u32 log2 part size  u64 object length  then 32 bytes per part
//! ```
//! Integers are little-endian. A table is believed only if its count fits the length and its values merge to the
//! object's name; so it needs no check and no sync, and is rebuilt by a scrub if it is lost.

use super::Shared;
use super::write_file;
use crate::digest::{ChainingValue, Digest, PART_SIZE, PartHash, merge, part_count};
use crate::disk::absent_is_none;
use crate::error::{IoContext, PathError};

const MAGIC: &[u8; 8] = b"TNGPART1";
const VERSION: u32 = 1;

/// The bytes of a part table; `None` for a file of fewer than two parts, which has none.
pub fn encode(length: u64, parts: &[PartHash]) -> Option<Vec<u8>> {
    if parts.len() < 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(parts.len().saturating_mul(32).saturating_add(24));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&PART_SIZE.trailing_zeros().to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
    }
    Some(bytes)
}

/// The values of a table that belongs to the object `digest`; `None` if it is not to be believed.
pub fn decode(bytes: &[u8], digest: &Digest) -> Option<(u64, Vec<ChainingValue>)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let rest = rest.strip_prefix(&VERSION.to_le_bytes())?;
    let rest = rest.strip_prefix(&PART_SIZE.trailing_zeros().to_le_bytes())?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let (values, left) = rest.as_chunks::<32>();
    let fits = left.is_empty() && part_count(length) == values.len() as u64;
    let values: Vec<ChainingValue> = values.iter().map(|value| ChainingValue(*value)).collect();
    (fits && merge(&values) == Some(*digest)).then_some((length, values))
}

impl Shared {
    /// Writes an object's table; a failure is logged, because a table can be rebuilt.
    pub(super) fn keep_parts(&self, digest: &Digest, length: u64, parts: &[PartHash]) {
        let Some(bytes) = encode(length, parts) else {
            return;
        };
        let path = self.layout.parts(digest);
        let fresh = self.temporary();
        let kept = write_file(&*self.disk, &fresh, &bytes).and_then(|_| {
            let named = self.in_fan(&path, || self.disk.rename(&fresh, &path));
            Ok(named.at("rename to", &path)?)
        });
        if let Err(error) = kept {
            tracing::warn!(digest = %digest, error = %crate::error::chain(&error), "no part table was kept");
            self.remove_quietly(&fresh);
        }
    }

    /// An object's table, if there is one to be believed.
    pub(super) fn find_parts(
        &self,
        digest: &Digest,
    ) -> Result<Option<(u64, Vec<ChainingValue>)>, PathError> {
        let path = self.layout.parts(digest);
        let bytes = absent_is_none(self.disk.read(&path)).at("read", &path)?;
        Ok(bytes.and_then(|bytes| decode(&bytes, digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::hash_part;

    fn table() -> (Digest, Vec<u8>) {
        let data = vec![3u8; (2 << 20) + 5];
        let length = data.len() as u64;
        let parts: Vec<PartHash> = (0..)
            .zip(data.chunks(1 << 20))
            .map(|(index, part)| hash_part(length, index, part))
            .collect();
        (Digest::of(&data), encode(length, &parts).unwrap())
    }

    #[test]
    fn bytes_are_golden() {
        let (digest, bytes) = table();
        assert_eq!(bytes.len(), 24 + 3 * 32);
        assert_eq!(&bytes[..8], b"TNGPART1");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 20, 0, 0, 0]);
        assert_eq!(bytes[16..24], [5, 0, 0x20, 0, 0, 0, 0, 0]);
        let (length, values) = decode(&bytes, &digest).unwrap();
        assert_eq!((length, values.len()), ((2 << 20) + 5, 3));
    }

    #[test]
    fn a_table_is_believed_only_if_it_merges_to_the_objects_name() {
        let (digest, bytes) = table();
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[at / 8] ^= 1 << (at % 8);
            // The length is not hashed; within the last part it may differ, and the object's own length decides.
            let (length, kept) = (16 * 8..24 * 8, decode(&bad, &digest).is_some());
            assert!(!kept || length.contains(&at), "bit {at}");
        }
        assert!(decode(&bytes[..bytes.len() - 32], &digest).is_none());
        assert!(decode(&bytes, &Digest::of(b"other")).is_none());
    }

    #[test]
    fn a_file_of_one_part_has_no_table() {
        assert_eq!(encode(5, &[hash_part(5, 0, b"12345")]), None);
        assert_eq!(encode(0, &[]), None);
    }
}
