"""The frame of both command lines: commands in groups, their options, what they end with.

A command prints what it found to standard output, and why it failed to standard error, in one message. Exit codes:
0 success, 1 a failure that the message explains, 2 wrong usage, 130 Ctrl-C.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version

from feedline_wire.errors import FeedlineError
from feedline_wire.shortages import shortage

INTERRUPTED = 130
"""What shells report for a program that Ctrl-C ended."""

USAGE = 2
"""What argparse ends with where it cannot understand the words."""

CODES = ("success", "failure (the reason is on standard error)")
"""What exit codes 0 and 1 mean where a command says nothing else."""

Run = Callable[[argparse.Namespace], int]
"""Does what the arguments say; the exit code. The command line as it was written is in `args.words`."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a program."""

    name: str
    summary: str
    """What it does, for the program's `--help` and the head of its own."""
    run: Run
    declare: Callable[[argparse.ArgumentParser], object] | None = None
    """Adds its options; None: `run` has the words only, and another program understands them."""
    epilog: str = ""
    """What its `--help` explains after its options, as it is written: examples."""
    codes: tuple[str, str] = CODES
    """What exit codes 0 and 1 mean."""
    passes_on: bool = False
    """Words behind a `--` are another program's: `run` has them in `args.passed_on`."""


@dataclass(frozen=True, slots=True)
class Program:
    """Commands under one name."""

    name: str
    description: str
    groups: Mapping[str, Sequence[Command]]
    """The commands as `--help` lists them, by the titles of their groups."""
    epilog: str = ""

    def main(self, words: Sequence[str] | None = None) -> int:
        """Run the command that `words` name, by default the process' own; the exit code.

        Raises SystemExit(2) after wrong usage.
        """
        words = sys.argv[1:] if words is None else words
        commands = {command.name: command for group in self.groups.values() for command in group}
        first = words[0] if words else ""
        if first in {"-h", "--help"}:
            print(self._help())
            return 0
        if first == "--version":
            print(f"feedline {version('feedline')}")
            return 0
        if first not in commands:
            known = [*commands, "--help", "--version"]
            usage = argparse.ArgumentParser(prog=self.name, usage="%(prog)s COMMAND …", add_help=False)
            usage.error(f"{_unknown('command', first, known)}; {self.name} --help lists all")
        return self._run(commands[first], words)

    def _run(self, command: Command, words: Sequence[str]) -> int:
        args = argparse.Namespace(words=list(words))
        if command.declare is not None:
            own = words[1:]
            if command.passes_on:
                at = own.index("--") if "--" in own else len(own)
                own, args.passed_on = own[:at], list(own[at + 1 :])
            parse(self._parser(command), own, args)
        try:
            code = command.run(args)
            sys.stdout.flush()  # here, where a reader that has gone is answered
        except FeedlineError as error:
            print(f"{self.name} {command.name}: {error}", file=sys.stderr)
            return 1
        except (OSError, MemoryError, ImportError) as error:
            if isinstance(error, BrokenPipeError):
                # `feedline inspect … | head`: the reader has gone. The interpreter must not complain of it at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            if (words_for_it := shortage(error)) is None:
                raise
            print(f"{self.name} {command.name}: {words_for_it}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return INTERRUPTED
        return code

    def _parser(self, command: Command) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"{self.name} {command.name}",
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"{command.epilog}\n{exit_codes(*command.codes)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # `--token SECRET` would be read as --token-file
        )
        assert command.declare is not None
        command.declare(parser)
        return parser

    def _help(self) -> str:
        width = max(len(command.name) for group in self.groups.values() for command in group)
        lines = [f"usage: {self.name} COMMAND …\n\n{self.description}\n"]
        for title, group in self.groups.items():
            lines += [f"{title}:", *(f"  {command.name:{width}}  {command.summary}" for command in group), ""]
        return "\n".join([*lines, *([self.epilog] if self.epilog else []), exit_codes(*CODES)])


def exit_codes(success: str, failure: str) -> str:
    """The last line of every `--help`."""
    return f"exit codes: 0 {success}, 1 {failure}, {USAGE} wrong usage, {INTERRUPTED} Ctrl-C"


def parse(parser: argparse.ArgumentParser, words: Sequence[str], args: argparse.Namespace) -> None:
    """Put what the words say into `args`. Raises SystemExit(2), with the nearest option named where one is unknown."""
    _, strange = parser.parse_known_args(words, args)
    if strange:
        parser.error(unexpected(strange, re.findall(r"--[a-z][a-z-]*", parser.format_usage())))


def unexpected(words: Sequence[str], options: Iterable[str]) -> str:
    """What is wrong with words that belong to no option. An option's value is not repeated: it may be a secret."""
    for word in words:
        if word.startswith("-"):
            return _unknown("option", word.partition("=")[0], options)
    return f"one argument too many: {words[0]}"


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, known, 1)
    return f"there is no {what} {word}{f'; did you mean {near[0]}?' if near else ''}" if word else f"name a {what}"


DATASET = ("kind", "size", "views", "validation_split", "steps_per_epoch", "arguments", "deterministic")
"""Keys of a dataset in loader.toml for which there are options."""


def declare_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the options that say more of data that the command line names: DATASET, None where they are not given."""
    option = parser.add_argument_group("of the data").add_argument
    option("--kind", help="of dataset, such as class_folders, where a folder could be several")
    option("--size", type=_width_and_height, metavar="WxH", help="that all images are resized to, such as 224x224")
    option(
        "--view",
        dest="views",
        action="append",
        metavar="VIEW=PART",
        help="samples of a view, such as train=:1500; of Python, another object",
    )
    option("--validation-split", type=float, metavar="SHARE", help="of train that is the view validation, such as 0.2")
    option("--steps-per-epoch", type=int, metavar="N", help="batches that make up a generator's epoch")
    option(
        "--argument",
        dest="arguments",
        action="append",
        metavar="NAME=VALUE",
        help="what a function or class of Python is called with",
    )
    option(
        "--nondeterministic",
        dest="deterministic",
        action="store_const",
        const=False,
        help="serve Python whose samples cannot be made the same twice",
    )


def _width_and_height(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted width and height, such as 224x224")
    return int(found[1]), int(found[2])
