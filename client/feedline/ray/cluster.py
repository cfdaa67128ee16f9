"""The Ray cluster: how this process comes to it, and which actors of fleets are there."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from feedline.ray.spec import CONTROLLER, NAMESPACE, REGISTRY, actor_name
from feedline_wire.errors import InvalidRequest, LoaderUnavailable
from feedline_wire.extras import ExtraMissing, need

ASK_S = 5.0
"""An actor answers in milliseconds; one that is being started anew in two or three seconds."""


def need_ray() -> Any:  # noqa: ANN401 - a module that publishes no types for what is used here
    """The module. Raises ExtraMissing where it is not installed."""
    try:
        need(["ray"], extra="ray")
    except ExtraMissing as missing:
        raise ExtraMissing(f"feedline.ray {missing}") from None
    import ray

    return ray


def connected() -> Any:  # noqa: ANN401 - see need_ray
    """The module, with this process in a cluster: the one it is in, else that of RAY_ADDRESS, else one on this host.

    Raises ExtraMissing, or LoaderUnavailable where no cluster is found. Starts none: it would end with this process.
    """
    ray = need_ray()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "auto"
        try:
            with _only_errors("ray"):  # it warns of the thread that asks for addresses, which needs no signals
                ray.init(
                    address=address,
                    namespace=NAMESPACE,
                    configure_logging=False,
                    log_to_driver=False,
                    ignore_reinit_error=True,  # another thread was quicker
                )
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            where = "on this host, and RAY_ADDRESS is not set" if address == "auto" else f"at RAY_ADDRESS={address}"
            raise LoaderUnavailable(
                f"no Ray cluster is found {where} ({str(error).splitlines()[0] if str(error) else error!r}); start one "
                f"with `ray start --head`, name it (RAY_ADDRESS), or call ray.init(address=…) before; one with a token "
                f"wants RAY_AUTH_MODE=token here, and the same token (RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)"
            ) from error
    return ray


@contextlib.contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """What a logger says meanwhile that is less than an error is not shown."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def actors_of(ray: Any, fleet: str) -> set[str]:  # noqa: ANN401 - see need_ray
    """The actors of a fleet, as REGISTRY, CONTROLLER and replicas; also those that wait for a node."""
    prefix = actor_name(fleet, "")
    return {name.removeprefix(prefix) for name in _actors(ray) if name.startswith(prefix)}


def fleets() -> list[str]:
    """The names of all fleets in this cluster. Raises as `addresses` does."""
    return sorted({name.partition("/")[0] for name in _actors(connected())})


def actor(ray: Any, fleet: str, part: str) -> Any | None:  # noqa: ANN401 - a handle
    """One of a fleet's actors; None if there is none of that name."""
    try:
        return ray.get_actor(actor_name(fleet, part), namespace=NAMESPACE)
    except ValueError:
        return None


def remove(ray: Any, fleet: str, part: str) -> None:  # noqa: ANN401 - see need_ray
    """End an actor for good, wherever it is. Idempotent."""
    if (handle := actor(ray, fleet, part)) is not None:
        ray.kill(handle, no_restart=True)


def unknown(ray: Any, fleet: str) -> InvalidRequest:  # noqa: ANN401 - see need_ray
    """What to say where there is no such fleet."""
    there = ", ".join(fleets()) or "none"
    return InvalidRequest(
        f"there is no fleet {fleet!r} in this Ray cluster; there are: {there}. Start it with "
        f"`feedline up --on ray {fleet} PATH` or feedline.ray.start(PATH, name={fleet!r})"
    )


def addresses(name: str) -> list[str]:
    """Where the loaders of `ray:NAME` are now. Blocks for the registry's answer, a few seconds at most.

    `feedline.connect("ray:NAME")` asks this again and again. Raises ExtraMissing without Ray, InvalidRequest if there
    is no such fleet, LoaderUnavailable where none of its loaders serves, or where nobody answers.
    """
    ray = connected()
    registry = actor(ray, name, REGISTRY)
    if registry is None:
        if actor(ray, name, CONTROLLER) is None:
            raise LoaderUnavailable(str(unknown(ray, name)))
        raise LoaderUnavailable(f"the registry of ray:{name} is being started anew")
    try:
        reports = ray.get(registry.reports.remote(), timeout=ASK_S)
    except ray.exceptions.RayError as error:
        raise LoaderUnavailable(f"the registry of ray:{name} does not answer: {type(error).__name__}") from error
    if reports is None:
        raise LoaderUnavailable(f"the registry of ray:{name} was just started and does not know all loaders yet")
    found = [one.address for one in reports if one.address]
    if not found:
        raise LoaderUnavailable(
            f"no loader of ray:{name} serves now: {'; '.join(map(str, reports)) or 'none is placed'}"
        )
    return found


def _actors(ray: Any) -> list[str]:  # noqa: ANN401 - see need_ray
    there = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in there if one["namespace"] == NAMESPACE and "/" in one["name"]]
