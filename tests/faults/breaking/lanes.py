"""The ways that batches travel, and what loaders are told to have them travel so."""

TLS = "tls"
"""Among a loader's arguments: its stage puts a certificate of its own there, and its trainers trust it."""

LANES = {
    "grpc": ("--no-shm-lane", "--no-tcp-lane"),
    "tcp": ("--no-shm-lane", "--no-send-from-files"),
    "tcp, from files": ("--no-shm-lane",),
    "sealed": (TLS,),
}
"""Over a network, where lines can be cut. From files no worker has a part in a batch."""

HOST_LANES = {**LANES, "shm": ()}
"""Where trainer and loader are on one host."""
