"""A Ray cluster of one node on 127.0.0.1, for as long as standard input lasts; also for tests. On a busy machine too.

    python -m benchmarks.ray_head FOLDER CPUS STORE_MB

Prints its address once it is there. FOLDER has a short path: sockets are in it. It is to run in a network of its own
(`loopback`), where its ports are free.
"""

import os
import sys
import time
from typing import Any

import ray
from ray._private import services
from ray._raylet import persist_port

START_S = 600.0
"""Ray gives its node 30 s to appear and then gives up, which no option changes."""

PORTS = {
    "metrics_agent_port": 20001,
    "metrics_export_port": 20002,
    "dashboard_agent_listen_port": 20003,
    "runtime_env_agent_port": 20004,
}
"""Of Ray's agents. A node gives them 15 s to say theirs, and ends if they need longer: here they are known before."""


def main() -> None:
    look, start = services.get_node, services.start_raylet

    def look_long(*arguments: Any, **named: Any) -> Any:
        until = time.monotonic() + START_S
        while True:
            try:
                return look(*arguments, **named)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def start_with_ports(*arguments: Any, **named: Any) -> Any:
        node_id, session = arguments[2], arguments[11]
        for name, port in PORTS.items():
            persist_port(session, node_id, name, port)
        return start(*arguments, **{**named, **PORTS})

    services.get_node, services.start_raylet = look_long, start_with_ports
    found = ray.init(
        num_cpus=int(sys.argv[2]), include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=int(sys.argv[3]) * 1_000_000, _temp_dir=sys.argv[1], _node_ip_address="127.0.0.1",
    )  # fmt: skip
    print(found.address_info["gcs_address"], flush=True)
    os.dup2(2, 1)  # what Ray prints is no answer
    sys.stdin.read()


if __name__ == "__main__":
    main()
