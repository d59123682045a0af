"""How fast is a published volume read when it is in memory, beside the native file, a FUSE mount and an EROFS image?"""

from .. import machine, volumes
from ..suite import Bench, Result

NAME = "load-warm"


def run(bench: Bench) -> Result:
    return volumes.compare(bench, Result(NAME, __doc__.splitlines()[0]), "warm", machine.warm)
