"""The command line behind `e2e/cluster/run`."""

import argparse
import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from . import device_plugin, emulator, evidence, image, paths, programs, side_by_side
from .beside import Beside
from .cluster import Cluster
from .install import Driver
from .interrupt import end_with_parent, ignore_signals, raise_at_signals
from .kubectl import Kubectl
from .measure import Measure, size
from .outcome import Failure
from .scenarios import SCENARIOS, gpu, identity
from .store import Store
from .work import CALM, EXACT, PATIENT, Work
from .world import World


INTERRUPTED = 130
"""How a program ends that a signal has ended, as shells write it."""


def main() -> int:
    args = _arguments()
    if args.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:<18} {_sentence(scenario)}")
        return 0
    if os.geteuid() != 0:
        print("e2e/cluster/run: needs root: it makes namespaces, mounts and cgroups", file=sys.stderr)
        return 2
    raise_at_signals()
    if args.claims:
        end_with_parent()
    try:
        return _side_by_side(args) if args.clusters > 1 else _on_one(args)
    except KeyboardInterrupt:
        _say("ended by a signal")
        return INTERRUPTED


def _on_one(args: argparse.Namespace) -> int:
    began = time.monotonic()
    work = Work(args.names, args.claims, args.number == 1)
    cluster = Cluster()
    try:
        world = _prepared(cluster, Measure(args.size, args.reps, args.write), is_alone=not args.claims)
        _say(f"ready after {time.monotonic() - began:.0f} s; TONNAGE_E2E_SEED={world.seed} repeats the data and the moments of this run")
        ran = _all(world, work, _at_its_end if args.claims else _one)
    except Failure as error:
        _say(f"the cluster could not be prepared: {error}\nevidence is kept in {evidence.keep(cluster, 'preparation', error)}")
        ran = {"preparation": False}
    finally:
        if args.keep:
            _say(f"the cluster stays: {paths.NODE}/in.sh kubectl get pods -A, and {paths.NODE}/down.sh --remove ends it")
        else:
            ignore_signals()
            cluster.remove()
    failed = [name for name, holds in ran.items() if not holds]
    _say(f"{len(ran)} scenarios in {time.monotonic() - began:.0f} s, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _side_by_side(args: argparse.Namespace) -> int:
    """Builds here, so that the clusters do not each begin to."""
    began = time.monotonic()
    Cluster().build()
    Store.build()
    driver = programs.driver()
    if gpu.NAME in args.names:
        programs.of_tests(device_plugin.PROGRAM)
    if identity.NAME in args.names:
        programs.of_tests(emulator.PROGRAM)
    failed = side_by_side.run(args.clusters, args.names, driver, _seed())
    _say(f"{len(args.names)} scenarios on {args.clusters} clusters in {time.monotonic() - began:.0f} s, clusters on which one failed: {failed or 'none'}")
    return 1 if failed else 0


def _all(world: World, work: Work, run: Callable[[str, World], bool]) -> dict[str, bool]:
    """Runs all that is left to be run; which of it holds. Who waits for minutes does so beside others, where there are any."""
    ran = {name: run(name, world) for name in work.take(EXACT)}
    beside: list[Beside] = []
    try:
        if work.has(PATIENT) and work.has(CALM):
            world.driver.ensure()
            for name in work.take(PATIENT):
                beside.append(Beside(name, partial(_one, name, world.beside())))
            ran |= {name: run(name, world.crowded()) for name in work.take(CALM)}
        ran |= {it.name: it.end() for it in beside}
    finally:
        for it in beside:
            it.stop()
    return ran | {name: run(name, world) for name in work.take()}


def _prepared(cluster: Cluster, measure: Measure, is_alone: bool) -> World:
    """Builds what is missing and starts what does not run. A cluster that was kept gets the driver of now."""
    cluster.build()
    Store.build()
    binary = programs.driver()
    kube, store = Kubectl(cluster), Store(cluster)
    driver = Driver(cluster, kube, binary)
    if not cluster.is_up():
        cluster.start()
        store.start()
    elif driver.is_installed():
        # Pods that a failed scenario has left are none that an uninstall has to wait for.
        driver.uninstall("--no-hooks")
    image.load(cluster, binary)
    return World(cluster, kube, store, driver, _seed(), measure, is_alone=is_alone)


def _seed() -> str:
    return os.environ.get("TONNAGE_E2E_SEED") or f"{time.time_ns():x}"


def _one(name: str, world: World) -> bool:
    """Runs one scenario to its end; whether all of it holds. Cleaning up is part of it."""
    began = time.monotonic()
    _say(f"\n=== {name}: {_sentence(SCENARIOS[name])}")
    try:
        world.driver.ensure()
        SCENARIOS[name].run(world)
        world.leave()
    except Exception as error:  # noqa: BLE001: whatever it is, its evidence is kept and the next scenario runs
        _say(f"  FAILED  {error if isinstance(error, Failure) else repr(error)}")
        _say(f"  evidence is kept in {evidence.keep(world.cluster, name, error)}")
        _clean_up_after_failure(world)
        return False
    finally:
        _say(f"=== {name}: {time.monotonic() - began:.0f} s")
    return True


def _at_its_end(name: str, world: World) -> bool:
    """Runs one scenario and shows all that it says at its end: other clusters say something too."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        holds = _one(name, world)
    _say(said.getvalue().rstrip("\n"))
    return holds


def _clean_up_after_failure(world: World) -> None:
    """Whatever can still be removed; what cannot is said, and the scenario has failed already."""
    try:
        world.leave()
    except Exception as error:  # noqa: BLE001: the next scenario runs whatever it is
        _say(f"  not cleaned up: {error if isinstance(error, Failure) else repr(error)}")


def _sentence(scenario: ModuleType) -> str:
    return " ".join(scenario.__doc__.split())


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("e2e/cluster/run", description="Runs the driver in a real Kubernetes of its own.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which scenarios; default: all (see --list)")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running, and use one that was left")
    parser.add_argument("--clusters", type=int, default=1, metavar="N", help="run them on so many clusters at once [default: 1]")
    parser.add_argument("--list", action="store_true", help="list the scenarios and what each shows")
    # One of several that run side by side is told what the others have taken, and which it is.
    parser.add_argument("--claims", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=1, help=argparse.SUPPRESS)
    measured = parser.add_argument_group("cold-start")
    measured.add_argument("--size", type=size, default=Measure.size, metavar="SIZE", help="of the model, such as 2GiB [default: 256MiB]")
    measured.add_argument("--reps", type=int, default=Measure.reps, metavar="N", help=f"turns of everybody [default: {Measure.reps}]")
    measured.add_argument("--write", action="store_true", help="put the chart into docs/ as well")
    args = parser.parse_args()
    if args.reps < 1:
        parser.error("--reps is at least 1")
    if args.clusters < 1:
        parser.error("--clusters is at least 1")
    if args.keep and args.clusters > 1:
        parser.error("--keep leaves one cluster, and --clusters asks for several")
    for name in args.names:
        if name not in SCENARIOS:
            parser.error(f"no scenario is called {name!r}; --list shows them")
    args.names = args.names or list(SCENARIOS)
    return args


if __name__ == "__main__":
    sys.exit(main())
