"""Arguments that several commands share."""

import argparse
import math
from typing import TypeAlias

from feedline.connection.credentials import CredentialArguments
from feedline.connection.description import DatasetInfo
from feedline.reading.options import FeedArguments

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, summary: str, *, epilog: str) -> argparse.ArgumentParser:
    """A command whose `--help` begins with its summary and ends with `epilog` as it is written."""
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `--token SECRET` would be read as --token-file, and the complaint would repeat the secret
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Where the loaders are, and how long one may be silent."""
    parser.add_argument("target", metavar="TARGET", help="host:port; several with commas; or dns:///name:port")
    parser.add_argument(
        "--timeout-s", type=seconds, default=10.0, metavar="S", help="how long a loader may be silent (default 10)"
    )
    # A token itself is no argument: every user of the host sees the arguments of every process.
    shown = parser.add_argument_group(
        "TLS and tokens", "Each is also a variable: FEEDLINE_CA, FEEDLINE_TOKEN and so on."
    )
    shown.add_argument("--ca", metavar="FILE", help="who signed the loader's certificate; or 'public'")
    shown.add_argument("--certificate", metavar="FILE", help="shown to a loader that wants one")
    shown.add_argument("--key", metavar="FILE", help="the certificate's private key")
    shown.add_argument("--server-name", metavar="NAME", help="in the loader's certificate, if it is not the target's")
    shown.add_argument("--token-file", metavar="FILE", help="what it holds is shown to a loader with tokens")
    shown.add_argument(
        "--insecure", action="store_true", default=None, help="the token may go unencrypted to another host"
    )


def add_batches(parser: argparse.ArgumentParser, *, batch_size: int) -> None:
    """Which batches: dataset, view, size, order, seed, epoch."""
    parser.add_argument("--dataset", metavar="NAME", help="default: the only one that is served")
    parser.add_argument("--view", default="train", metavar="NAME", help="default train")
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help=f"samples in a batch (default {batch_size}; ready batches are of the size that they are)",
    )
    parser.set_defaults(default_batch_size=batch_size)
    parser.add_argument(
        "--order", help="an order the dataset offers, such as blocks:64x16 (default: its first, shuffle)"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default 0")
    parser.add_argument("--epoch", type=natural, default=0, metavar="N", help="default 0")


def shown(asked: argparse.Namespace) -> CredentialArguments:
    """What `add_target` was told of TLS and tokens, as arguments of `feedline.connect`."""
    return {
        "ca": asked.ca,
        "certificate": asked.certificate,
        "key": asked.key,
        "server_name": asked.server_name,
        "token_file": asked.token_file,
        "insecure": asked.insecure,
    }


def chosen(asked: argparse.Namespace, dataset: DatasetInfo) -> FeedArguments:
    """What `add_batches` was told, as the arguments of `Loader.feed` for a dataset."""
    usual = None if dataset.is_batched else asked.default_batch_size
    return {
        "view": asked.view,
        "dataset": asked.dataset,
        "batch_size": asked.batch_size or usual,
        "order": asked.order,
        "seed": asked.seed,
        "timeout_s": asked.timeout_s,
    }


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """A whole number from 0 on."""
    return _at_least(0, text)


def seconds(text: str) -> float:
    """A time of more than nothing."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return number


def _at_least(least: int, text: str) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
    return number
