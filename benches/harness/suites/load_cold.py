"""How fast is a published volume read when it comes from the disk, beside the native file, a FUSE mount and an EROFS image?

Pages are evicted before every read, and that is verified. The FUSE mount has no cache on disk and fetches again.
"""

from .. import machine, volumes
from ..suite import Bench, Result

NAME = "load-cold"


def run(bench: Bench) -> Result:
    return volumes.compare(bench, Result(NAME, __doc__.splitlines()[0]), "cold", machine.evict)
