"""`feedline autoscale`: look at a fleet of loaders, and say how many there should be to what scales it."""

import os

from feedline_server.host.child_process import leave
from feedline_server.host.signals import StopSignals


def main() -> int:
    """Run the command line of this process; the exit code."""
    # Before the slow imports: as process 1 of a container, a SIGTERM without a handler would be lost.
    StopSignals()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as configure_logs, which comes after gRPC was imported
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from feedline_autoscale.command import PROGRAM

    return PROGRAM.main()


if __name__ == "__main__":
    leave(main())
