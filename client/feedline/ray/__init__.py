"""Fleets of loaders on a Ray cluster: started, found by name, grown and shrunk with what trainers want, stopped.

    target = feedline.ray.start("/data/digits", name="digits", replicas=(2, 16), workers=8)
    feed = feedline.ray.feed("ray:digits", batch_size=64)      # in the training function of Ray Train

Importing this imports no Ray; each function raises ExtraMissing where Ray is not installed.
"""

from feedline.ray.cluster import addresses, fleets
from feedline.ray.fleet import start, status, stop
from feedline.ray.spec import FleetStatus, Report
from feedline.ray.training import feed

__all__ = ["FleetStatus", "Report", "addresses", "feed", "fleets", "start", "status", "stop"]
