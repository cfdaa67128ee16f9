"""A replica as a trainer far away sees it: its ports lie behind lines that can be held, cut, slowed and damaged.

The lines listen on another address of this host, at the loader's own port numbers. So the tcp lane, which a trainer
looks for at the host of its target, goes over a line as well.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

from proxy import Proxy

By: TypeAlias = Literal["grpc", "lane"]

PORTS_OF: tuple[By, ...] = ("grpc", "lane")
"""What each of a loader's ports is for, in their order."""


class Lines:
    """All lines from one trainer's host to one loader, as one."""

    def __init__(self, host: str, *ports: int) -> None:
        self.address = f"{host}:{ports[0]}"
        self._proxies = [Proxy(f"127.0.0.1:{port}", address=f"{host}:{port}") for port in ports]

    def __repr__(self) -> str:
        return f"<Lines {self.address}>"

    def __enter__(self) -> "Lines":
        with contextlib.ExitStack() as opening:
            for proxy in self._proxies:
                opening.enter_context(proxy)
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def hold(self) -> None:
        """Nothing passes, and nothing ends."""
        for proxy in self._proxies:
            proxy.hold()

    def go_on(self) -> None:
        """What was held passes, and everything after it."""
        for proxy in self._proxies:
            proxy.go_on()

    def cut(self) -> None:
        """Every connection breaks off."""
        for proxy in self._proxies:
            proxy.cut()

    def cut_after(self, nbytes: int | None) -> None:
        """Each connection breaks off when so much has arrived over it; None ends it."""
        for proxy in self._proxies:
            proxy.cut_after(nbytes)

    def slow(self, bytes_per_s: float | None, delay_s: float) -> None:
        """No more than this arrives, and that late."""
        for proxy in self._proxies:
            proxy.limit(bytes_per_s)
            proxy.delay(delay_s)

    def damage(self, after: int, by: By = "grpc") -> None:
        """One bit of what comes by gRPC, or by the lane beside it, is turned."""
        self._proxies[PORTS_OF.index(by)].damage(after)

    @property
    def damaged(self) -> Counter[By]:
        """Bits that were."""
        return Counter({by: proxy.damaged for by, proxy in zip(PORTS_OF, self._proxies, strict=False)})

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Held for as long as this lasts."""
        self.hold()
        try:
            yield
        finally:
            self.go_on()
