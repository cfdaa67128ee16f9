"""Start, see and stop a fleet of loaders on Ray."""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feedline.connection.credentials import Credentials, FilePath
from feedline.local.data import is_object
from feedline.local.process import own_folders
from feedline.local.server import need_server
from feedline.ray.cluster import ASK_S, actor, actors_of, connected, remove, unknown
from feedline.ray.spec import (
    CONTROLLER,
    REGISTRY,
    REPLICA,
    FleetSpec,
    FleetStatus,
    checked_name,
    checked_replicas,
)
from feedline.watching.scaling import IN_EVERY_S, WINDOW_S, Policy
from feedline_wire.errors import InvalidRequest, LoaderUnavailable

LOOK_S = 0.3
"""Between two looks at a fleet that starts or stops: no event of Ray's tells, and a loader takes a second or two."""

OURS = ("--listen", "--port-file", "--pid-file", "--replicas", "--workers", "--until-stdin-ends", "--drain-timeout-s")
"""Options of `feedline serve` that are decided here."""


def start(
    path: "str | os.PathLike[str]",
    *options: str,
    name: str,
    replicas: int | Sequence[int] = 1,
    workers: int = 1,
    timeout_s: float = 300.0,
    drain_timeout_s: float = 20.0,
    scale_in_after_s: float = WINDOW_S,
    token_file: FilePath | None = None,
    ca: FilePath | None = None,
    certificate: FilePath | None = None,
    key: FilePath | None = None,
    server_name: str | None = None,
    insecure: bool | None = None,
) -> str:
    """Start loaders of this data on the Ray cluster: `feedline.ray.start("/data/digits", name="digits")`.

    `path` is what `feedline serve` takes, on every node the same: a folder, a file, a `loader.toml`, or `module:name`;
    `options` are those of `feedline serve`. `replicas` is how many loaders, or (min, max): they follow what trainers
    want, fewer only after `scale_in_after_s`. Each is an actor with `workers` worker processes and as many of Ray's
    CPUs, spread over the nodes; it listens on its node's address at any free port, and on 127.0.0.1 where the cluster
    has no other. Other hosts are let in only with TLS or `"--insecure"`, as with `feedline serve`.

    Gives the target for `connect` and `RemoteSequence`: `"ray:NAME"`. The fleet outlives this process: `stop` ends it.
    Blocks until `replicas` of them, the least, serve; a loader that does not within `timeout_s` is started again. The
    credentials are files on the nodes, with which the fleet's controller asks loaders with tokens or TLS what trainers
    want; without them there stay as many as there are.

    Raises InvalidRequest if there is a fleet of this name, or the arguments make no sense; LoaderUnavailable, with what
    the loader says, if one cannot serve, or if Ray has no place for them; ExtraMissing without Ray. Then nothing stays.
    """
    least, most = checked_replicas(replicas)
    if not isinstance(workers, int) or workers < 1:
        raise InvalidRequest(f"workers is {workers!r}; wanted 1 or more")
    if taken := sorted({option.partition("=")[0] for option in options} & set(OURS)):
        raise InvalidRequest(f"{', '.join(taken)}: is decided by feedline.ray.start; see its arguments")
    spec = FleetSpec(
        name=checked_name(name),
        words=(_data(path), "--workers", str(workers), "--log-format", "text", *options),
        folders=own_folders(),
        workers=workers,
        policy=Policy(least=least, most=most, window_s=scale_in_after_s, in_every_s=min(IN_EVERY_S, scale_in_after_s)),
        start_timeout_s=timeout_s,
        drain_timeout_s=drain_timeout_s,
        credentials=Credentials(None, token_file, ca, certificate, key, server_name, insecure),
    )
    need_server()
    ray = connected()
    from feedline.ray.actors import create_controller

    try:
        controller = create_controller(spec)
    except ray.exceptions.ActorAlreadyExistsError:
        raise InvalidRequest(
            f"there is a fleet {name!r} already; choose another name, or end it first: `feedline down {name}` or "
            f"feedline.ray.stop({name!r})"
        ) from None
    try:
        _await_serving(ray, controller, spec)
    except BaseException:
        _remove_all(ray, name)
        raise
    return spec.target


def status(name: str) -> FleetStatus:
    """How a fleet is: its replicas, where they are, how many there should be and why.

    Blocks for its controller's answer. Raises InvalidRequest if there is no such fleet, LoaderUnavailable if its
    controller does not answer.
    """
    ray = connected()
    controller = actor(ray, checked_name(name), CONTROLLER)
    if controller is None:
        raise unknown(ray, name)
    try:
        found: FleetStatus = ray.get(controller.status.remote(), timeout=2 * ASK_S)
    except ray.exceptions.RayError as error:
        raise LoaderUnavailable(
            f"the controller of ray:{name} does not answer ({type(error).__name__}); Ray starts it again"
        ) from error
    return found


def stop(name: str, *, timeout_s: float = 60.0) -> None:
    """End a fleet. Trainers get what is being assembled for them, and are told that its loaders go.

    Blocks until it has ended; what has not drained after `timeout_s` is killed. Raises InvalidRequest if there is no
    such fleet.
    """
    ray = connected()
    if not (there := actors_of(ray, checked_name(name))):
        raise unknown(ray, name)
    if (controller := actor(ray, name, CONTROLLER)) is not None:
        with contextlib.suppress(ray.exceptions.RayError):  # it is being started anew, and removed before it acts
            ray.get(controller.close.remote(), timeout=2 * ASK_S)
        remove(ray, name, CONTROLLER)
        there = actors_of(ray, name)  # what it has started meanwhile
    serving = _serving(ray, name)
    replicas = [
        actor(ray, name, part) for part in there if part.startswith(REPLICA) and (serving is None or part in serving)
    ]
    if draining := [replica.drained.remote(timeout_s) for replica in replicas if replica is not None]:
        ray.wait(draining, num_returns=len(draining), timeout=timeout_s)
    _remove_all(ray, name)


def _serving(ray: Any, name: str) -> set[str] | None:  # noqa: ANN401 - a module
    """Replicas that have something to finish; None where the registry does not know."""
    registry = actor(ray, name, REGISTRY)
    with contextlib.suppress(ray.exceptions.RayError):
        reports = ray.get(registry.reports.remote(), timeout=ASK_S) if registry is not None else None
        return None if reports is None else {one.name for one in reports if one.state in {"serving", "draining"}}
    return None


def _await_serving(ray: Any, controller: Any, spec: FleetSpec) -> None:  # noqa: ANN401 - a module, and a handle
    deadline = time.monotonic() + spec.start_timeout_s
    found: FleetStatus | None = None
    while time.monotonic() < deadline:
        try:
            found = ray.get(controller.status.remote(), timeout=max(deadline - time.monotonic(), LOOK_S))
        except ray.exceptions.GetTimeoutError:
            break
        except ray.exceptions.ActorUnavailableError:  # it was lost, and is started again
            found = None
        except ray.exceptions.RayError as error:
            raise LoaderUnavailable(f"the controller of {spec.target} ended: {error}") from error
        if found is not None:
            if found.serving >= spec.policy.least:
                return
            if failed := [one for one in found.replicas if one.state == "failed"]:
                raise LoaderUnavailable(f"{failed[0].name} of {spec.target} on {failed[0].node}: {failed[0].reason}")
        time.sleep(LOOK_S)
    raise LoaderUnavailable(
        f"{spec.target}: {found.serving if found else 0} of {spec.policy.least} loaders serve after "
        f"{spec.start_timeout_s:g} s; {_why(ray, found, spec)}"
    )


def _why(ray: Any, found: FleetStatus | None, spec: FleetSpec) -> str:  # noqa: ANN401 - a module
    if found is None:
        return "Ray has not started the fleet's controller; `ray status` says what it waits for"
    waiting = "; ".join(str(one) for one in found.replicas if one.state != "serving")
    if found.unplaced:
        free, total = ray.available_resources().get("CPU", 0), ray.cluster_resources().get("CPU", 0)
        waiting += (
            f"{'; ' if waiting else ''}{len(found.unplaced)} wait for a node with {spec.workers} free CPUs: of the "
            f"cluster's {total:g} CPUs {free:g} are free; ask for fewer workers or replicas, or add nodes"
        )
    return waiting


def _remove_all(ray: Any, name: str) -> None:  # noqa: ANN401 - a module
    for part in sorted(actors_of(ray, name), key=[CONTROLLER, REGISTRY].__contains__, reverse=True):
        remove(ray, name, part)


def _data(path: "str | os.PathLike[str]") -> str:
    text = os.fspath(path)
    if not text:
        raise InvalidRequest("an empty path names no data; write for example '/data/digits'")
    return text if is_object(text) else str(Path(text).expanduser().absolute())
