"""How long until one 4 GiB file is on the local disk and durable when it comes over TLS 1.3?

The limit's network part is a discard over TLS: several `curl` with a range each, the least of some tries.
"""

import subprocess
import time
from dataclasses import replace

from .. import contest, limits, measure, peers
from ..peers import Job
from ..server import Server
from ..suite import Bench, Result, at_most, best
from .stage_1x4g import stage

NAME = "stage-tls"


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    contenders = [peers.OURS] + (peers.STRONGEST if bench.few else peers.ALL)
    bucket = bench.one()
    repeats = 1 if bench.quick else 3
    with bench.server() as plain:
        key = contest.job_for(bucket, plain, bench.target).files[0][0]
        size = (bench.data / bucket / key).stat().st_size
        limit = limits.measured(plain, f"/{bucket}/{key}", size, bench.root, repeats)
    with bench.server(tls=True) as server:
        job = contest.job_for(bucket, server, bench.target)
        network, used, served = min(discard(job, server, count) for count in [2, 4, 8][:repeats])
        limit = replace(limit, network=network, network_cpu=used, served_cpu=served)
        result.limits = limit.to_json(size)
        for lane in bench.lanes:
            stage(bench, result, server, job, contenders, lane)
            ours, peer = result.row("tonnage", lane), best(result.rows, lane, "durable s")
            time_ours = ours.median("durable s")
            result.verdicts += [
                at_most(f"{lane}: durable, ÷ {peer.name}", time_ours / peer.median("durable s"), 0.9, of=[ours, peer], figure="durable s"),
                at_most(f"{lane}: durable ÷ limit", time_ours / limit.floor, 1.3, of=[ours], figure="durable s"),
            ]
    return result


def discard(job: Job, server: Server, count: int) -> tuple[float, float, float]:
    """Receives the file over TLS with `count` connections and throws it away: seconds, processor seconds here and at the server."""
    key, size = job.files[0]
    meter, served, start = measure.Meter(server), server.cpu_seconds(), time.monotonic()
    running = []
    for index in range(count):
        first, end = size * index // count, size * (index + 1) // count
        command = ["curl", "--silent", "--fail", "--cacert", job.ca, "--range", f"{first}-{end - 1}", "--output", "/dev/null"]
        running.append(subprocess.Popen([*map(str, command), f"{job.endpoint}/{job.bucket}/{key}"]))
    if any([process.wait() for process in running]):
        raise RuntimeError("curl could not receive over TLS")
    return time.monotonic() - start, meter.cpu(), server.cpu_seconds() - served
