"""The command line of `feedline autoscale`."""

import argparse
from pathlib import Path

from feedline.cli.arguments import add_target, credentials, natural, positive, seconds
from feedline.connection.credentials import Credentials
from feedline.watching.fleet_watch import ANSWER_S, FleetWatch
from feedline.watching.scaling import IN_EVERY_S, TARGET, WINDOW_S, Policy
from feedline_autoscale.running import once, serve
from feedline_server.access.bind_policy import Protection
from feedline_server.host.logs import configure_logs
from feedline_wire.command_line import Command, Program

EPILOG = f"""\
TARGET is what the trainers connect to: every address behind it is a loader. Every few seconds each is asked what it
does and how its trainers fare. Wanted are so many loaders that their workers are busy {TARGET:.0%} of the time: more at
once; fewer, one a minute, when that was enough for {WINDOW_S:g} s and no trainer waits 1 % of its time. Nothing is
started or ended here; the number is answered to

  KEDA          scalerAddress of a trigger of type external (or external-push): the address of --listen
  other tools   http://HOST:PORT/fleet.json at --metrics-listen, or --once
  Prometheus    http://HOST:PORT/metrics: feedline_fleet_recommended_replicas and what it is made of

With --min 0 a fleet without trainers has no loaders. Trainers then name this process in their target as well,
"loaders:50051,autoscale:50060": it answers LoaderStarting where no loader is, asks for one, and they wait for it.
Nothing is kept on disk: one that is started again decides the same. TLS, tokens and --insecure are as of
`feedline serve`; KEDA has no token to send, so with KEDA use --tls-client-ca.

examples:
  feedline autoscale loader-1:50051,loader-2:50051 --once
  feedline autoscale dns:///loaders:50051 --min 1 --max 16 --metrics-listen 127.0.0.1:9090
  feedline autoscale loaders.data.svc:50051 --min 0 --max 64 --listen 0.0.0.0:50060 --tls-certificate cert.pem \\
      --tls-key key.pem --tls-client-ca ca.pem --ca ca.pem
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    add_target(parser)
    parser.set_defaults(timeout_s=ANSWER_S)
    policy = parser.add_argument_group("how many loaders").add_argument
    policy("--min", type=natural, default=1, metavar="N", help="at least (default 1; 0: none without trainers)")
    policy("--max", type=positive, default=10, metavar="N", help="at most (default 10)")
    policy(
        "--target",
        type=float,
        default=TARGET,
        metavar="SHARE",
        dest="share",
        help=f"of the workers' time that is wanted (default {TARGET})",
    )
    policy(
        "--window-s",
        type=seconds,
        default=WINDOW_S,
        metavar="S",
        help=f"fewer only after so long (default {WINDOW_S:g})",
    )
    policy(
        "--scale-in-every-s",
        type=seconds,
        default=IN_EVERY_S,
        metavar="S",
        help=f"one less every so often (default {IN_EVERY_S:g})",
    )
    policy("--every-s", type=seconds, default=10.0, metavar="S", help="between two looks (default 10)")
    where = parser.add_argument_group("who asks, and where").add_argument
    where("--once", action="store_true", help="look once, print the decision as JSON, and end")
    where(
        "--listen",
        default="127.0.0.1:50060",
        metavar="HOST:PORT",
        help="KEDA and trainers that knock (default 127.0.0.1:50060; port 0: any free one)",
    )
    where("--metrics-listen", metavar="HOST:PORT", help="show metrics and fleet.json over HTTP here (default: no)")
    where("--health-listen", metavar="HOST:PORT", help="also answer health checks here, without TLS (default: no)")
    where("--tls-certificate", type=Path, metavar="FILE", help="PEM; callers then connect with TLS only")
    where("--tls-key", type=Path, metavar="FILE", help="PEM; the certificate's private key")
    where("--tls-client-ca", type=Path, metavar="FILE", help="PEM; let in only callers with certificates of these")
    where("--tokens", type=Path, metavar="FILE", help="TOML; let in only callers with one of these tokens")
    running = parser.add_argument_group("operation").add_argument
    running("--port-file", type=Path, metavar="FILE", help="write the port here once serving; - for stdout")
    running("--log-format", choices=["auto", "text", "json"], default="auto", help="default auto: text on a terminal")
    running("--log-level", choices=["debug", "info", "warning", "error"], default="info", help="default info")


def run(args: argparse.Namespace) -> int:
    """Look and answer until a signal asks for the end; the exit code."""
    policy = Policy(args.min, args.max, args.share, args.window_s, args.scale_in_every_s)
    shown = Credentials(**credentials(args)).completed()
    watch = FleetWatch(args.target, shown)
    configure_logs(args.log_format, args.log_level)
    if args.once:
        return once(watch, policy, args.timeout_s)
    protection = Protection(
        listen=args.listen,
        metrics_listen=args.metrics_listen,
        certificate=args.tls_certificate,
        key=args.tls_key,
        client_ca=args.tls_client_ca,
        tokens=args.tokens,
        insecure=bool(shown.insecure),
    )
    serve(
        watch,
        policy,
        protection,
        timeout_s=args.timeout_s,
        every_s=args.every_s,
        health_listen=args.health_listen,
        port_file=args.port_file,
    )
    return 0


PROGRAM = Program(
    "feedline",
    "Say how many loaders a fleet should have.",
    {
        "commands": (
            Command(
                "autoscale",
                "say how many loaders trainers need: to KEDA, over HTTP, or once",
                run,
                declare,
                EPILOG,
                (
                    "stopped by a signal",
                    "cannot serve, or with --once nothing is known of the fleet (the reason is printed)",
                ),
            ),
        )
    },
)

main = PROGRAM.main
