"""The page in a browser, over a server that tells what a test wants."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from deployments.errors import Capacity
from tests.console.browser import DESKTOP, PHONE, Looking, looking
from tests.console.fake import Fake, line, row, running
from tests.console.scenes import studio

VIEWS = ("models", "chat", "requests", "logs?model=qwen3-8b", "devices")
SLOW_FRAME_MS = 500
"""Of the 95th percentile: other things run on the machine. Above it people would call it stuck."""
MESSAGE = "textarea[aria-label='Message']"
FRAMES = """(seconds) => new Promise((resolve) => {
  const gaps = [];
  let last = performance.now();
  const end = last + 1000 * seconds;
  const frame = (now) => {
    gaps.push(now - last);
    last = now;
    if (now < end) return requestAnimationFrame(frame);
    gaps.sort((a, b) => a - b);
    resolve({ frames: gaps.length, p95: gaps[Math.floor(gaps.length * 0.95)], worst: gaps.at(-1) });
  };
  requestAnimationFrame(frame);
})"""


@pytest.fixture
def fake() -> Fake:
    return studio()


@pytest.fixture
def look(fake: Fake, browser: Browser) -> Iterator[Looking]:
    with running(fake) as url, looking(browser, url) as look:
        yield look


def frames(page: Page, what: str, seconds: float = 4) -> dict[str, float]:
    seen: dict[str, float] = page.evaluate(FRAMES, seconds)
    print(f"\n{what}: {seen['frames']} frames in {seconds} s, p95 {seen['p95']:.0f} ms, worst {seen['worst']:.0f} ms")
    return seen


# Views ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_fit_their_window_and_have_no_serious_finding_of_axe(
    fake: Fake, browser: Browser, size: tuple[int, int], scheme: Any
) -> None:
    with running(fake) as url, looking(browser, url, size, color_scheme=scheme, reduced_motion="reduce") as look:
        for view in VIEWS:
            page = look.open(view)
            page.wait_for_selector(settled(view), state="attached")
            if view == "chat":
                page.fill(MESSAGE, 'Look:\n```json\n{"a": 1}\n```')
                page.keyboard.press("Enter")
                page.wait_for_selector(".foot")
            name = view.partition("?")[0]
            look.picture(f"{name}-{'phone' if size == PHONE else 'desktop'}-{scheme}")
            assert look.too_wide() == 0, view
            assert findings(page) == [], view


def settled(view: str) -> str:
    ready = {"models": "li.model h2", "chat": "select option[value='qwen3-8b']", "requests": "table tbody tr"}
    return ready.get(view, "canvas" if view == "devices" else ".line")


def findings(page: Page) -> list[str]:
    bad = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {node['html']}" for one in bad for node in one["nodes"]]


def test_models_show_all_that_is_known_of_them(look: Looking) -> None:
    page = look.open()
    qwen = page.locator("li.model", has=page.locator("h2", has_text="qwen3-8b")).first
    for text in ("vllm", "10.0.0.2", "19 GB of 80 GB", "148", "asked for"):
        expect(qwen).to_contain_text(text)
    expect(page.locator(".is-failed .reason.is-bad")).to_have_text(
        "ValueError: No safetensors found in /models/broken-7b"
    )
    expect(page.locator(".is-starting .progress")).to_contain_text("loading weights")
    assert page.locator(".is-starting progress").get_attribute("value")


def test_unloading_is_counted_down(look: Looking) -> None:
    clock = look.open().locator("li.model:has(h2:has-text('gemma')) .how")
    expect(clock).to_contain_text("unloads in 12:")
    first = clock.inner_text()
    expect(clock).not_to_have_text(first, timeout=5000)


def test_buttons_start_stop_and_pin(look: Looking, fake: Fake) -> None:
    page = look.open()
    page.click("button[aria-label='Start: minilm']")
    page.click("button[aria-label='Stop: minilm']")
    page.wait_for_selector("button[aria-label='Start: minilm']")
    page.click("button[aria-label='Unpin: gemma-3-4b']")
    page.wait_for_selector("button[aria-label='Pin: gemma-3-4b']")
    assert fake.posted == ["minilm start", "minilm stop", "gemma-3-4b unpin"]
    expect(page.locator("p[aria-live=polite]")).to_contain_text("minilm: stopped")


def test_what_a_button_could_not_do_is_said_beside_it(look: Looking, fake: Fake) -> None:
    fake.refusal = Capacity("It needs 80 GB, and the node has 64 GB.")
    page = look.open()
    page.click("button[aria-label='Start: minilm']")
    expect(page.locator("li.model:has(h2:text-is('minilm')) [role=alert]")).to_have_text(str(fake.refusal))


def test_snippet_asks_the_model_by_its_mode(look: Looking) -> None:
    page = look.open()
    page.click("button[aria-label='Code: minilm']")
    expect(page.locator("dialog pre")).to_contain_text(f"curl {look.url}/v1/embeddings")
    page.click("dialog button:text-is('Python')")
    expect(page.locator("dialog pre")).to_contain_text('model="minilm"')
    assert findings(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_page_says_that_the_server_is_away_and_finds_it_again(look: Looking, fake: Fake) -> None:
    page = look.open()
    page.wait_for_selector("li.model h2")
    fake.streams_away = True
    page.wait_for_selector(".connection.is-away")
    fake.streams_away = False
    fake.model("minilm")["status"] = "running"
    page.wait_for_selector("li.model:has(h2:text-is('minilm')) .is-running")
    expect(page.locator(".connection.is-away")).to_have_count(0)


def test_many_models_are_filtered(look: Looking, fake: Fake) -> None:
    fake.models = [row(f"model-{i}", "running" if i % 7 == 0 else "stopped") for i in range(50)]
    page = look.open()
    page.fill("input[type=search]", "model-4")
    expect(page.locator("li.model")).to_have_count(11)
    page.select_option("search select", "running")
    expect(page.locator("li.model h2")).to_have_text(["model-42", "model-49"])
    page.fill("input[type=search]", "nothing")
    expect(page.locator(".empty")).to_be_visible()


# Chat ----------------------------------------------------------------------------------------------------------------


def test_what_a_model_writes_is_text(look: Looking) -> None:
    page = look.open("chat?model=qwen3-8b")
    page.fill(MESSAGE, "<img src=x onerror=alert(1)><b>bold</b>")
    page.keyboard.press("Enter")
    page.wait_for_selector(".foot")
    expect(page.locator(".answer p").filter(has_text="onerror")).to_have_count(1)
    assert page.locator(".answer img, .answer b").count() == 0


def test_two_models_answer_one_message(look: Looking, fake: Fake) -> None:
    page = look.open("chat?model=qwen3-8b")
    page.click("button:text-is('Side by side')")
    page.select_option("select[aria-label='Model 2']", "gemma-3-4b")
    page.fill(MESSAGE, "Hello you")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .foot")).to_have_count(2)
    assert sorted(body["model"] for body in fake.bodies) == ["gemma-3-4b", "qwen3-8b"]
    look.picture("chat-two")
    page.click("button:text-is('New chat')")
    expect(page.locator(".turn")).to_have_count(0)


def test_reasoning_is_folded_and_calls_of_tools_are_readable(look: Looking, fake: Fake) -> None:
    page = look.open("chat?model=qwen3-8b")
    page.fill(MESSAGE, "Hello")
    page.keyboard.press("Enter")
    expect(page.locator(".reasoning p")).to_be_hidden()
    page.click(".reasoning summary")
    expect(page.locator(".reasoning p")).to_have_text("Let me think.")
    page.click("details.settings summary")
    page.fill("label:has-text('Tools') textarea", '[{"type": "function", "function": {"name": "weather"}}]')
    page.click("button:text-is('Resend')")
    expect(page.locator(".call pre")).to_have_text('{\n  "city": "Paris"\n}')
    assert fake.bodies[-1]["tools"][0]["function"]["name"] == "weather"


def test_picture_is_sent_and_the_servers_refusal_is_shown(look: Looking, fake: Fake) -> None:
    page = look.open("chat?model=qwen3-8b")
    dot = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,"
    dot += b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
    page.set_input_files("input[type=file]", {"name": "dot.gif", "mimeType": "image/gif", "buffer": dot})
    page.wait_for_selector(".thumb img")
    page.fill(MESSAGE, "What is it?")
    page.keyboard.press("Enter")
    expect(page.locator(".answer [role=alert]")).to_have_text("This model takes no pictures.")
    assert fake.bodies[-1]["messages"][-1]["content"][1]["image_url"]["url"].startswith("data:image/gif;base64,")


# Requests, devices ---------------------------------------------------------------------------------------------------


def test_running_request_is_cancelled(look: Looking, fake: Fake) -> None:
    page = look.open("requests")
    page.click("button[aria-label='Cancel: req-2']")
    expect(page.locator("tbody tr.is-waiting")).to_have_count(0)
    assert [one["id"] for one in fake.running] == ["1"]


def test_timeline_says_why_to_the_mouse_the_keyboard_and_in_a_table(look: Looking) -> None:
    page = look.open("devices")
    page.hover("button.bar[aria-label*='made room for phi-4']")
    expect(page.locator(".pointed")).to_contain_text("gemma-3-4b: stopping")
    page.focus(".lane >> nth=0 >> button.bar[tabindex='0']")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".pointed")).to_contain_text("starting")
    page.click("summary:text-is('As a table')")
    expect(page.locator(".as-table tbody tr")).to_have_count(10)
    page.wait_for_selector("canvas")
    assert findings(page) == []


def test_server_without_a_past_says_so(look: Looking, fake: Fake) -> None:
    fake.history = None
    page = look.open("devices")
    page.wait_for_selector(".node")
    page.wait_for_selector("section .notice")


# Logs ----------------------------------------------------------------------------------------------------------------


def test_log_follows_until_somebody_scrolls_up(look: Looking, fake: Fake) -> None:
    fake.lines_per_minute = 3000
    page = look.open("logs?model=qwen3-8b")
    page.wait_for_selector(".line:has-text('of many')")
    page.hover(".log")
    page.mouse.wheel(0, -3000)
    page.wait_for_selector("button:text-is('Follow')")
    top = page.evaluate("document.querySelector('.log').scrollTop")
    told = page.inner_text("[role=status].hint")
    expect(page.locator("[role=status].hint")).not_to_have_text(told)
    assert page.evaluate("document.querySelector('.log').scrollTop") == top
    page.click("button:text-is('Follow')")
    expect(page.locator("button:text-is('Follow')")).to_have_count(0)
    assert page.evaluate("document.querySelector('.log').scrollTop") > top


def test_log_is_searched_by_text_and_level_and_cleared(look: Looking, fake: Fake) -> None:
    page = look.open("logs?model=qwen3-8b")
    expect(page.locator(".ansi-green")).to_have_text("ready")
    page.fill("input[type=search]", "STEP 29")
    expect(page.locator(".line")).to_have_count(11)
    page.fill("input[type=search]", "")
    page.select_option("search select", "warning")
    expect(page.locator(".line")).to_have_count(1)
    page.click("button:text-is('Clear')")
    expect(page.locator(".line")).to_have_count(0)
    assert fake.log == []


# Weight --------------------------------------------------------------------------------------------------------------


def test_fifty_models_that_change_do_not_hold_up_the_page(look: Looking, fake: Fake) -> None:
    fake.models = [row(f"model-{i}", "running", idle_seconds=1.0, last_used_at=time.time()) for i in range(50)]
    page = look.open()
    expect(page.locator("li.model")).to_have_count(50)
    with changing(lambda i: fake.models[i % 50].update(running_requests=i)):
        seen = frames(page, "50 models, 40 changes a second")
    assert seen["p95"] < SLOW_FRAME_MS


def test_five_thousand_lines_a_minute_on_fifty_thousand_do_not_hold_up_the_page(look: Looking, fake: Fake) -> None:
    fake.log = [line(f"INFO line {i} of the past") for i in range(50_000)]
    fake.lines_per_minute = 5000
    page = look.open("logs?model=qwen3-8b")
    page.wait_for_selector("[role=status]:has-text('50000 lines')", timeout=60_000)
    page.wait_for_selector(".line:has-text('of many')")
    seen = frames(page, "5,000 lines a minute on 50,000")
    assert seen["p95"] < SLOW_FRAME_MS
    assert page.locator(".line").count() < 150


@contextlib.contextmanager
def changing(change: Callable[[int], None]) -> Iterator[None]:
    """Calls it with rising numbers, forty times a second."""
    ended = threading.Event()

    def work() -> None:
        i = 0
        while not ended.wait(0.025):
            i += 1
            change(i)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


# Language, theme, keyboard, keys -------------------------------------------------------------------------------------


def test_language_and_theme_are_chosen_and_kept(look: Looking) -> None:
    page = look.open()
    page.click("button:text-is('中文')")
    expect(page.locator("h1")).to_contain_text("模型")
    page.click("button:text-is('跟随系统')")
    page.click("button:text-is('浅色')")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    expect(page.locator("h1")).to_contain_text("模型")
    assert page.get_attribute("html", "lang") == "zh-Hans"
    assert ground == page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 24)"


def test_all_views_are_reached_by_keyboard(look: Looking) -> None:
    page = look.open()
    for i, view in enumerate(VIEWS):
        page.keyboard.press(str(i + 1))
        page.wait_for_selector(f"main.view-{view.partition('?')[0]}")
    page.keyboard.press("?")
    page.wait_for_selector("dialog kbd")
    page.keyboard.press("Escape")
    page.reload()
    page.keyboard.press("Tab")
    expect(page.locator("a.skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_key_is_asked_for_once_and_a_wrong_one_again(look: Looking, fake: Fake) -> None:
    fake.key = "sk-1"
    page = look.open("devices")
    page.fill("dialog input", "sk-0")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog")
    page.fill("dialog input", "sk-1")
    page.keyboard.press("Enter")
    page.wait_for_selector(".node")
    expect(page.locator("dialog")).to_have_count(0)


def test_who_gives_no_key_is_not_asked_again(look: Looking, fake: Fake) -> None:
    fake.key = "sk-1"
    page = look.open()
    page.wait_for_selector("dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector(".notice:has-text('The server wants a key.')")
    with page.expect_request("**/api/models/stream"):
        pass
    page.wait_for_selector(".connection.is-away:has-text('The server wants a key.')")
    expect(page.locator("dialog")).to_have_count(0)
    page.click("button:text-is('Key')")
    page.wait_for_selector("dialog input")
