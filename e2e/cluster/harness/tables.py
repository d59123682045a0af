"""Tables as kubectl and the driver's command line print them for people, and sizes as they stand there."""

import re

COLUMN = re.compile(r"\S+(?: \S+)*")
"""A heading: words with one space between them. Between two columns there are more."""
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def rows(printed: str) -> list[dict[str, str]]:
    """The lines below the headings, by heading. A cell may be empty, so cells are cut where their headings begin."""
    head, *lines = printed.splitlines() or [""]
    found = list(COLUMN.finditer(head))
    ends = [it.start() for it in found[1:]] + [None]
    return [{it[0]: line[it.start() : end].strip() for it, end in zip(found, ends)} for line in lines if line.strip()]


def size(count: int) -> str:
    """So many bytes in words, with one figure behind the point, and never more than there are."""
    if count < 1024:
        return f"{count} B"
    tenths, units = count * 10 // 1024, list(UNITS)
    while tenths >= 10_240 and len(units) > 1:
        tenths //= 1024
        units.pop(0)
    return f"{tenths // 10}.{tenths % 10} {units[0]}"
