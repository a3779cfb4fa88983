"""A language model as judge, behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openvlt.errors import UserError
from openvlt.serving.client import Server
from openvlt.serving.protocol import ChatRequest, Usage, describe_failures
from openvlt.storage.ledger import Ledger


@dataclass(frozen=True)
class ServerJudge:
    """A judge that answers at temperature 0. Its replies are kept in the file `ledger`, which runs may share.

    Replies are keyed by content, so nothing is asked twice.
    """

    server: Server
    ledger: Path

    @property
    def name(self) -> str:
        """The models behind the server."""
        return " or ".join(self.server.models)

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """The replies in the prompts' order. Raises UserError when one is missing: nothing is guessed."""
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        requests = [
            ChatRequest([{"role": "user", "content": prompt}], {"temperature": 0, "max_tokens": 512})
            for prompt in prompts
        ]
        with Ledger(self.ledger) as ledger:
            replies = self.server.ask(requests, ledger=ledger, usage=(usage := Usage()))
        if usage.failed:
            raise UserError(
                f"the judge {self.name} gave no answer to {usage.failed} of {len(requests)} questions "
                f"({describe_failures(usage.failures)}); run again to ask only these"
            )
        return [reply.text for reply in replies]
