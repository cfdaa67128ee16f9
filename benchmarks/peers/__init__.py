"""Who is compared: one module each, with `batches(options)`, run in a process of its own (benchmarks/consumer.py).

Every peer shuffles and gathers what it delivers, as feedline does. A peer that is not installed fails to import, which
the table then says.
"""
