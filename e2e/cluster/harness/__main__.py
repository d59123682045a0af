"""The command line behind `e2e/cluster/run`."""

import argparse
import os
import sys
import time
from types import ModuleType

from . import evidence, image, paths
from .cluster import Cluster
from .install import Driver
from .kubectl import Kubectl
from .measure import Measure, size
from .outcome import Failure
from .scenarios import SCENARIOS
from .store import Store
from .world import World


def main() -> int:
    args = _arguments()
    if args.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:<14} {_sentence(scenario)}")
        return 0
    if os.geteuid() != 0:
        print("e2e/cluster/run: needs root: it makes namespaces, mounts and cgroups", file=sys.stderr)
        return 2
    began = time.monotonic()
    cluster = Cluster()
    try:
        world = _prepared(cluster, Measure(args.size, args.reps, args.write))
        _say(f"ready after {time.monotonic() - began:.0f} s; TONNAGE_E2E_SEED={world.seed} repeats the data and the moments of this run")
        failed = [name for name in args.names if not _one(name, world)]
    except Failure as error:
        _say(f"the cluster could not be prepared: {error}\nevidence is kept in {evidence.keep(cluster, 'preparation', error)}")
        failed = ["preparation"]
    finally:
        if args.keep:
            _say(f"the cluster stays: {paths.NODE}/in.sh kubectl get pods -A, and {paths.NODE}/down.sh --remove ends it")
        else:
            cluster.remove()
    _say(f"{len(args.names)} scenarios in {time.monotonic() - began:.0f} s, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _prepared(cluster: Cluster, measure: Measure) -> World:
    """Builds what is missing and starts what does not run. A cluster that was kept gets the driver of now."""
    cluster.build()
    Store.build()
    binary = image.build_driver()
    kube, store = Kubectl(cluster), Store(cluster)
    driver = Driver(cluster, kube, binary)
    if not cluster.is_up():
        cluster.start()
        store.start()
    elif driver.is_installed():
        # Pods that a failed scenario has left are none that an uninstall has to wait for.
        driver.uninstall("--no-hooks")
    image.load(cluster, binary)
    return World(cluster, kube, store, driver, os.environ.get("TONNAGE_E2E_SEED") or f"{time.time_ns():x}", measure)


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


def _clean_up_after_failure(world: World) -> None:
    """Whatever can still be removed; what cannot is said, and the scenario has failed already."""
    try:
        world.leave()
    except Failure as error:
        _say(f"  not cleaned up: {error}")


def _sentence(scenario: ModuleType) -> str:
    return " ".join(scenario.__doc__.split())


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("e2e/cluster/run", description="Runs the driver in a real Kubernetes of its own.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which scenarios; default: all (see --list)")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running, and use one that was left")
    parser.add_argument("--list", action="store_true", help="list the scenarios and what each shows")
    measured = parser.add_argument_group("cold-start")
    measured.add_argument("--size", type=size, default=Measure.size, metavar="SIZE", help="of the model, such as 2GiB [default: 256MiB]")
    measured.add_argument("--reps", type=int, default=Measure.reps, metavar="N", help=f"turns of everybody [default: {Measure.reps}]")
    measured.add_argument("--write", action="store_true", help="put the chart into docs/ as well")
    args = parser.parse_args()
    if args.reps < 1:
        parser.error("--reps is at least 1")
    for name in args.names:
        if name not in SCENARIOS:
            parser.error(f"no scenario is called {name!r}; --list shows them")
    args.names = args.names or list(SCENARIOS)
    return args


if __name__ == "__main__":
    sys.exit(main())
