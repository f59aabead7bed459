"""The demo's page, in a real browser; and how the demo ends on Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
PATIENCE_MS = 90_000


class RunningDemo:
    """`freshet demo`, with a folder for temporary files of its own."""

    def __init__(self, report: Path) -> None:
        self.temporary = Path(tempfile.mkdtemp(prefix="fd-"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streaming", "demo", "--port", "0", "--report", str(report)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]
                return
        pytest.fail(f"the demo did not start: {said}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "report.json"


@pytest.fixture(scope="module")
def demo(report: Path) -> Iterator[RunningDemo]:
    running = RunningDemo(report)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def page(demo: RunningDemo) -> Iterator[Page]:
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if executable is None:
        pytest.fail("no chromium; bring it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.complaints = []  # type: ignore[attr-defined]
        page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)  # type: ignore[attr-defined]
        page.on("pageerror", lambda e: page.complaints.append(str(e)))  # type: ignore[attr-defined]
        page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith((demo.url, "data:"))
                else page.complaints.append(f"asked {r.url}")  # type: ignore[attr-defined]
            ),
        )
        page.goto(demo.url)
        yield page
        browser.close()


def test_the_page_shows_the_version_and_each_tasks_figure_over_time(page: Page) -> None:
    expect(page.locator("#tile-version .value")).to_have_text(re.compile(r"^[1-9][\d,]*$"))
    for task in ("click", "like", "dwell"):
        line = page.locator(f"#chart-{task} .series")
        expect(line).to_have_attribute("d", re.compile(r"^M[\d. ]+L"))
        expect(page.locator(f"#chart-{task} .now")).to_have_text(re.compile(r"^0\.\d{3}$"))
    expect(page.locator("#chart-weights .series")).to_have_count(3)
    expect(page.locator("#tile-fresh .value")).to_have_text(re.compile(r"\d (ms|s)$"))
    expect(page.locator("#live")).to_have_text("live")


def test_the_versions_age_moves_and_new_versions_come(page: Page) -> None:
    before = page.locator("#tile-version .value").inner_text()
    expect(page.locator("#tile-version .value")).not_to_have_text(before)


def test_the_box_ranks_by_the_real_server_and_takes_feedback(page: Page) -> None:
    page.fill("#user", "7")
    with page.expect_response("**/v1/rank") as ranking:
        page.click("#rank")
    answer = ranking.value.json()
    rows = page.locator("#list tbody tr")
    expect(rows).to_have_count(len(answer["impressions"]))
    scores = [f"{i['score']:.3f}" for i in answer["impressions"]]
    assert [rows.nth(n).locator("td").nth(2).inner_text() for n in range(len(scores))] == scores
    expect(page.locator("#said")).to_contain_text("version")
    button = rows.nth(0).locator("button")
    with page.expect_response("**/v1/feedback") as feedback:
        button.click()
    assert feedback.value.status == 202
    told = json.loads(feedback.value.request.post_data or "")
    assert told["impression"] == answer["impressions"][0]["id"]
    expect(button).to_have_text("✓ sent")
    expect(button).to_be_disabled()


def test_a_user_that_nobody_knows_is_said_in_words(page: Page) -> None:
    page.fill("#user", "nobody")
    page.click("#rank")
    expect(page.locator("#said")).to_contain_text("'nobody'")
    page.fill("#user", "7")
    assert page.complaints.pop().endswith("404 (Not Found)")  # type: ignore[attr-defined]


def test_drift_is_marked_on_the_chart_and_told_with_the_rebalance(page: Page) -> None:
    page.wait_for_selector("#chart-click line.drift", state="attached")
    assert page.locator("#chart-click line.planted").count() >= 1
    page.wait_for_selector("#news .kind-drift")
    expect(page.locator("#news .kind-rebalance").first).to_contain_text("weight of click")


def test_an_incident_is_a_card_that_says_what_since_when_what_was_done_and_whether_it_helped(
    page: Page,
) -> None:
    card = page.locator("#incident-1")
    expect(card.locator("h2")).to_have_text(re.compile("Drift 1: click"))
    expect(card.locator("dd").nth(0)).to_contain_text(
        re.compile(r"(loss|label rate|calibration) (up|down)")
    )
    expect(card.locator("dd").nth(1)).to_contain_text(re.compile(r"example [\d,]+, seen at [\d,]+"))
    expect(card.locator("dd").nth(2)).to_contain_text(re.compile(r"weight of click 1\.00 → \d"))
    expect(card.locator("dd").nth(3)).to_contain_text(re.compile(r"\d+ % of the change is gone"))
    expect(card.locator(".head b")).to_have_text(re.compile("recovered|settled"))


def test_dark_and_narrow_it_fits(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 380, "height": 800})
    expect(page.locator("#chart-click svg")).to_have_attribute(
        "viewBox", re.compile(r"^0 0 3\d\d 190$")
    )
    wide = page.evaluate("document.documentElement.scrollWidth")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert wide <= 380 and colour == "rgb(16, 19, 24)"


def test_nothing_was_complained_about_and_nobody_else_was_asked(page: Page) -> None:
    assert page.complaints == []  # type: ignore[attr-defined]


def test_ctrl_c_ends_it_with_a_report_and_leaves_nothing_behind(
    demo: RunningDemo, report: Path, page: Page
) -> None:
    children = psutil.Process(demo.process.pid).children(recursive=True)
    assert any("redis" in child.name() for child in children)
    demo.process.send_signal(signal.SIGINT)
    said, _ = demo.process.communicate(timeout=60)
    assert demo.process.returncode == 0, said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    left = [f.name for f in demo.temporary.iterdir()]
    assert [name for name in left if not name.startswith("torchinductor_")] == []  # PyTorch's own
    out = json.loads(report.read_text())
    assert out["examples"] > 10_000 and out["planted"][0]["drift"]["task"] == "click"
