//! Content digests: standard BLAKE3, computable part by part and out of order.
//!
//! A file is cut into aligned parts of 1 MiB ([`PART_SIZE`]). Each part of a longer file yields a subtree
//! chaining value that contains the part's offset; [`merge`] combines them into the file's ordinary BLAKE3.
//! A file of at most one part has no chaining values: its digest is computed plainly, because a
//! non-root value is not the hash (BLAKE3 paper, section 2.1). Chaining values verify, resume and repair;
//! they never identify content elsewhere.

use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Length of a part in bytes: 1 MiB, a power of two of BLAKE3 chunks.
pub const PART_SIZE: u64 = 1 << 20;

/// Number of parts of a file of `length` bytes; an empty file has none.
pub const fn part_count(length: u64) -> u64 {
    length.div_ceil(PART_SIZE)
}

/// Length in bytes of part `index` of a file of `length` bytes; 0 beyond its end.
pub fn part_length(length: u64, index: u64) -> u64 {
    length
        .saturating_sub(index.saturating_mul(PART_SIZE))
        .min(PART_SIZE)
}

/// The BLAKE3 of some content: its name in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a digest is 64 hexadecimal digits, optionally after \"blake3:\"")]
pub struct ParseError;

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Wraps 32 bytes that are known to be a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.to_hex())
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hex = text.strip_prefix("blake3:").unwrap_or(text);
        if hex.len() != 64 {
            return Err(ParseError);
        }
        blake3::Hash::from_hex(hex)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| ParseError)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The subtree chaining value of one part of a file of at least two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainingValue(pub [u8; 32]);

/// What hashing one part of a file yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartHash {
    /// The file has this one part: its digest.
    Whole(Digest),
    /// One of several parts: its chaining value.
    Part(ChainingValue),
}

impl PartHash {
    /// The 32 bytes, for a journal.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        match self {
            Self::Whole(digest) => digest.as_bytes(),
            Self::Part(value) => &value.0,
        }
    }
}

/// Hashes one part, slice by slice.
#[derive(Debug)]
pub struct PartHasher {
    hasher: blake3::Hasher,
    whole: bool,
}

impl PartHasher {
    /// Starts part `index` of a file of `length` bytes.
    pub fn new(length: u64, index: u64) -> Self {
        let whole = length <= PART_SIZE;
        let mut hasher = blake3::Hasher::new();
        if !whole {
            hasher.set_input_offset(index.saturating_mul(PART_SIZE));
        }
        Self { hasher, whole }
    }

    /// Adds bytes; at most one part's worth in all.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The part's hash. A part of a longer file must not be empty.
    pub fn finish(&self) -> PartHash {
        if self.whole {
            PartHash::Whole(Digest(*self.hasher.finalize().as_bytes()))
        } else {
            PartHash::Part(ChainingValue(self.hasher.finalize_non_root()))
        }
    }
}

/// Hashes one whole part held in memory.
pub fn hash_part(length: u64, index: u64, bytes: &[u8]) -> PartHash {
    let mut hasher = PartHasher::new(length, index);
    hasher.update(bytes);
    hasher.finish()
}

/// Merges the chaining values of all parts of one file, in order, into the file's digest: neighbours are
/// paired layer by layer, an odd last one is promoted, the last pair is the root. `None` for fewer than two.
pub fn merge(values: &[ChainingValue]) -> Option<Digest> {
    if values.len() < 2 {
        return None;
    }
    let mut layer: Vec<[u8; 32]> = values.iter().map(|value| value.0).collect();
    while layer.len() > 2 {
        layer = layer
            .chunks(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(merge_subtrees_non_root(left, right, Mode::Hash)),
                [odd] => Some(*odd),
                _ => None,
            })
            .collect();
    }
    match layer.as_slice() {
        [left, right] => Some(Digest(
            *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
        )),
        _ => None,
    }
}

/// Combines the hashes of all parts of a file of `length` bytes; `None` if their number or sort does not fit.
pub fn combine(length: u64, parts: &[PartHash]) -> Option<Digest> {
    if length == 0 && parts.is_empty() {
        return Some(Digest::of(b""));
    }
    if u64::try_from(parts.len()).ok()? != part_count(length) {
        return None;
    }
    if let [PartHash::Whole(digest)] = parts {
        return Some(*digest);
    }
    let values = parts
        .iter()
        .map(|part| match part {
            PartHash::Part(value) => Some(*value),
            PartHash::Whole(_) => None,
        })
        .collect::<Option<Vec<_>>>()?;
    merge(&values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::cast_possible_truncation, reason = "bounded by the remainder")]
    fn bytes_of(length: usize, seed: u8) -> Vec<u8> {
        (0..length).map(|i| ((i % 241) as u8) ^ seed).collect()
    }

    fn by_parts(bytes: &[u8]) -> Option<Digest> {
        let length = bytes.len() as u64;
        let parts: Vec<PartHash> = bytes
            .chunks(usize::try_from(PART_SIZE).unwrap())
            .zip(0..)
            .map(|(part, index)| hash_part(length, index, part))
            .collect();
        combine(length, &parts)
    }

    #[test]
    fn parts_merge_to_the_ordinary_hash_at_every_boundary() {
        let data: Vec<u8> = (0..9 * (1u32 << 20) + 7).map(|i| (i % 251) as u8).collect();
        let mib = 1 << 20;
        for length in [
            0,
            1,
            mib - 1,
            mib,
            mib + 1,
            2 * mib,
            3 * mib,
            5 * mib + 1023,
            7 * mib,
            8 * mib,
            9 * mib + 7,
        ] {
            assert_eq!(
                by_parts(&data[..length]),
                Some(Digest::of(&data[..length])),
                "{length}"
            );
        }
    }

    #[test]
    fn a_missing_or_moved_part_does_not_merge_to_the_hash() {
        let data = vec![7u8; 3 << 20];
        let mut parts: Vec<PartHash> = (0..3)
            .map(|index| hash_part(3 << 20, index, &data[..1 << 20]))
            .collect();
        assert_eq!(combine(3 << 20, &parts[..2]), None);
        parts.swap(0, 1);
        assert_ne!(combine(3 << 20, &parts), Some(Digest::of(&data)));
    }

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let digest = Digest::of(b"tonnage");
        assert_eq!(digest.to_hex().parse(), Ok(digest));
        assert_eq!(format!("blake3:{digest}").parse(), Ok(digest));
        assert_eq!("abc".parse::<Digest>(), Err(ParseError));
        assert_eq!("g".repeat(64).parse::<Digest>(), Err(ParseError));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_length_merges_to_the_ordinary_hash(length in 0usize..6_000_000, seed in any::<u8>()) {
            let data = bytes_of(length, seed);
            prop_assert_eq!(by_parts(&data), Some(Digest::of(&data)));
        }

        #[test]
        fn slices_do_not_change_a_parts_hash(cut in 1usize..1_000_000) {
            let data = vec![3u8; 1 << 20];
            let mut hasher = PartHasher::new(5 << 20, 2);
            for slice in data.chunks(cut) { hasher.update(slice); }
            prop_assert_eq!(hasher.finish(), hash_part(5 << 20, 2, &data));
        }
    }
}
