"""BLAKE3 of many 8-byte messages at once, so that a store of a million objects with true names costs seconds.

One block is one compression: chunk start, chunk end and root in one, as in section 2.2 of the BLAKE3 paper.
"""

import numpy

INITIAL = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
STARTS_ENDS_ROOT = 1 | 2 | 8
COLUMNS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
DIAGONALS = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def hashes_of_words(words: numpy.ndarray) -> bytes:
    """The 32-byte hashes, one after another, of little-endian 64-bit words."""
    halves = words.astype("<u8").view("<u4").reshape(-1, 2)
    zero = numpy.zeros(len(words), dtype=numpy.uint32)
    message = [halves[:, 0].copy(), halves[:, 1].copy()] + [zero] * 14
    constants = [*INITIAL, *INITIAL[:4], 0, 0, 8, STARTS_ENDS_ROOT]
    state = [zero + numpy.uint32(it) for it in constants]
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(COLUMNS + DIAGONALS):
            _mix(state, (a, b, c, d), message[2 * index], message[2 * index + 1])
        message = [message[it] for it in ORDER]
    return numpy.stack([state[it] ^ state[it + 8] for it in range(8)], axis=1).astype("<u4").tobytes()


def _mix(state: list, at: tuple[int, int, int, int], first, second) -> None:
    a, b, c, d = at
    for word, (right, back) in ((first, (16, 12)), (second, (8, 7))):
        state[a] = state[a] + state[b] + word
        state[d] = _rotated(state[d] ^ state[a], right)
        state[c] = state[c] + state[d]
        state[b] = _rotated(state[b] ^ state[c], back)


def _rotated(value, count: int):
    return (value >> numpy.uint32(count)) | (value << numpy.uint32(32 - count))
