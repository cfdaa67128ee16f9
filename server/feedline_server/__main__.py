"""The loader's command line: `feedline serve` and `python -m feedline_server serve`.

Nothing heavy is imported before the arguments are understood, and gRPC only in `serve`: workers import this package
too.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from feedline_server.tools import demo_data
from feedline_server.tools.convert import command as convert
from feedline_server.tools.inspect import command as inspect
from feedline_wire.command_line import Command, Program

SERVE_EPILOG = """\
PATH is a loader.toml or a folder. In a folder, what it holds is recognised:
  x.npy, y.npy (any names)              columns, one view called 'train'
  train/x.npy …, validation/x.npy …     columns, a view a sub-folder
  ID.npy …, partition.json, labels.json one file a sample, views from the partition
Or it is an object in your own Python, module:name: a Keras Sequence, a dataset, a generator function.

examples:
  feedline serve ./digits                         serve a folder to trainers on this host
  feedline serve loader.toml --workers 16         serve what a configuration declares
  feedline serve my_classes:training_generator --view validation=validation_generator
  feedline serve my_classes:load --steps-per-epoch 500
                                                  Python as it is (docs/python.md)
  FEEDLINE_WORKERS=16 feedline serve .            every setting is also an environment variable
  feedline serve . --replicas 2                   two loaders, for hosts with many cores and a fast network
  feedline serve . --listen 0.0.0.0:50051 --tls-certificate loader.pem --tls-key loader.key --tokens tokens.toml

A trainer then writes:
  from feedline import RemoteSequence
  model.fit(RemoteSequence("127.0.0.1:50051"), validation_data=RemoteSequence("127.0.0.1:50051", view="validation"))

SIGTERM finishes what is being assembled and lets trainers move on; Ctrl-C, or a second SIGTERM, stops at once.
"""


def _declare_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", type=Path, help="loader.toml, folder or module:name (default: $FEEDLINE_DATA)"
    )
    python = parser.add_argument_group("a Python object").add_argument
    python(
        "--view", dest="views", action="append", metavar="VIEW=OBJECT", help="another view of a Python object's dataset"
    )
    python("--steps-per-epoch", type=int, metavar="N", help="batches that make up a generator's epoch")
    machine = parser.add_argument_group("this machine's share").add_argument
    machine("--workers", type=int, metavar="N", help="worker processes (default: the cores of this process)")
    machine("--memory", metavar="SIZE", help="budget for batches, like 512MiB (default 1GiB)")
    machine(
        "--replicas", type=int, metavar="N", help="loaders that share these workers, on N ports in a row (default 1)"
    )
    machine("--batch-timeout-s", type=float, metavar="S", help="a batch may take this long (default 30)")
    trainers = parser.add_argument_group("who connects, and where").add_argument
    trainers("--listen", metavar="HOST:PORT", help="address (default 127.0.0.1:50051; port 0: any free one)")
    trainers("--max-trainers", type=int, metavar="N", help="streams served at once (default 64)")
    trainers("--max-streams-per-client", type=int, metavar="N", help="of those, for one token, certificate or host")
    trainers("--tls-certificate", metavar="FILE", help="PEM; trainers then connect with TLS only")
    trainers("--tls-key", metavar="FILE", help="PEM; the certificate's private key")
    trainers("--tls-client-ca", metavar="FILE", help="PEM; let in only trainers with certificates of these")
    trainers("--tokens", metavar="FILE", help="TOML; let in only trainers with one of these tokens (feedline token)")
    trainers("--insecure", **_switch(True), help="let other hosts connect without TLS, on a trusted network")
    lanes = parser.add_argument_group("how bytes travel").add_argument
    lanes("--tcp-port", type=int, metavar="PORT", help="of the tcp lane (default: any free one)")
    lanes("--no-tcp-lane", dest="tcp_lane", **_switch(False), help="have no tcp lane")
    lanes("--no-shm-lane", dest="shm_lane", **_switch(False), help="share no memory with trainers here")
    lanes(
        "--no-send-from-files",
        dest="send_from_files",
        **_switch(False),
        help="have workers assemble every batch, also of plain columns in the page cache",
    )
    running = parser.add_argument_group("operation").add_argument
    running("--drain-timeout-s", type=float, metavar="S", help="SIGTERM waits this long for trainers (default 20)")
    running("--health-listen", metavar="HOST:PORT", help="also answer health checks here, without TLS (default: no)")
    running("--port-file", type=Path, metavar="FILE", help="write the port here once serving, one a line; - for stdout")
    running("--log-format", choices=["auto", "text", "json"], help="default auto: text on a terminal")
    running("--log-level", choices=["debug", "info", "warning", "error"], help="default info")


def _switch(value: bool) -> dict[str, Any]:
    """An option without a value. None where it is not given, so that the environment and loader.toml decide."""
    return {"action": "store_const", "const": value, "default": None}


def _serve(args: argparse.Namespace) -> int:
    from feedline_server.host.signals import StopSignals

    # Before the slow imports: as process 1 of a container, a SIGTERM without a handler would be lost.
    stop = StopSignals()
    from feedline_server.host.addresses import write_ports
    from feedline_server.host.logs import configure_logs
    from feedline_server.settings.settings import load_settings

    own = {"words", "path", "port_file"}
    settings = load_settings(args.path, {name: value for name, value in vars(args).items() if name not in own})
    configure_logs(settings.log_format, settings.log_level)

    def listening(*ports: int) -> None:
        if args.port_file == Path("-"):
            print(*ports, sep="\n", flush=True)
        elif args.port_file is not None:
            write_ports(args.port_file, ports)

    if settings.replicas > 1:
        from feedline_server.running.supervisor import serve_replicas

        return serve_replicas(settings, stop, lambda ports: listening(*ports))
    from feedline_server.running.loader import serve

    serve(settings, stop, listening)
    return 0


PROGRAM = Program(
    "feedline",
    "Serve datasets to trainers.",
    {
        "commands": (
            Command(
                "serve",
                "serve datasets to trainers over gRPC until stopped",
                _serve,
                _declare_serve,
                SERVE_EPILOG,
                ("stopped by a signal", "cannot serve (the reason is printed)"),
            ),
            convert.COMMAND,
            inspect.COMMAND,
            demo_data.COMMAND,
        )
    },
)

main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
