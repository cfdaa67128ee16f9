"""The loader's command line: `feedline serve` and `python -m feedline_server serve`.

Nothing heavy is imported before the arguments are understood, and gRPC only in `serve`: workers import this package
too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from feedline_server.tools.convert import command as convert
from feedline_server.tools.inspect import command as inspect

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
exit codes: 0 stopped as told, 1 cannot serve (the reason is printed), 2 wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = argparse.ArgumentParser(prog="feedline", description="Serve datasets to trainers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    convert.add_to(commands)
    inspect.add_to(commands)
    _add_digits(commands)
    asked = parser.parse_args(arguments)
    from feedline_wire.errors import FeedlineError

    code: int
    try:
        code = asked.run(asked)
    except FeedlineError as error:
        print(f"feedline {asked.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser(
        "serve",
        help="serve datasets to trainers",
        description="Serve datasets to trainers over gRPC until told to stop.",
        epilog=SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `--token SECRET` would be read as --tokens, and the complaint would repeat the secret
    )
    serve.add_argument(
        "path", nargs="?", type=Path, help="loader.toml, folder or module:name (default: $FEEDLINE_DATA)"
    )
    serve.add_argument(
        "--view", dest="views", action="append", metavar="VIEW=OBJECT", help="another view of a Python object's dataset"
    )
    serve.add_argument("--steps-per-epoch", type=int, metavar="N", help="batches that make up a generator's epoch")
    serve.add_argument("--listen", metavar="HOST:PORT", help="address (default 127.0.0.1:50051; port 0: any free one)")
    serve.add_argument("--workers", type=int, metavar="N", help="worker processes (default: the cores of this process)")
    serve.add_argument(
        "--replicas", type=int, metavar="N", help="loaders that share these workers, on N ports in a row (default 1)"
    )
    serve.add_argument("--memory", metavar="SIZE", help="budget for batches, like 512MiB (default 1GiB)")
    serve.add_argument("--max-trainers", type=int, metavar="N", help="streams served at once (default 64)")
    serve.add_argument(
        "--max-streams-per-client", type=int, metavar="N", help="of those, for one token, certificate or host"
    )
    serve.add_argument("--batch-timeout-s", type=float, metavar="S", help="a batch may take this long (default 30)")
    serve.add_argument(
        "--drain-timeout-s", type=float, metavar="S", help="SIGTERM waits this long for trainers (default 20)"
    )
    serve.add_argument("--log-format", choices=["auto", "text", "json"], help="default auto: text on a terminal")
    serve.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default info")
    serve.add_argument("--tls-certificate", metavar="FILE", help="PEM; trainers then connect with TLS only")
    serve.add_argument("--tls-key", metavar="FILE", help="PEM; the certificate's private key")
    serve.add_argument("--tls-client-ca", metavar="FILE", help="PEM; let in only trainers with certificates of these")
    serve.add_argument("--tokens", metavar="FILE", help="TOML; let in only who has one of these tokens")
    serve.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="let other hosts connect without TLS, on a trusted network",
    )
    serve.add_argument(
        "--health-listen", metavar="HOST:PORT", help="also answer health checks here, without TLS (default: do not)"
    )
    serve.add_argument("--tcp-port", type=int, metavar="PORT", help="of the tcp lane (default: any free one)")
    serve.add_argument("--no-tcp-lane", dest="tcp_lane", action="store_false", default=None, help="have no tcp lane")
    serve.add_argument(
        "--no-send-from-files",
        dest="send_from_files",
        action="store_false",
        default=None,
        help="have workers assemble every batch, also of plain columns in the page cache",
    )
    serve.add_argument(
        "--no-shm-lane", dest="shm_lane", action="store_false", default=None, help="share no memory with trainers here"
    )
    serve.add_argument("--port-file", type=Path, metavar="FILE", help="write the port here once serving, one a line")
    serve.set_defaults(run=_serve)


def _add_digits(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    digits = commands.add_parser(
        "demo-data",
        help="write the demo's dataset",
        description=(
            "Write scikit-learn's 1,797 handwritten digits as a dataset: train/ and validation/, x.npy and y.npy."
        ),
    )
    digits.add_argument("folder", type=Path, help="where to write it; replaced if it is a dataset of the demo already")
    digits.set_defaults(run=_digits)


def _serve(asked: argparse.Namespace) -> int:
    from feedline_server.host.signals import Stop

    stop = Stop()  # before the slow imports: as process 1 of a container, a SIGTERM without a handler would be lost
    from feedline_server.host.logs import configure_logs
    from feedline_server.settings.settings import load_settings

    flags = vars(asked)
    overrides = {
        name: value
        for name, value in flags.items()
        if value is not None and name not in {"command", "run", "path", "port_file"}
    }
    settings = load_settings(asked.path, overrides)
    configure_logs(settings.log_format, settings.log_level)
    from feedline_server.host.addresses import write_ports

    def listening(*ports: int) -> None:
        if asked.port_file is not None:
            write_ports(asked.port_file, ports)

    if settings.replicas > 1:
        from feedline_server.running.supervisor import serve_replicas

        return serve_replicas(settings, stop, lambda ports: listening(*ports))
    from feedline_server.running.loader import serve

    serve(settings, stop, listening)
    return 0


def _digits(asked: argparse.Namespace) -> int:
    from feedline_server.tools.demo_data import write_digits

    write_digits(asked.folder)
    print(f"wrote {asked.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
