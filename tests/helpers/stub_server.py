"""An OpenAI-compatible server that fails on purpose, as a process of its own: `python stub_server.py <latency s> <share of faults> <together> <log>`.

It prints its port, answers `question -> procedural chain` when the prompt holds a caption of the figures, else an echo with a hash of
the request, and appends `fault or "ok", hash` of every request to the log. Faults are 429, 500, a dropped connection, half an answer, an
answer that is no JSON, and one that comes too late, in equal shares, drawn from the request and how often it came. With `together` above
1 answers are held back until that many requests wait for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FAULTS = ("429", "500", "drop", "half", "no JSON", "late")
LATE_S = 3600.0  # until the client leaves


def answer(body: dict) -> str:
    """Equal requests get equal answers."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    if "Description:" in text:
        from openvlt.distill.reason import write_chain

        caption, question = text.split("Description:\n")[1].split("\n\nQuestion:\n")
        return write_chain(caption, question.split("\n")[0], random.Random(body.get("seed")))
    return f"echo {text[:40]} {digest(body)}"


def digest(body: dict) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).hexdigest()


class Stub:
    def __init__(self, latency: float, faults: float, together: int, log: Path) -> None:
        self.latency, self.faults, self.log, self.seen = latency, faults, log.open("a"), Counter()
        self.together, self.waiting, self.complete = together, 0, asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                if not await self.handle(json.loads(await reader.readexactly(size)), writer):
                    break
        writer.close()

    async def handle(self, body: dict, writer: asyncio.StreamWriter) -> bool:
        name = digest(body)
        self.seen[name] += 1
        rng = random.Random(f"{name}|{self.seen[name]}")
        fault = rng.choice(FAULTS) if rng.random() < self.faults else "ok"
        print(fault, name, file=self.log, flush=True)
        await asyncio.sleep(LATE_S if fault == "late" else self.latency)
        await self.gather()
        if fault == "drop":
            return False
        status = {"429": "429 Too Many Requests", "500": "500 Internal Server Error"}.get(fault, "200 OK")
        payload = (
            json.dumps(
                {
                    "id": name,
                    "object": "chat.completion",
                    "created": 1,
                    "model": body["model"],
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": answer(body)},
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
                }
            )
            if status.startswith("200")
            else '{"error": {"message": "on purpose"}}'
        )
        payload = {"half": payload[: len(payload) // 2], "no JSON": "<html>busy</html>"}.get(fault, payload)
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nRetry-After: 0\r\nContent-Length: {len(payload.encode())}\r\n\r\n{payload}".encode()
        )
        await writer.drain()
        return True

    async def gather(self) -> None:
        """Returns when `together` requests have come here."""
        self.waiting += 1
        if self.waiting < self.together:
            await self.complete.wait()
            return
        self.complete.set()
        self.waiting, self.complete = 0, asyncio.Event()


async def main(latency: float, faults: float, together: int, log: Path) -> None:
    stub = Stub(latency, faults, together, log)
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def stub_server(log: Path, *, latency: float = 0.0, faults: float = 0.0, together: int = 1) -> Iterator[str]:
    """Starts one and gives its url."""
    command = [sys.executable, __file__, str(latency), str(faults), str(together), str(log)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env={"PYTHONPATH": "."}
    ) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def requests(log: Path) -> Counter[tuple[str, str]]:
    """(fault or ok, hash of the request) -> how often."""
    return Counter(tuple(line.rsplit(" ", 1)) for line in log.read_text().splitlines())


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
