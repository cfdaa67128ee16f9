"""An autoscaler from start to end: listen, look, stop; or a single look."""

import contextlib
import json
import os
from pathlib import Path

import structlog

from feedline.watching.fleet_watch import FleetWatch
from feedline.watching.scaling import Policy
from feedline_autoscale.controller import Controller
from feedline_autoscale.knocks import Knocks
from feedline_autoscale.service import Service
from feedline_autoscale.shown import routes, values
from feedline_server.access import bind_policy
from feedline_server.access.bind_policy import Protection
from feedline_server.access.tls import hot_reloaded_tls
from feedline_server.access.tokens import hot_reloaded_tokens
from feedline_server.host import threads
from feedline_server.host.addresses import check_free, checked, with_port, write_lines
from feedline_server.host.signals import StopSignals
from feedline_server.rpc.interceptor import AccessInterceptor
from feedline_server.watching.http import HttpServer, hot_reloaded_context
from feedline_wire.errors import InvalidRequest, LoaderBroken

STOP_S = 0.3
"""How long streams may take to end; Ctrl-C must leave in under a second."""

LEAVE_S = 3.0
"""The end takes under a second; what hangs in it, a name service for instance, is left."""

log = structlog.get_logger()


def once(watch: FleetWatch, policy: Policy, timeout_s: float) -> int:
    """Look once and print the decision; the exit code."""
    controller = Controller(lambda: watch.see(timeout_s=timeout_s), policy, every_s=1.0)
    with contextlib.closing(watch):
        decided = controller.look()
    if decided is None:
        return 1  # the log has said why
    print(json.dumps(values(decided)))  # noqa: T201 - what was asked for
    return 0


def serve(
    watch: FleetWatch,
    policy: Policy,
    protection: Protection,
    *,
    timeout_s: float,
    every_s: float,
    health_listen: str | None,
    port_file: Path | None,
) -> None:
    """Serve until a signal asks for the end. Blocks; raises a FeedlineError if it cannot begin. Main thread only."""
    listening = {"--listen": protection.listen, "--metrics-listen": protection.metrics_listen}
    for option, address in (listening | {"--health-listen": health_listen}).items():
        if address is not None:
            check_free(_address(address, option), option)
    if problems := list(bind_policy.problems(protection)):
        raise InvalidRequest("\n".join(problems))
    files = protection.certificate, protection.key, protection.client_ca
    tls, tokens = hot_reloaded_tls(*files), hot_reloaded_tokens(protection.tokens)
    stop = StopSignals()
    threads.watch(stop.fail)
    for warning in bind_policy.warnings(protection):
        log.warning(warning, listen=protection.listen)
    knocks = Knocks()
    controller = Controller(
        lambda: watch.see(knocking=knocks.count, may_be_empty=policy.least == 0, timeout_s=timeout_s),
        policy,
        every_s=every_s,
    )
    threads.vital(controller.thread)
    http = HttpServer(routes(controller), tokens=tokens, tls=hot_reloaded_context(*files))
    service = Service(controller, knocks, tls, AccessInterceptor(tokens))
    try:
        port = service.start(protection.listen, health_listen)
        metrics = {}
        if protection.metrics_listen is not None:
            metrics["metrics"] = with_port(protection.metrics_listen, http.start(protection.metrics_listen))
        controller.start()
        stop.serving = True
        log.info(
            "autoscaling",
            of=str(watch),
            listen=with_port(protection.listen, port),
            **metrics,
            least=policy.least,
            most=policy.most,
            pid=os.getpid(),
        )
        if port_file == Path("-"):
            print(port, flush=True)  # noqa: T201 - what was asked for
        elif port_file is not None:
            write_lines(port_file, [port])
        while not stop.is_requested:
            stop.wait()
            stop.take_reload()
    finally:
        stop.leave_within(LEAVE_S)
        with contextlib.ExitStack() as ending:  # what one of them raises keeps none of the others
            ending.callback(log.info, "stopped")
            ending.callback(watch.close)
            ending.callback(http.close)
            ending.callback(service.stop, STOP_S)
            ending.callback(controller.close)
    if stop.failure is not None:
        raise LoaderBroken(stop.failure)


def _address(text: str, option: str) -> str:
    try:
        return checked(text, 50060)
    except ValueError as error:
        raise InvalidRequest(f"{option}: found {text!r}; wanted {error}") from None
