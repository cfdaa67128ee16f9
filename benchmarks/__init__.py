"""What feedline is measured against, and how.

`scripts/benchmark` runs all of it; docs/benchmarks.md says what it means.
"""
