"""Sorts the stacks of `perf script --fields comm,pid,period,ip,sym` of a whole machine by what they are spent on: BYTES FREQUENCY
server=PID stage=PID [load=PID] on the command line, stacks on standard input.

A sample of a part belongs to the first class of which any frame of its stack, from the innermost outwards, has a name. The server
and the kernel's workers are one line each, and whatever else ran is told to show how quiet the machine was.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator

CLASSES = [
    ("hash", ("blake3",)),
    ("decrypt", ("ring_core", "ring::", "aes_gcm", "ghash")),
    ("page allocation", ("clear_page", "alloc_pages", "__folio_alloc", "folio_alloc", "do_anonymous_page", "do_huge_pmd", "asm_exc_page_fault")),
    ("copy to the page cache", ("copy_folio_from_iter", "generic_perform_write", "iomap_file_buffered_write", "ext4_da_write", "buffered_write")),
    ("copy from the socket", ("_copy_to_iter", "skb_copy_datagram_iter", "__skb_datagram_iter", "__check_object_size")),
    ("receive", ("tcp_", "sock_", "__sys_recvfrom", "recv", "net_rx_action", "ip_rcv")),
    ("sync", ("fdatasync", "fsync", "syncfs", "jbd2")),
    ("write past the page cache", ("iomap_dio", "blk_", "submit_bio", "virtio", "iowrite", "__x64_sys_pwrite64", "vfs_write")),
    ("names and inodes", ("sys_mkdir", "sys_rename", "sys_link", "sys_openat", "sys_unlink", "fchmod", "utimens", "statx", "vfs_", "do_filp_open")),
    ("wake-ups and switches", ("futex", "schedule", "epoll", "try_to_wake_up")),
    ("copy in the program", ("memmove", "memcpy")),
    ("TLS but for that", ("rustls",)),
    ("the program itself", ("tonnage", "tokio", "hyper", "alloc::", "core::", "std::", "_int_", "cfree", "=malloc", "=realloc", "=calloc", "=free")),
]
"""A part of a symbol, or the whole of it after `=`: the kernel's own `kmalloc` and `kfree` belong to what they were called for."""


SAMPLE = re.compile(r"^\s*(.*?)\s+(\d+)\s+(\d+):?\s*$")
WORKERS = ("kworker", "ksoftirqd", "kswapd")


def main() -> None:
    per_gb = 1e9 / int(sys.argv[1]) / float(sys.argv[2])
    parts = {int(pid): name for name, pid in (part.split("=") for part in sys.argv[3:])}
    stacks: dict[str, list[list[str]]] = {}
    for command, pid, stack in _samples(sys.stdin):
        if pid != 0:
            name = parts.get(pid) or ("kernel workers" if command.startswith(WORKERS) else "everything else")
            stacks.setdefault(name, []).append(stack)
    for name in ("stage", "load"):
        if name in stacks:
            _table(name, stacks.pop(name), per_gb)
    print("\napart from that")
    for name in ("kernel workers", "server", "everything else"):
        print(f"{name:28} {len(stacks.get(name, [])) * per_gb:8.3f}")


def _table(part: str, stacks: list[list[str]], per_gb: float) -> None:
    counts: Counter[str] = Counter()
    inner: dict[str, Counter[str]] = {}
    for stack in stacks:
        name = _class_of(stack)
        counts[name] += 1
        inner.setdefault(name, Counter())[stack[0]] += 1
    total = sum(counts.values())
    print(f"\n{part:28} CPU-s/GB   share   most of it in")
    for name, count in counts.most_common():
        most = ", ".join(f"{symbol} {hits / count:.0%}" for symbol, hits in inner[name].most_common(3))
        print(f"{name:28} {count * per_gb:8.3f} {count / total:7.1%}   {most[:110]}")
    print(f"{'all':28} {total * per_gb:8.3f}")


def _samples(lines) -> Iterator[tuple[str, int, list[str]]]:
    """The command, the process and the names of each sample, innermost first; samples are separated by empty lines."""
    head, stack = None, []
    for line in lines:
        if head is None:
            head = SAMPLE.match(line)
            continue
        words = line.split(maxsplit=1)
        if len(words) == 2:
            stack.append(words[1].strip())
        elif not words:
            yield head[1], int(head[2]), stack or ["[unknown]"]
            head, stack = None, []
    if head:
        yield head[1], int(head[2]), stack or ["[unknown]"]


def _class_of(stack: list[str]) -> str:
    for symbol in stack:
        for name, parts in CLASSES:
            if any(symbol == part[1:] if part.startswith("=") else part in symbol for part in parts):
                return name
    return "other"


if __name__ == "__main__":
    main()
