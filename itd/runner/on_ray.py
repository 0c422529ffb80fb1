"""Workers as actors of Ray Core, on one machine or many: `engine="ray"`. Ray is an extra, imported here alone.

An actor runs the whole sweep, as a process of this machine would, and writes into the result's folder itself: no score
passes Ray's object store. The folder has to be one that all nodes see.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from itd.errors import ItdError
from itd.process import Process
from itd.runner.fleet import RESTARTS, Death, Notes, Outcome, outcome_of
from itd.runner.member import Member, Places, threads_of
from itd.runner.options import RunOptions
from itd.text import one_line

_RESTART_S = 120.0
"""So long an actor that died may take to be there again."""
_REACH_S = 10.0
"""So long a cluster at an address may take to answer; Ray itself would wait for minutes."""


@dataclass(frozen=True)
class _Place:
    """Where an actor goes. node: Ray's name of it. here: how many actors are on it. cores: of the node."""

    node: str
    host: str
    here: int
    cores: int
    gpu: bool


class RayCrew:
    """Actors of a Ray cluster: of the one at `address`, else of one that is started here and ends with the run.

    workers_per_node: default one for each GPU of a node, or one where no node has any; nodes without GPUs are left out
    where others have some. Raises ItdError where Ray is not installed, or there is no cluster at that address.
    """

    def __init__(self, address: str | None = None, workers_per_node: int | None = None) -> None:
        self.ray = _ray()
        self.started: list[RayRemote] = []
        self.notes = Notes()
        _connect(self.ray, address)
        try:
            self.places = _places(self.ray, workers_per_node)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """How many workers there are to be."""
        return len(self.places)

    def threads(self, number: int) -> int:
        """Of a worker: OMP_NUM_THREADS where it is set, else its share of its node's cores."""
        return threads_of(self.places[number].here, self.places[number].cores)

    def options_of(self, options: RunOptions, number: int) -> RunOptions:
        """Those of one worker: its device is whatever Ray gives it."""
        place = self.places[number]
        return replace(options, device=torch.device("cuda" if place.gpu else "cpu"), beside=place.here)

    def start(self, number: int, spec: bytes, last: Places) -> RayRemote:
        """Starts an actor, or goes on with one that Ray has started again after its death."""
        place = self.places[number]
        before = next((remote for remote in self.started if remote.number == number), None)
        if before is not None:
            before.begin(last)
            return before
        near = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(place.node, soft=False)
        actor = self.ray.remote(Member).options(
            num_cpus=0,
            num_gpus=1 if place.gpu else 0,
            max_restarts=RESTARTS,
            max_task_retries=0,
            max_concurrency=2,
            scheduling_strategy=near,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self.threads(number))}},
        )
        remote = RayRemote(self.ray, actor.remote(spec), number, f"{place.host}, {'GPU' if place.gpu else 'CPU'}", self)
        self.started.append(remote)
        remote.begin(last)
        return remote

    def close(self) -> None:
        """Ends the actors, and the cluster that was started here. A second time it does nothing: any call of Ray's
        would start it again, or join what another cluster has left."""
        if not self.ray.is_initialized():
            return
        for remote in self.started:
            remote.stop()
        self.ray.shutdown()


class RayRemote:
    """An actor, as the process that drives it sees it."""

    def __init__(self, ray: Any, actor: Any, number: int, label: str, crew: RayCrew) -> None:
        self.ray, self.actor, self.number, self.label, self.crew = ray, actor, number, label, crew
        self.process: Process | None = None
        self.rows = self.done = 0
        self._last: Places = ()
        self._work: Any = None
        self._asked: Any = None
        self._begun_s = 0.0

    def begin(self, last: Places) -> None:
        """Has the actor compute what nobody has."""
        self.rows = self.done = 0
        self.process, self._last, self._begun_s = None, last, time.monotonic()
        self._ask()

    def _ask(self) -> None:
        self._work = self.actor.work.remote(self._last)
        self._asked = self.actor.state.remote()

    def poll(self) -> Outcome | None:
        """What came of it; None while it works."""
        self._hear()
        if not self.ray.wait([self._work], timeout=0)[0]:
            return None
        try:
            return outcome_of(self.ray.get(self._work))
        except self.ray.exceptions.ActorUnavailableError as error:
            if self.process is None and time.monotonic() - self._begun_s < _RESTART_S:  # Ray is starting it again
                self._ask()
                return None
            return Death(f"died: {one_line(error, 200)}")
        except self.ray.exceptions.RayActorError as error:
            return Death(f"died: {one_line(str(error).splitlines()[-1] if str(error) else error, 200)}")
        except self.ray.exceptions.RayError as error:
            return Death(f"ended with an error: {one_line(error, 300)}")

    def stop(self) -> None:
        """Kills the actor: what it has written is whole, and what it was at is nobody's."""
        with contextlib.suppress(Exception):
            self.ray.kill(self.actor, no_restart=True)

    def _hear(self) -> None:
        """Takes how far the actor is, and asks again."""
        try:
            if not self.ray.wait([self._asked], timeout=0)[0]:
                return
            self.process, self.rows, self.done, notes = self.ray.get(self._asked)
            for text in notes:
                self.crew.notes.say(text)
            self._asked = self.actor.state.remote()
        except self.ray.exceptions.RayError:
            return  # `poll` says that it died


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ItdError(
            "`engine=ray` needs Ray, which is not installed: pip install 'itd-oracle[ray]', or give `devices`"
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its warning of what that will be
    if ray.is_initialized():
        raise ItdError("this process is connected to a Ray cluster already; call ray.shutdown() first")
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "://" not in host:
        try:
            socket.create_connection((host, int(port)), _REACH_S).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from error
    before = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            # Without "local" it joins what RAY_ADDRESS or a file of the last cluster here names, which may be gone.
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except ray.exceptions.AuthenticationError as error:
        raise ItdError(
            f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token, and give this machine the "
            "cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _no_cluster(address, error) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would end this process without a word


def _no_cluster(address: str | None, error: Exception) -> ItdError:
    where = "no Ray cluster can be started here" if address is None else f"there is no Ray cluster at {address}"
    return ItdError(f"{where}: {one_line(error, 200)}; give another `address`, or `devices` for this machine alone")


def _places(ray: Any, workers_per_node: int | None) -> Sequence[_Place]:
    places = []
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    with_gpu = [node for node in nodes if node["Resources"].get("GPU", 0) >= 1]
    for node in with_gpu or nodes:  # rows of one result are of one kind of device
        resources = node["Resources"]
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        here = workers_per_node or max(1, gpus)
        if gpus and here > gpus:
            raise ItdError(
                f"`workers_per_node={here}` is more than the {gpus} GPUs of {node['NodeManagerHostname']}; give at "
                f"most {gpus}"
            )
        places += [_Place(node["NodeID"], node["NodeManagerHostname"], here, cores, gpus > 0)] * here
    return places
