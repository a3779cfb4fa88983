"""A language model as judge, behind an OpenAI-compatible server; every answer is kept by content, so a repeat costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openvlt.errors import UserError
from openvlt.serving.client import Server
from openvlt.serving.protocol import ChatRequest, Usage
from openvlt.storage.ledger import Ledger


@dataclass(frozen=True)
class ServerJudge:
    """`server` answers at temperature 0; what it said stands in the file `ledger`, which runs may share."""

    server: Server
    ledger: Path

    @property
    def name(self) -> str:
        return " or ".join(self.server.models)

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """The replies in the prompts' order. Raises UserError when some could not be had: nothing is scored on a guess."""
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        asks = [
            ChatRequest([{"role": "user", "content": prompt}], {"temperature": 0, "max_tokens": 512})
            for prompt in prompts
        ]
        with Ledger(self.ledger) as ledger:
            replies = self.server.ask(asks, ledger=ledger, usage=Usage())
        if failed := [reply.error for reply in replies if reply.error]:
            raise UserError(
                f"the judge {self.name} gave no answer to {len(failed)} of {len(asks)} questions ({failed[0]}); run again to ask only these"
            )
        return [reply.text for reply in replies]
