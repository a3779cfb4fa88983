"""What all tests share: a tiny random Qwen2.5-VL, problems of every shape, ragged completions, and where the real data is."""

from __future__ import annotations

import copy
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices: threads only wait for each other

from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from openvlt.data.prompts import PromptStyle, Renderer, pad_right  # noqa: E402
from openvlt.data.synthetic import figures  # noqa: E402
from openvlt.model.load import VLM  # noqa: E402
from openvlt.model.tiny import TinyConfig, make_vlm  # noqa: E402
from openvlt.types import Problem, Prompts  # noqa: E402
from openvlt.verify.pool import Pool  # noqa: E402

ROOT = Path(__file__).parents[1]
PATIENT_S, _map = 60.0, Pool.map
SMALL = TinyConfig(
    hidden=64, layers=2, heads=2, mlp=128, vision_hidden=64, vision_layers=2, vision_heads=2, vision_mlp=128
)

LONG = ["scripts", "cli/test_config", "verify/test_hostile", "verify/test_properties", "verify/test_pool"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deals the tests out to two workers, the longest groups first, so that neither is left with one at the end.

    All that start an entry script stay together, with their server and the finished run; of the rest each file does.
    """
    groups = {item: "scripts" if "cli" in item.fixturenames else _place(item) for item in items}
    items.sort(key=lambda item: LONG.index(groups[item]) if groups[item] in LONG else len(LONG))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item]))


def _place(item: pytest.Item) -> str:
    return str(item.path.relative_to(ROOT / "tests").with_suffix(""))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data (OPENVLT_TEST_DATA, by default ../shared/data); the test is skipped when it isn't there."""
    folder = Path(os.environ.get("OPENVLT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set OPENVLT_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def patient_verifier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier cuts nothing off before a minute, so that a verdict doesn't depend on how busy the machine is.

    Tests of its deadline are marked `deadline` and get the deadline they ask for.
    """
    if request.node.get_closest_marker("deadline") is None:
        monkeypatch.setattr(
            Pool, "map", lambda pool, items, deadline_s: _map(pool, items, max(deadline_s, PATIENT_S))
        )


@pytest.fixture(scope="session")
def problems() -> list[Problem]:
    """Twelve generated figures with their questions."""
    return figures.generate_figures(12, split="train", seed=3)


@pytest.fixture(scope="session")
def vlm(problems: list[Problem]) -> VLM:
    """A random tiny VLM: read it, don't train it (`fresh` copies it).

    Its inner matrices are tripled, or attention and images would hardly move the logits and a wrong mask could hide in the tolerance.
    """
    made = make_vlm([f"{problem.question} {problem.answer}" for problem in problems] * 3, SMALL, seed=0)
    with torch.no_grad():
        for name, value in made.model.named_parameters():
            if value.ndim == 2 and ("layers" in name or "visual" in name):
                value.mul_(3)
    return made


@pytest.fixture
def fresh(vlm: VLM) -> Callable[..., VLM]:
    """`fresh()` is a copy of the tiny VLM that a test may change; `fresh(torch.float64)` in another precision."""
    return lambda dtype=torch.float32: VLM(copy.deepcopy(vlm.model).to(dtype), vlm.processor, vlm.path)


def picture(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="session")
def mixed() -> list[Problem]:
    """Problems that differ in everything a batch has to pad or count: no image, one, two, several sizes, short and long questions."""
    return [
        Problem("one", "What is red?", "1", (picture(56, 56, 1),)),
        Problem("none", "What is 2 + 3, and why is it not 6, if it is not?", "5"),
        Problem("two", "Same?", "no", (picture(100, 60, 2), picture(56, 112, 3))),
        Problem("wide", "What is red + green + blue - blue + red?", "4", (picture(200, 50, 4),)),
    ]


@pytest.fixture(scope="session")
def render(vlm: VLM) -> Callable[[Sequence[Problem]], Prompts]:
    """Problems to left-padded prompts with the tiny VLM's processor."""
    return Renderer(vlm.processor, PromptStyle()).prompts


@pytest.fixture(scope="session")
def ragged(vlm: VLM) -> Callable[..., tuple[Tensor, Tensor]]:
    """`ragged(lengths, seed)`: random allowed tokens, one row per length, padded on the right: ids and mask (N,T)."""
    allowed = (~vlm.banned_V()).nonzero()[:, 0]

    def make(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        rows = [allowed[torch.randint(len(allowed), (length,), generator=rng)].tolist() for length in lengths]
        return pad_right(rows, vlm.pad_id)

    return make


@pytest.fixture(scope="session")
def gradients() -> Callable[[torch.nn.Module, Tensor], dict[str, Tensor]]:
    """`gradients(model, loss)`: every parameter's gradient by name (zeros where it has none); the model's own are cleared."""

    def take(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        loss.backward()
        found = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in model.named_parameters()
        }
        model.zero_grad(set_to_none=True)
        return found

    return take


@pytest.fixture(scope="session")
def same_gradients() -> Callable[..., None]:
    """`same_gradients(one, other, rtol)`: equal within `rtol` of each parameter's largest entry; at least one is not zero."""

    def check(one: dict[str, Tensor], other: dict[str, Tensor], rtol: float = 1e-6) -> None:
        assert one.keys() == other.keys() and any(value.abs().max() > 0 for value in one.values())
        for name, value in one.items():
            size = max(value.abs().max().item(), 1e-12)
            assert (value - other[name]).abs().max().item() <= rtol * size, name

    return check
