"""The loader's command line: `feedline serve` and `python -m feedline_server serve`.

Nothing heavy is imported before the arguments are understood, and gRPC only in `serve`: workers import this package
too.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, get_args

from feedline_server.host.child_process import leave
from feedline_server.running import permanent
from feedline_server.tools import demo_data
from feedline_server.tools.convert import command as convert
from feedline_server.tools.inspect import command as inspect
from feedline_wire.command_line import USAGE, Command, Program, declare_dataset
from feedline_wire.errors import FeedlineError, InvalidRequest
from feedline_wire.lane import Compression

SERVE_EPILOG = """\
PATH is a loader.toml or a folder. In a folder, what it holds is recognised:
  x.npy, y.npy (any names)              columns, one view called 'train'
  train/x.npy …, validation/x.npy …     columns, a view a sub-folder
  cat/1.jpg …, dog/1.jpg …              a folder a class, here or below train/ and validation/
  ID.npy …, partition.json, labels.json one file a sample, views from the partition
Or it is an object in your own Python, module:name: a Keras Sequence, a dataset, a generator function.

examples:
  feedline serve ./digits                         serve a folder to trainers on this host
  feedline serve loader.toml --workers 16         serve what a configuration declares
  feedline serve my_classes:training_generator --view validation=validation_generator
  feedline serve my_classes:load --steps-per-epoch 500 --argument batch_size=32
                                                  Python as it is (docs/python.md)
  feedline serve ./leaves --size 224x224          what else would need a loader.toml
  feedline serve ./digits --validation-split 0.2  a fifth of the samples is the view 'validation'
  feedline serve ./digits ./leaves                two datasets
  FEEDLINE_WORKERS=16 feedline serve .            every setting is also an environment variable
  feedline serve . --replicas 2                   two loaders, for hosts with many cores and a fast network
  feedline serve . --replicas auto --workers auto what this machine can bear, chosen, and said why
  feedline serve . --listen 0.0.0.0:50051 --tls-certificate loader.pem --tls-key loader.key --tokens tokens.toml

A trainer then writes:
  from feedline import RemoteSequence
  model.fit(RemoteSequence("127.0.0.1:50051"), validation_data=RemoteSequence("127.0.0.1:50051", view="validation"))

SIGTERM finishes what is being assembled and lets trainers move on; Ctrl-C, or a second SIGTERM, stops at once.
"""


def _declare_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="loader.toml; or folders, files or module:name, each a dataset (default: $FEEDLINE_DATA)",
    )
    declare_dataset(parser)
    machine = parser.add_argument_group("this machine's share").add_argument
    machine(
        "--workers", type=_count, metavar="N", help="worker processes (default: the cores of this process); or auto"
    )
    machine("--memory", metavar="SIZE", help="budget for batches, like 512MiB (default 1GiB)")
    machine(
        "--replicas",
        type=_count,
        metavar="N",
        help="loaders that share these workers, on N ports in a row (default 1); or auto",
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
    lanes("--tcp-port", type=int, metavar="PORT", help="of the tcp or sealed lane (default: any free one)")
    lanes("--no-tcp-lane", dest="tcp_lane", **_switch(False), help="have no tcp lane, nor with TLS the sealed one")
    lanes("--no-shm-lane", dest="shm_lane", **_switch(False), help="share no memory with trainers here")
    lanes(
        "--no-send-from-files",
        dest="send_from_files",
        **_switch(False),
        help="have workers assemble every batch, also of plain columns in the page cache",
    )
    lanes(
        "--compression",
        choices=get_args(Compression),
        help="of batches that a thin line holds up (default auto; encrypted: also under TLS)",
    )
    running = parser.add_argument_group("operation").add_argument
    running("--drain-timeout-s", type=float, metavar="S", help="SIGTERM waits this long for trainers (default 20)")
    running("--health-listen", metavar="HOST:PORT", help="also answer health checks here, without TLS (default: no)")
    running("--metrics-listen", metavar="HOST:PORT", help="show metrics and a page over HTTP here (default: no)")
    running("--port-file", type=Path, metavar="FILE", help="write the port here once serving, one a line; - for stdout")
    running(
        "--until-stdin-ends", action="store_true", help="stop, too, when standard input ends: for its starter's end"
    )
    running("--pid-file", type=Path, metavar="FILE", help="write the process id here once serving (feedline reload)")
    running("--log-format", choices=["auto", "text", "json"], help="default auto: text on a terminal")
    running("--log-level", choices=["debug", "info", "warning", "error"], help="default info")


def _count(text: str) -> int | str:
    if text.lower() == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number, or auto") from None


def _switch(value: bool) -> dict[str, Any]:
    """An option without a value. None where it is not given, so that the environment and loader.toml decide."""
    return {"action": "store_const", "const": value, "default": None}


def _serve(args: argparse.Namespace) -> int:
    try:
        code = _serve_until_stopped(args)
    except FeedlineError as error:
        if not permanent.is_permanent(error):
            raise
        print(f"feedline serve: {error}", file=sys.stderr)
        return permanent.exit_code(1)
    return permanent.exit_code(1) if code == permanent.CANNOT_BEGIN else code


def _serve_until_stopped(args: argparse.Namespace) -> int:
    from feedline_server.host.signals import StopSignals

    # Before the slow imports: as process 1 of a container, a SIGTERM without a handler would be lost.
    stop = StopSignals()
    from feedline_server.host.addresses import write_lines
    from feedline_server.host.logs import configure_logs, log
    from feedline_server.running.sizing import described, sized
    from feedline_server.settings.settings import InvalidSettings, load_settings

    if args.until_stdin_ends:
        stop.end_with(sys.stdin.fileno())
    own = {"words", "paths", "port_file", "pid_file", "until_stdin_ends"}
    paths: list[Path] = args.paths or []
    path, others = (paths[0] if paths else None), paths[1:]
    try:
        settings = load_settings(path, {name: value for name, value in vars(args).items() if name not in own}, others)
    except InvalidSettings as error:
        from feedline_server.running.loader import data_problems

        raise InvalidRequest("\n".join([str(error), *data_problems(error.datasets)])) from error
    configure_logs(settings.log_format, settings.log_level)

    def listening(*ports: int) -> None:
        if args.port_file == Path("-"):
            print(*ports, sep="\n", flush=True)
        elif args.port_file is not None:
            write_lines(args.port_file, ports)
        if args.pid_file is not None:
            write_lines(args.pid_file, [os.getpid()])

    settings, sizing = sized(settings)
    for line in described(sizing):
        log.info(line)
    if settings.replicas > 1:
        from feedline_server.running.supervisor import serve_replicas

        return serve_replicas(settings, sizing, stop, lambda ports: listening(*ports))
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
    try:
        code = main()
    except SystemExit as ended:
        if sys.argv[1:2] != ["serve"] or ended.code != USAGE:
            raise
        code = permanent.exit_code(USAGE)
    if sys.argv[1] == "serve":
        leave(code)  # it has ended what it had to; whatever else runs is not waited for
    sys.exit(code)
