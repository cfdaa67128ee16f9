"""Arguments that several commands share, and what they stand for."""

import argparse
import math
from collections.abc import Callable
from typing import cast

import feedline
from feedline.connection.credentials import CredentialArguments
from feedline.reading.feed import Feed
from feedline.reading.loader import Loader


def add_target(parser: argparse.ArgumentParser) -> None:
    """The loaders that a command asks."""
    parser.add_argument("target", metavar="TARGET", help="host:port; several with commas; or dns:///name:port")
    add_connection(parser)


def add_connection(parser: argparse.ArgumentParser) -> None:
    """How long a loader may be silent, and the trainer's credentials."""
    parser.add_argument(
        "--timeout-s", type=seconds, default=10.0, metavar="S", help="how long a loader may be silent (default 10)"
    )
    # A token itself is no argument: every user of the host sees the arguments of every process.
    secure = parser.add_argument_group(
        "TLS and tokens", "Each is also a variable: FEEDLINE_CA, FEEDLINE_TOKEN and so on."
    )
    secure.add_argument("--ca", metavar="FILE", help="who signed the loader's certificate; or 'public'")
    secure.add_argument("--certificate", metavar="FILE", help="shown to a loader that wants one")
    secure.add_argument("--key", metavar="FILE", help="the certificate's private key")
    secure.add_argument("--server-name", metavar="NAME", help="in the loader's certificate, if it is not the target's")
    secure.add_argument("--token-file", metavar="FILE", help="holds the token for a loader that wants one")
    secure.add_argument(
        "--insecure", action="store_true", default=None, help="the token may go unencrypted to another host"
    )


def add_batches(parser: argparse.ArgumentParser, *, batch_size: int) -> None:
    """Which batches: dataset, view, size, order, seed, epoch."""
    batches = parser.add_argument_group("which batches")
    batches.add_argument("--dataset", metavar="NAME", help="default: the only one that is served")
    batches.add_argument("--view", default="train", metavar="NAME", help="default train")
    batches.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help=f"samples in a batch (default {batch_size}; ready batches have the size that they have)",
    )
    parser.set_defaults(default_batch_size=batch_size)
    batches.add_argument(
        "--order", help="an order the dataset offers, such as blocks:64x16 (default: its first, shuffle)"
    )
    batches.add_argument("--seed", type=natural, default=0, metavar="N", help="default 0")
    batches.add_argument("--epoch", type=natural, default=0, metavar="N", help="default 0")


def credentials(args: argparse.Namespace) -> CredentialArguments:
    """The credentials of `add_connection`, as arguments of `feedline.connect`."""
    names = CredentialArguments.__annotations__.keys() & vars(args).keys()
    return cast("CredentialArguments", {name: getattr(args, name) for name in names})  # each is an option of that name


def connected(args: argparse.Namespace, target: str | None = None) -> Loader:
    """The loaders of the command's target, or of another, with the arguments of `add_connection`."""
    return feedline.connect(target or args.target, timeout_s=args.timeout_s, **credentials(args))


def feed_of(
    loader: Loader, args: argparse.Namespace, *, prefetch: int | None = None, rank: int = 0, world: int = 1
) -> Feed:
    """The feed that `add_batches` describes."""
    return loader.feed(
        view=args.view,
        dataset=args.dataset,
        batch_size=args.batch_size or (None if loader.dataset(args.dataset).is_batched else args.default_batch_size),
        order=args.order,
        seed=args.seed,
        rank=rank,
        world=world,
        prefetch=prefetch,
        timeout_s=args.timeout_s,
    )


def seconds(text: str) -> float:
    """A time of more than nothing."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return number


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
        return int(text)

    return parse


positive = _whole(1)
natural = _whole(0)
