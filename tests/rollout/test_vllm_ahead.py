"""rollout=vllm rollout.ahead=1 over HTTP, against a stub: requests in a thread, versions, losses, Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openvlt.errors import UserError
from openvlt.grpo.train import train_grpo
from openvlt.rollout.base import AheadGenerator, GenerationRequest, Sampling, rollouts_ahead
from openvlt.rollout.distributed import begin_on_ranks, generate_on_ranks
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.serving.vllm.client import LostServer
from openvlt.types import Problem
from tests.helpers.aside import Watched, settings
from tests.helpers.vllm_server import stir
from tests.helpers.vllm_stub import StubVLLM, in_thread, stub_vllm

SAMPLING = Sampling(2, 4)
TEXTS = [Problem(f"t{number}", f"What is {number} + 1?", str(number + 1)) for number in range(12)]


@pytest.fixture
def stub(vlm) -> Iterator[StubVLLM]:
    before = portals()
    with stub_vllm(vlm) as server:
        yield server
    assert portals() == before, "a thread was left behind"
    assert not server.tired, "something waited for held answers"


def portals() -> set[threading.Thread]:
    """The threads that wait for a server."""
    return {thread for thread in threading.enumerate() if "portal" in thread.name}


def ahead(stub: StubVLLM, tmp_path: Path, **changes: Any) -> VLLMGenerator:
    return VLLMGenerator([stub.url], ahead=1, folder=str(tmp_path), **changes)


@pytest.fixture
def requests(render) -> list[GenerationRequest]:
    return [
        GenerationRequest(TEXTS[:3], render(TEXTS[:3]), SAMPLING, 5),
        GenerationRequest(TEXTS[3:5], render(TEXTS[3:5]), Sampling(1, 6), 5),
    ]


def test_what_is_begun_is_what_would_be_generated(stub, fresh, tmp_path, requests):
    """Several views at once; the thread ends with the answers."""
    policy, generator = fresh(), ahead(stub, tmp_path)
    pending = begin_on_ranks(generator, policy, requests)
    found = pending.wait()
    assert found == [generate_on_ranks(generator, policy, *request) for request in requests]
    assert [len(completions) for completions in found] == [6, 2] and pending.seconds > 0
    pending.cancel()


def test_requests_are_on_their_way_at_once_and_keep_their_weights(stub, fresh, tmp_path, requests):
    policy, generator = fresh(), ahead(stub, tmp_path)
    stub.hold_from = 0
    pending = begin_on_ranks(generator, policy, requests)
    stub.await_requests(5)
    assert set(stub.versions()) == {stub.version} != {"default"}
    generator.sync(policy)  # the same weights: nothing is sent
    stir(policy, 1)
    with pytest.raises(UserError, match=r"rollout.ahead=1: something asks the servers for another model"):
        generator.sync(policy)
    assert len([entry for entry in stub.log if entry[0] == "weights"]) == 1
    stub.release.set()
    pending.wait()
    generator.sync(policy)
    assert len([entry for entry in stub.log if entry[0] == "weights"]) == 2


def test_answers_by_other_weights_are_refused(stub, fresh, tmp_path, requests):
    """Another run that sends its weights meanwhile, or a server that was started again."""
    policy, generator = fresh(), ahead(stub, tmp_path)
    stub.hold_from = 0
    pending = begin_on_ranks(generator, policy, requests)
    stub.await_requests(5)
    stub.answer_as = "theirs"
    stub.release.set()
    with pytest.raises(
        UserError, match="answered with weights 'theirs', not .* another run uses this server"
    ):
        pending.wait()


def test_a_server_that_is_lost_meanwhile_is_one_sentence(stub, fresh, tmp_path, requests):
    policy, generator = fresh(), ahead(stub, tmp_path)
    stub.hold_from = 0
    pending = begin_on_ranks(generator, policy, requests)
    stub.await_requests(5)
    stub.drop = True
    stub.release.set()
    with pytest.raises(LostServer, match=r"was lost while it generated .* resume="):
        pending.wait()


def test_a_cancelled_rollout_waits_for_nobody(stub, fresh, tmp_path, requests):
    policy, generator = fresh(), ahead(stub, tmp_path)
    stub.hold_from = 0
    pending = begin_on_ranks(generator, policy, requests)
    stub.await_requests(5)
    pending.cancel()
    pending.cancel()
    assert not stub.release.is_set() and not portals()
    stir(policy, 1)
    generator.sync(policy)  # what was given up doesn't keep weights back


def test_ctrl_c_ends_the_wait_for_a_server(stub, fresh, tmp_path, requests):
    policy, generator = fresh(), ahead(stub, tmp_path)
    stub.hold_from = 0
    pending = begin_on_ranks(generator, policy, requests)

    def interrupt() -> None:
        stub.await_requests(5)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            pending.wait()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not stub.release.is_set()


# --- a whole training ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Releasing(Watched):
    """Lets the server answer when the second update of the first rollout batch is due, after all its requests have come."""

    stub: Any = None

    def run(self, module: Any, make: Callable[[int], Any], folder: Path, **options: Any) -> None:
        def releasing(step: int) -> Any:
            if step == 1:
                self.stub.await_requests(8)
                self.stub.release.set()
            return make(step)

        super().run(module, releasing, folder, **options)


def test_a_run_learns_while_the_server_generates(stub, fresh, tmp_path):
    """The second rollout batch can't be answered before an update of the first; with today's order the run would stop here."""
    stub.hold_from = 4
    fit = Releasing(stub=stub)
    train_grpo(settings(ahead(stub, tmp_path), fit), fresh(), TEXTS, reference=None, folder=tmp_path, seed=3)
    versions = stub.versions()
    assert len(versions) == 12 and versions[:8] == versions[:1] * 8 and versions[8:] == versions[8:9] * 4
    sent = [entry[1] for entry in stub.log if entry[0] == "weights"]
    assert sent == [versions[0], versions[8]], "weights go when nothing is being generated"
    assert [batch.policy_version for batch in fit.batches] == [0, 0, 0, 0, 2, 2]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("openvlt-")]


def test_ctrl_c_in_the_midst_of_a_run(stub, fresh, tmp_path):
    stub.hold_from = 4
    fit = Watched(dies=1, how=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train_grpo(
            settings(ahead(stub, tmp_path), fit), fresh(), TEXTS, reference=None, folder=tmp_path, seed=3
        )
    assert not stub.release.is_set() and len(stub.versions()) <= 8


def test_a_server_lost_in_a_run_ends_it_at_the_next_rollout(stub, fresh, tmp_path):
    stub.hold_from = 4

    def drop() -> None:
        stub.await_requests(8)
        stub.drop = True
        stub.release.set()

    thread = in_thread(drop)
    with pytest.raises(LostServer, match="was lost while it generated"):
        train_grpo(settings(ahead(stub, tmp_path)), fresh(), TEXTS, reference=None, folder=tmp_path, seed=3)
    thread.join()


# --- settings -----------------------------------------------------------------------------------------------------------


def test_only_generators_with_servers_work_ahead():
    assert isinstance(VLLMGenerator(start=True), AheadGenerator)
    assert [rollouts_ahead(VLLMGenerator(start=True, ahead=n)) for n in (0, 1)] == [0, 1]
    assert rollouts_ahead(PrefixGenerator()) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ahead": 2}, "rollout.ahead=2; 1 generates the next rollout batch"),
        ({"ahead": 1, "sleep": True}, "rollout.ahead=1 has the servers generate while .* rollout.sleep=true"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        VLLMGenerator(start=True, **changes)
