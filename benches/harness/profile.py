"""Sorts the stacks of `perf script` by what they are spent on: BYTES FREQUENCY on the command line, stacks on standard input.

A sample belongs to the first class of which any frame of its stack, from the innermost outwards, has a name.
"""

import sys
from collections import Counter

CLASSES = [
    ("hash", ("blake3",)),
    ("page allocation", ("clear_page", "alloc_pages", "__folio_alloc", "folio_alloc", "do_anonymous_page", "do_huge_pmd", "asm_exc_page_fault")),
    ("copy to the page cache", ("copy_folio_from_iter", "generic_perform_write", "iomap_file_buffered_write", "ext4_da_write", "buffered_write")),
    ("copy from the socket", ("_copy_to_iter", "skb_copy_datagram_iter", "__skb_datagram_iter", "__check_object_size")),
    ("receive", ("tcp_", "sock_", "__sys_recvfrom", "recv", "net_rx_action", "ip_rcv")),
    ("sync", ("fdatasync", "fsync", "syncfs", "jbd2")),
    ("write past the page cache", ("iomap_dio", "blk_", "submit_bio", "virtio", "iowrite", "__x64_sys_pwrite64", "vfs_write")),
    ("names and inodes", ("sys_mkdir", "sys_rename", "sys_link", "sys_openat", "sys_unlink", "fchmod", "utimens", "statx", "vfs_", "do_filp_open")),
    ("wake-ups and switches", ("futex", "schedule", "epoll", "try_to_wake_up")),
    ("copy in the program", ("memmove", "memcpy")),
    ("the program itself", ("tonnage", "tokio", "hyper", "alloc", "core::", "std::", "malloc", "free")),
]


def main() -> None:
    size, frequency = int(sys.argv[1]), float(sys.argv[2])
    counts: Counter[str] = Counter()
    inner: dict[str, Counter[str]] = {}
    for stack in _stacks(sys.stdin):
        name = _class_of(stack)
        counts[name] += 1
        inner.setdefault(name, Counter())[stack[0]] += 1
    total = sum(counts.values())
    per_gb = 1e9 / size / frequency
    print(f"{'':28} CPU-s/GB   share   most of it in")
    for name, count in counts.most_common():
        most = ", ".join(f"{symbol} {hits / count:.0%}" for symbol, hits in inner[name].most_common(3))
        print(f"{name:28} {count * per_gb:8.3f} {count / total:7.1%}   {most[:110]}")
    print(f"{'all':28} {total * per_gb:8.3f}")


def _stacks(lines):
    """Lists of names, innermost first; samples are separated by empty lines."""
    stack: list[str] = []
    for line in lines:
        words = line.split(maxsplit=1)
        if not words:
            if stack:
                yield stack
            stack = []
        elif len(words) == 2:
            stack.append(words[1].strip())
    if stack:
        yield stack


def _class_of(stack: list[str]) -> str:
    for symbol in stack:
        for name, parts in CLASSES:
            if any(part in symbol for part in parts):
                return name
    return "other"


if __name__ == "__main__":
    main()
