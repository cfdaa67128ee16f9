"""Loaders of this process's own, on this host: a target that is data here is served by one."""
