"""`feedline autoscale`: how many loaders a fleet should have, for what starts and ends them.

A program of its own beside the loader's. It asks loaders as a client does and listens as a loader does, so it is made
of both; neither knows it.
"""
