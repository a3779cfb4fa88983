"""The page in a real browser: Chromium without a window, driven by Playwright. `make browser` installs both."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openvlt.benchmark.results.statistics import mcnemar
from openvlt.report.index import write_index
from openvlt.report.write import write_report
from tests.helpers.report_runs import EVIL, rollout_rows, write_big_run

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: make browser")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: make browser"),
    pytest.mark.xdist_group("browser"),
]
READY = "document.querySelectorAll('.panel canvas').length > 5"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: two of 3,000 rows and one under way."""
    runs = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        write_report(write_big_run(runs, seed=seed))
    running = {"state": "running", "pid": os.getpid(), "host": platform.node()}
    write_report(write_big_run(runs, name="now", rows=5, state=running))
    write_index(runs)
    return runs


@pytest.fixture
def open_page(browser, runs) -> Iterator[Any]:
    """Opens a run's page from disk, and at the end of the test sees that it asked for nothing and had no error."""
    faults, pages = [], []

    def go(
        address: str = "", *, run: str = "iter1", index: bool = False, ready: str = READY, **settings: Any
    ) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **settings})
        pages.append(page)
        page.on(
            "console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                faults.append(request.url)
                if not request.url.startswith(("file:", "data:", "blob:"))
                else None
            ),
        )
        file = runs / "index.html" if index else next((runs / run).glob("*/report.html"))
        page.goto(f"file://{file}{address}")
        wait_until(page, ready)
        return page

    yield go
    for page in pages:
        page.close()
    assert faults == []


def wait_until(page: Any, expression: str) -> None:
    """Waits until the expression is true in the page. Playwright's own waiting would evaluate text in the page, which its policy forbids."""
    for _ in range(1000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never true: {expression}")


def texts(page: Any, selector: str) -> list[str]:
    return page.eval_on_selector_all(selector, "nodes => nodes.map(node => node.innerText)")


def shown_group(page: Any) -> str:
    return page.inner_text("#group .problem")


# --- text ----------------------------------------------------------------------------------------------------


def test_hostile_text_is_text(open_page):
    page = open_page("#rollouts/1/easy0")
    assert page.title() == "iter1 – openvlt" and page.query_selector("img[src='x']") is None
    shown = page.inner_text("#group")
    assert EVIL.split(" \u202e")[0] in shown and "⟦RLO⟧abc⟦LRI⟧" in shown and "\u202e" not in shown


# --- rollouts -------------------------------------------------------------------------------------------------


def test_a_group_shows_rewards_by_term_and_how_each_verdict_was_reached(open_page):
    page = open_page("#rollouts/12/q7")
    cards = texts(page, "#group .completion")
    assert len(cards) == 4 and cards[0].startswith("✓ correct") and cards[3].startswith("✗ wrong")
    for expected in (
        "reward 1",
        "accuracy 1",
        "overlong –",
        "advantage +1.50",
        "extracted",
        "decided by",
        "numbers: they are equal",
    ):
        assert expected in cards[0], expected
    assert "cut off" in cards[3] and "advantage −0.80" in cards[3]
    assert (
        texts(page, "#group .think")[0] == "<think>step 11 of q7</think>"
        and texts(page, "#group .answer")[0] == "<answer>5</answer>"
    )
    assert "Showing 2 of 32 groups a step" in page.inner_text("#rollout-view")


def test_a_completion_without_a_reward_is_shown(open_page, runs):
    run = write_big_run(runs, name="unjudged", rows=5)
    file = run / "02-grpo1" / "rollouts.jsonl"
    blank = {"reward": math.nan, "advantage": math.nan}
    rows = [row | (blank if row["step"] == 11 and row["tokens"] > 10 else {}) for row in rollout_rows()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(run)
    page = open_page("#rollouts/12/q7", run="unjudged")
    cards = texts(page, "#group .completion")
    assert "reward –" in cards[-1] and "advantage –" in cards[-1]
    assert "mean reward 1" in page.inner_text("#rollout-view")


def test_keys_go_through_problems_and_steps_and_the_address_follows(open_page):
    page = open_page("#rollouts/12/q7")
    page.keyboard.press("j")
    assert (
        "problem hard1 · step 12" in shown_group(page)
        and page.evaluate("location.hash") == "#rollouts/12/hard1"
    )
    page.keyboard.press("k")
    assert "problem q7" in shown_group(page)
    page.keyboard.press("h")
    assert "step 11" in shown_group(page) and page.input_value("#step-slider") == "10"
    page.keyboard.press("l")
    assert "step 12" in shown_group(page)
    page.keyboard.press("/")
    page.keyboard.type("j")  # in the search box it is a letter
    assert page.input_value("#rollout-search") == "j"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.is_visible("#help") and "next and previous problem" in page.inner_text("#help")


def test_filters_are_in_the_address_and_come_back_with_it(open_page):
    page = open_page("#rollouts/3")
    page.check("#roll-everywhere")
    assert len(texts(page, "#group-list .item")) == 24
    page.check("#roll-mixed")
    assert len(texts(page, "#group-list .item")) == 12
    page.fill("#rollout-search", "of q7")
    assert len(texts(page, "#group-list .item")) == 1
    again = open_page(page.evaluate("location.hash"))
    assert (
        len(texts(again, "#group-list .item")) == 1
        and again.is_checked("#roll-mixed")
        and "q7" in shown_group(again)
    )
    again.fill("#rollout-search", "nothing says this")
    assert "No group fits" in again.inner_text("#group-list")


def test_the_slider_goes_to_a_step(open_page):
    page = open_page("#rollouts/12/q7")
    page.evaluate(
        "const s = document.getElementById('step-slider'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    assert "step 1 " in shown_group(page) and page.inner_text("#step-output") == "1 of 12"


# --- answers --------------------------------------------------------------------------------------------------


def test_three_thousand_rows_come_fifty_at_a_time(open_page):
    page = open_page()
    assert page.inner_text("#answer-count") == "3000 of 3000"
    assert page.evaluate("document.querySelectorAll('.row-item').length") == 50
    for _ in range(3):
        before = page.evaluate("document.querySelectorAll('.row-item').length")
        page.evaluate("document.querySelector('#answer-list .more').scrollIntoView()")
        wait_until(page, f"document.querySelectorAll('.row-item').length > {before}")
    assert page.evaluate("document.querySelectorAll('.row-item').length") < 3000


@pytest.mark.parametrize(
    ("chip", "count"), [("learned", 900), ("always", 600), ("never", 1500), ("no_answer", 300)]
)
def test_chips_choose_rows(open_page, chip, count):
    page = open_page()
    page.click(f"[data-chip={chip}]")
    assert page.inner_text("#answer-count") == f"{count} of 3000"


def test_a_row_opens_to_every_stage_and_has_an_address(open_page):
    page = open_page("#answers/r4")
    item = page.locator("[data-id=r4]")
    item.locator(".stage-answer").first.wait_for()
    assert [text.split("\n")[0] for text in item.locator(".stage-answer").all_inner_texts()] == [
        "Base",
        "SFT 1",
        "GRPO 1",
    ]
    assert "stage 2 said 4" in item.inner_text() and item.locator(".large img").count() == 1
    page.fill("#answer-search", "said 2999")
    assert page.inner_text("#answer-count") == "1 of 3000" and "q=" not in page.evaluate("location.hash")


def test_an_address_can_name_a_chip_or_a_step_that_a_problem_was_not_drawn_in(open_page):
    page = open_page("#answers/learned")
    assert page.inner_text("#answer-count") == "900 of 3000"
    page = open_page("#rollouts/4/q7")
    assert "problem q7 · step 12" in shown_group(page)


def test_the_rows_that_are_shown_can_be_saved(open_page):
    page = open_page()
    page.fill("#answer-search", "said 299")
    with page.expect_download() as saved:
        page.click("text=download these rows")
    rows = [json.loads(line) for line in Path(saved.value.path()).read_text().splitlines()]
    assert len(rows) == 11 and rows[0]["id"] == "r299"


# --- curves ---------------------------------------------------------------------------------------------------


def test_curves_have_their_panels_and_every_other_column_by_a_search(open_page):
    page = open_page()
    titles = texts(page, ".panel figcaption")
    assert titles[:2] == ["reward", "reward by term, each by its weight"]
    assert titles[2] == "group outcomes: all wrong, mixed, all right" and "entropy, nats" in titles
    assert "0.5 × overlong" in page.inner_text("#panel-reward_terms .u-legend")
    page.click(".more-columns summary")
    page.fill(".more-columns input[type=search]", "dropped")
    assert len(texts(page, ".columns .column")) == 1
    page.check(".columns .column input")
    assert "dropped_groups" in texts(page, ".panel figcaption")
    for choice in ("time", "tokens"):
        page.select_option("select[aria-label=x]", choice)
        page.select_option("select[aria-label=smoothing]", "5")
        assert {"time": "minutes", "tokens": "tokens"}[choice] in page.inner_text("#panel-reward .u-legend")


def test_one_hover_line_goes_through_all_panels(open_page):
    page = open_page("#curves")
    page.hover("#panel-reward .u-over", position={"x": 150, "y": 50})
    wait_until(page, "!document.querySelector('#panel-loss .u-value').textContent.includes('–')")
    steps = [page.inner_text(f"#panel-{name} .u-value >> nth=0") for name in ("reward", "loss", "entropy")]
    assert len(set(steps)) == 1 and int(steps[0]) > 1


def test_a_finding_s_link_opens_the_panel_of_a_column(open_page):
    page = open_page("#curves/dropped_groups")
    page.wait_for_selector("#panel-dropped_groups.marked")
    page.goto(page.url.split("#")[0] + "#curves/groups_all_wrong")  # part of another panel
    page.wait_for_selector("#panel-groups_mixed.marked")


# --- look -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}],
    ids=["light", "dark", "phone"],
)
def test_nothing_scrolls_sideways(open_page, settings):
    page = open_page("#rollouts/12/q7", **settings)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == ("color_scheme" in settings)


def test_a_running_run_says_how_far_it_is(open_page):
    page = open_page(run="now", ready="Boolean(document.getElementById('progress'))")
    assert "GRPO 1 (stage 3 of 3), step 12 of 40, about 112 s" in page.inner_text("#progress").replace(
        "2 min", "112 s"
    )


def test_pictures_beside_the_page_are_shown_from_disk(open_page, runs):
    folder = next((runs / "iter1").iterdir())
    write_report(folder, budget=10)
    page = open_page("#rollouts/12/q7")
    wait_until(
        page,
        "[...document.querySelectorAll('#group img')].every(image => image.complete && image.naturalWidth > 0)",
    )
    assert page.get_attribute("#group img", "src").startswith("report_files/")
    write_report(folder)


# --- several runs ---------------------------------------------------------------------------------------------


def test_runs_are_sorted_and_filtered_and_two_are_compared(open_page):
    page = open_page(index=True, ready="document.querySelectorAll('#run-rows tr').length == 3")
    page.select_option("select[aria-label=state]", "running")
    assert page.inner_text("#run-count") == "1 of 3"
    page.select_option("select[aria-label=state]", "")
    page.fill("#run-search", "seed=")
    page.fill("#run-search", "iter1")
    page.click("#run-head button >> text=seed")
    assert [row.split("\t")[3] for row in texts(page, "#run-rows tr")][:2] == ["1", "2"]
    for tick in page.query_selector_all("#run-rows input")[:2]:
        page.check(f"[aria-label='{tick.get_attribute('aria-label')}']")
    wait_until(page, "document.querySelectorAll('#overlay canvas').length > 5")
    assert "B against A: 0.0 points on 3000 shared rows" in page.inner_text("#paired-result")
    assert [row.split("\t") for row in texts(page, "#difference tbody tr")] == [["seed", "1", "2"]]
    page.select_option("#paired select >> nth=0", "sft1")
    assert "+10.0 points on 3000 shared rows; 300 rows only B has right, 0 only A" in page.inner_text(
        "#paired-result"
    )
    page.click(".flips summary >> nth=0")
    wait_until(page, "document.querySelectorAll('.flips p').length == 50")
    again = open_page(
        page.evaluate("location.hash"),
        index=True,
        ready="document.querySelectorAll('#overlay canvas').length > 5",
    )
    assert "shared rows" in again.inner_text("#paired-result")


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (3, 11), (40, 40), (5, 60), (300, 420)])
def test_the_paired_test_is_mcnemar_s(open_page, one, other):
    page = open_page(index=True, ready="typeof mcnemar === 'function'")
    assert page.evaluate(f"mcnemar({one}, {other})") == pytest.approx(mcnemar(one, other), rel=1e-9)
