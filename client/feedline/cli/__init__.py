"""The command line: `feedline COMMAND …`, one module a command."""

from feedline.cli import (
    bench,
    demo,
    demo_train,
    down,
    inspect,
    peek,
    reload,
    serve,
    status,
    token,
    top,
    up,
    verify,
    why,
)
from feedline_wire.command_line import Program

EPILOG = """\
a first tour:
  feedline demo                      data, a loader and a trainer on this machine, in under a minute
  feedline inspect ./digits          what would be served of a folder, and what is wrong with it
  feedline serve ./digits            serve it
  feedline inspect 127.0.0.1:50051   what is served there, to which trainers, how busy
  feedline verify 127.0.0.1:50051    does every sample come once, and is a batch the same from every worker?
  feedline bench 127.0.0.1:50051     how fast it arrives here
  feedline why 127.0.0.1:50051       what holds its trainers back

`feedline COMMAND --help` explains a command, with examples; `feedline --version` says which feedline this is.
"""

PROGRAM = Program(
    "feedline",
    "Feed trainers from loader servers.",
    {
        "try it": (demo.COMMAND, demo_train.COMMAND),
        "serve data": (serve.SERVE, reload.COMMAND, serve.CONVERT, token.COMMAND, serve.AUTOSCALE),
        "fleets of loaders, in the background": (up.COMMAND, status.COMMAND, down.COMMAND),
        "look at data and loaders": (inspect.COMMAND, peek.COMMAND),
        "check and measure a running loader": (top.COMMAND, why.COMMAND, verify.COMMAND, bench.COMMAND),
    },
    EPILOG,
)

main = PROGRAM.main
