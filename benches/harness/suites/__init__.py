"""All suites, in the order in which they are run and shown."""

from types import ModuleType

from . import full_disk, herd, idle, load_cold, load_warm, neighbour, page_cache, publish_hit, restart, resume_kill9, scale
from . import stage_1x4g, stage_hf, stage_latency, stage_small, stage_tail, stage_tls, stage_to_gpu, stage_to_ram

_ORDER = [
    stage_to_ram,
    stage_to_gpu,
    stage_1x4g,
    stage_tls,
    stage_hf,
    stage_small,
    stage_latency,
    stage_tail,
    resume_kill9,
    neighbour,
    load_warm,
    load_cold,
    publish_hit,
    herd,
    restart,
    full_disk,
    idle,
    scale,
    page_cache,
]
SUITES: dict[str, ModuleType] = {module.NAME: module for module in _ORDER}
