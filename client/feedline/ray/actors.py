"""The actors of a fleet: what Ray runs, restarts and places. What they decide and keep is in modules without Ray."""

import contextlib
import logging
import threading
import time
from typing import Any

import ray

from feedline.connection.target import entries
from feedline.fleet.fleet import Fleet
from feedline.ray.cluster import ASK_S, actor, actors_of, addresses, remove
from feedline.ray.keeper import Keeper
from feedline.ray.plan import Action, Create, Drain, Remove, plan
from feedline.ray.registry import BEAT_S, Registry
from feedline.ray.spec import NAMESPACE, REGISTRY, REPLICA, FleetSpec, FleetStatus, Report, actor_name
from feedline.watching.scaling import Recommendation, decide, kept, look

EVERY_S = 2.0
"""Between two looks of the controller. A replica that is missing is noticed by Ray itself; demand is of a minute."""

STATUS_S = 2.0
"""A loader answers Status from memory."""

log = logging.getLogger("feedline")

DETACHED = {"namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1}
"""They outlive who started them, and are started again wherever their process or node is lost."""


class Replica:
    """Holds one loader, and says each second where it is."""

    def __init__(self, spec: FleetSpec, name: str) -> None:
        _log_to_ray()
        self._fleet = spec.name
        self._news = threading.Event()
        self._keeper = Keeper(
            name,
            spec.words,
            host=ray.util.get_node_ip_address(),
            folders=spec.folders,
            start_timeout_s=spec.start_timeout_s,
            drain_timeout_s=spec.drain_timeout_s,
            changed=self._news.set,
        )
        self._keeper.start()
        threading.Thread(target=self._beat, name="feedline beat", daemon=True).start()

    def drain(self) -> None:
        """Let trainers move on, and end the loader. Does not wait."""
        self._keeper.drain()

    def drained(self, timeout_s: float) -> bool:
        """The same, and blocks until it has ended; whether it has."""
        self._keeper.drain()
        return self._keeper.wait(timeout_s)

    def _beat(self) -> None:
        registry: Any = None
        while True:
            try:
                registry = registry or actor(ray, self._fleet, REGISTRY)
                if registry is not None:
                    ray.get(registry.say.remote(self._keeper.report()), timeout=ASK_S)
            except Exception as error:  # it, or Ray's own store of names, is being started anew; nobody else says it
                log.debug("the registry of %s does not hear: %s", self._fleet, error)
                registry = None
            self._news.wait(BEAT_S)
            self._news.clear()


class Controller:
    """Looks what trainers want, decides how many replicas there should be, and adds and drains them."""

    def __init__(self, spec: FleetSpec) -> None:
        _log_to_ray()
        self._spec = spec
        self._past: list[Recommendation] = []
        self._closing = threading.Event()
        self._acted = threading.Lock()
        # It only looks: it opens no stream, so it is no trainer to a loader.
        self._loaders = Fleet(entries(self._where), spec.credentials.completed())
        threading.Thread(target=self._run, name="feedline controller", daemon=True).start()

    def status(self) -> FleetStatus:
        """What the fleet is now."""
        spec = self._spec
        reports = self._reports() or {}
        replicas = self._replicas()
        return FleetStatus(
            name=spec.name,
            words=spec.words,
            workers=spec.workers,
            least=spec.policy.least,
            most=spec.policy.most,
            recommendation=self._past[-1] if self._past else None,
            replicas=tuple(one for name, one in reports.items() if name in replicas),
            unplaced=tuple(sorted(replicas - reports.keys(), key=lambda name: (len(name), name))),
        )

    def close(self) -> None:
        """Do nothing any more. Blocks until what is being done is done."""
        self._closing.set()
        with self._acted:
            pass

    # ---- on its own thread ----

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with self._acted:
                    self._step()
            except Exception:  # whatever it is, the next look may be better; nothing else keeps the fleet
                log.exception("the controller of %s failed to look after it; it tries again", self._spec.name)
            self._closing.wait(EVERY_S)

    def _step(self) -> None:
        spec = self._spec
        if actor(ray, spec.name, REGISTRY) is None:
            _create(Registry, spec, REGISTRY)
        reports = self._reports()
        replicas = self._replicas()
        wanted = self._decided(replicas, reports)
        for action in plan(replicas, reports, wanted):
            if self._closing.is_set():
                return
            log.info("%s: %s", spec.target, action)
            self._act(action)

    def _decided(self, replicas: set[str], reports: dict[str, Report] | None) -> int:
        spec, now = self._spec, time.monotonic()
        draining = {one.name for one in (reports or {}).values() if one.state in {"draining", "ended"}}
        staying = min(max(len(replicas - draining), spec.policy.least), spec.policy.most)
        serving = [one for one in (reports or {}).values() if one.address]
        if not serving:
            return self._past[-1].replicas if self._past else staying
        statuses = self._loaders.statuses(STATUS_S)
        if not self._past:
            # The one before may have decided this; what it is now is no reason to end what serves.
            self._past = [Recommendation(now, staying, staying, "what was there")]
        seen = look(statuses, now, unanswered=max(len(serving) - len(statuses), 0))
        self._past = [*kept(self._past, now, spec.policy), decide(seen, self._past, spec.policy)]
        return self._past[-1].replicas

    def _act(self, action: Action) -> None:
        spec = self._spec
        match action:
            case Create(name):
                # Two calls at once: one waits until it has drained.
                options = {"num_cpus": spec.workers, "scheduling_strategy": "SPREAD", "max_concurrency": 2}
                _create(Replica, spec, name, spec, name, **options)
            case Drain(name):
                if (replica := actor(ray, spec.name, name)) is not None:
                    replica.drain.remote()
            case Remove(name):
                remove(ray, spec.name, name)
                if (registry := actor(ray, spec.name, REGISTRY)) is not None:
                    registry.forget.remote(name)

    def _replicas(self) -> set[str]:
        return {name for name in actors_of(ray, self._spec.name) if name.startswith(REPLICA)}

    def _reports(self) -> dict[str, Report] | None:
        registry = actor(ray, self._spec.name, REGISTRY)
        if registry is None:
            return None
        try:
            said = ray.get(registry.reports.remote(), timeout=ASK_S)
        except ray.exceptions.RayError:
            return None
        return None if said is None else {one.name: one for one in said}

    def _where(self) -> list[str]:
        return addresses(self._spec.name)


def _log_to_ray() -> None:
    """Have what is logged here in the files that Ray keeps of the actor."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


def _create(kind: type, spec: FleetSpec, part: str, *arguments: object, **options: object) -> None:
    name = actor_name(spec.name, part)
    with contextlib.suppress(ray.exceptions.ActorAlreadyExistsError):
        ray.remote(kind).options(**{"name": name, "num_cpus": 0, **DETACHED, **options}).remote(*arguments)


def create_controller(spec: FleetSpec) -> Any:  # noqa: ANN401 - a handle
    """Begin a fleet. Raises ray.exceptions.ActorAlreadyExistsError if there is one of that name."""
    # Several calls at once: one that waits for Status must not hold up who asks how the fleet is.
    options = {"name": actor_name(spec.name, "controller"), "num_cpus": 0, "max_concurrency": 8, **DETACHED}
    return ray.remote(Controller).options(**options).remote(spec)
