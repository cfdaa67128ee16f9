"""The environment that processes begin with which run the operator's code: workers, and who looks at objects before."""

ENVIRONMENT = {
    # The pool has one worker a core; libraries that start a thread a core inside each would fight over them.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Sets of text would be in another order in every process: `list(set(names))` gives classes their numbers.
    "PYTHONHASHSEED": "0",
}
"""What the loader's own environment does not say otherwise."""
