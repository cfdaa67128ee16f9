"""Whether an address is reached from this host alone.

Decided by its text, without a name service: whether a token may go there unencrypted, or a loader may listen there
unprotected, must not depend on what answers for a name.
"""


def host_of(address: str) -> str:
    """The host in `host:port`, `[host]:port`, `dns:///host:port`, `ipv4:host:port`; without brackets."""
    rest = address.rpartition("/")[2]
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        rest = rest.removeprefix(scheme)
    return rest.rpartition(":")[0].removeprefix("[").removesuffix("]")


def is_loopback(address: str) -> bool:
    """Only processes of this host can be at the other end: 127.0.0.1, ::1, localhost, or a socket in a file."""
    if address.startswith("unix:"):
        return True
    hosts = address.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    return all(_is_loopback_host(host_of(host)) for host in hosts)


def _is_loopback_host(host: str) -> bool:
    if host in {"127.0.0.1", "::1", "localhost"}:
        return True
    import ipaddress  # 5 ms, which a trainer on the loader's host does without

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
