//! Frames as a client would not send them: they end in other frames or in an error, within bounds, and it does not matter in
//! which pieces they come.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const PREFACE_TEXT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn settings() -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(384)
    }
}

/// A frame whose length is that of its payload, of any kind, flags and stream.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![4 => Just(HEADERS), 3 => Just(CONTINUATION), 2 => any::<u8>()];
    let flags = prop_oneof![
        Just(0),
        Just(END_HEADERS),
        Just(END_HEADERS | END_STREAM),
        Just(END_HEADERS | PADDED),
        any::<u8>(),
    ];
    let name = prop_oneof!["%2Fvar%2F[a-z]{1,5}", "[a-z.:]{0,9}", "[ -~]{0,9}"];
    let block = name.prop_map(|name| {
        Encoder::new().encode([
            (&b":method"[..], &b"POST"[..]),
            (b":authority", name.as_bytes()),
        ])
    });
    let payload = prop_oneof![
        3 => block,
        2 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (0u8..8, proptest::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(padding, rest)| [vec![padding], rest].concat()),
    ];
    (kind, flags, 0u8..3, payload).prop_map(|(kind, flags, stream, payload)| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [kind, flags, 0, 0, 0, stream];
        [&length[1..], &head, &payload].concat()
    })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let frames = proptest::collection::vec(frame(), 0..6).prop_map(|frames| frames.concat());
    prop_oneof![
        4 => frames,
        1 => proptest::collection::vec(any::<u8>(), 0..120),
    ]
}

/// What comes out, and whether it went on to the end.
fn passed(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let (mut calls, mut out) = (Calls::default(), Vec::new());
    for part in PREFACE_TEXT.chunks(piece).chain(bytes.chunks(piece)) {
        if calls.pass(part, &mut out).is_err() {
            return (out, false);
        }
        assert!(calls.partial.len() < PREFACE.max(HEAD + FRAME_MAX));
        let block = calls.block.as_ref().map_or(0, |block| block.2.len());
        assert!(block <= BLOCK_MAX);
    }
    (out, true)
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn it_does_not_matter_in_which_pieces_frames_come(bytes in bytes(), piece in 1usize..60) {
        let whole = passed(&bytes, 1 << 20);
        prop_assert_eq!(passed(&bytes, piece), whole);
    }

    #[test]
    fn what_comes_out_is_whole_frames_that_pass_again_as_they_are(bytes in bytes()) {
        let (out, _) = passed(&bytes, 1 << 20);
        let frames = out.strip_prefix(PREFACE_TEXT).unwrap_or_default();
        let (again, is_whole) = passed(frames, 1 << 20);
        prop_assert!(is_whole);
        // Their blocks are encoded anew, each from a table of its own: they say the same, if not in the same bytes.
        let kinds = |out: &[u8]| {
            let mut rest = out.strip_prefix(PREFACE_TEXT).unwrap_or_default().to_vec();
            let mut kinds = Vec::new();
            while let Ok(Some((frame, next))) = split_frame(&rest) {
                kinds.push((frame[3], frame[4], frame[8]));
                rest = next.to_vec();
            }
            (kinds, rest)
        };
        prop_assert_eq!(kinds(&again), kinds(&out));
        prop_assert!(kinds(&out).1.is_empty());
    }
}

/// One block in one frame.
fn headers(block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    let head = [HEADERS, END_HEADERS, 0, 0, 0, 1];
    [&length[1..], &head, block].concat()
}

/// A table has 4 KiB, and a byte of a block can stand for all of it.
#[test]
fn a_block_that_unpacks_to_much_more_than_its_bytes_is_refused() {
    let value = vec![b'x'; 4000];
    let mut block = Encoder::new().encode([(&b"a"[..], value.as_slice())]);
    // RFC 7541, section 6.1: the newest entry of the table.
    block.extend(std::iter::repeat_n(0xbe_u8, 10_000));
    assert!(!passed(&headers(&block), 1 << 20).1);
    // It counts with 32 bytes for each: 16 fields fit, and 17 do not.
    block.truncate(block.len() - 10_000 + 15);
    assert!(passed(&headers(&block), 1 << 20).1);
    block.push(0xbe);
    assert!(!passed(&headers(&block), 1 << 20).1);
}

#[test]
fn a_client_cannot_have_a_larger_table_than_was_announced() {
    // RFC 7541, section 6.3: 4,096 and one more; then `:method: GET`, as nothing may end in an update.
    assert!(passed(&headers(&[0x3f, 0xe1, 0x1f, 0x82]), 1 << 20).1);
    assert!(!passed(&headers(&[0x3f, 0xe2, 0x1f, 0x82]), 1 << 20).1);
}
