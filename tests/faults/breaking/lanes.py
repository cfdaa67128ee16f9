"""The ways that batches travel, and what loaders are told to have them travel so."""

LANES = {"grpc": ("--no-tcp-lane",), "tcp": ()}
