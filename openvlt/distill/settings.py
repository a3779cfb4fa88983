"""The settings of a distillation: who writes captions and chains, and which traces are kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openvlt.distill.writers.base import TextWriter
from openvlt.errors import UserError


@dataclass(frozen=True)
class Distillation:
    """What `conf/distill/*.yaml` fill in.

    `reason` writes `samples` chains per problem. With `caption`, that writer first describes each image
    (`describe` is its question) and `reason` reads the description; without, `reason` sees the image.
    `form(trace, choices)` brings a correct chain into the form that is trained. `cut(trace)` may shorten it
    or drop it (None). `select(traces, rng)` picks among the distinct traces that a problem has left.
    `workers` and `deadline_s` are those of verification.
    """

    reason: TextWriter
    cut: Callable[[str], str | None]
    select: Callable[[Sequence[str], random.Random], list[str]]
    caption: TextWriter | None = None
    describe: str = "Describe the image."
    form: Callable[[str, Sequence[str] | None], str] | None = None
    samples: int = 4
    workers: int = 0
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"distill.samples={self.samples}; ask for at least one chain per problem")
        if self.samples > 1 and not self.reason.random:
            raise UserError(
                f"distill.samples={self.samples} chains of a problem would all be the same, "
                "since distill.reason draws nothing at random; "
                "give it a temperature, or set distill.samples=1"
            )

    @property
    def local(self) -> bool:
        """Whether the run's own model writes captions or chains."""
        return self.reason.local or (self.caption is not None and self.caption.local)

    def check_servers(self) -> None:
        """Raises UserError if a server is needed and can't be reached, before any caption is written."""
        for name, writer in (("caption", self.caption), ("reason", self.reason)):
            server = getattr(writer, "server", None)
            if server is not None and not server.reachable():
                urls = ", ".join(endpoint.url for endpoint in server.endpoints)
                setting = f"distill.{name}.server.endpoints.urls=[http://<host>:<port>/v1]"
                raise UserError(f"no server answers at {urls}; start it, or correct the url: {setting}")
