"""What a process may have too little of, in words: memory, descriptors, room in files."""

import errno


def shortage(error: Exception) -> str | None:
    """What a process has too little of, and how to let it have more; None if that is not what an error says."""
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "failed to map segment" in str(error):
        return (
            f"too little memory ({error}): let it have more ({_limit('AS', 'ulimit -v')}, the memory of a container), "
            "or ask for less, with --memory 256MiB or fewer --workers"
        )
    if number == errno.EFBIG:
        return f"a file became too large ({error}): let it write more ({_limit('FSIZE', 'ulimit -f')})"
    if number == errno.EMFILE:
        return f"too few file descriptors ({error}): let it have more ({_limit('NOFILE', 'ulimit -n')})"
    if number == errno.ENOSPC:
        return f"no space is left ({error}): make room on the disk, or name a folder on another"
    return None


def _limit(name: str, command: str) -> str:
    """The command that shows and sets a limit, and what it is now."""
    try:
        import resource  # not on every platform
    except ImportError:
        return f"`{command}`"
    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    unit = "" if name == "NOFILE" else " bytes"
    return f"`{command}`, now {'unlimited' if soft == resource.RLIM_INFINITY else f'{soft:,}{unit}'}"
