"""The console in a browser, over real Serve."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browser import DESKTOP, PHONE, chromium, looking
from tests.e2e.keys import ALICE, OPERATOR
from tests.e2e.serving import Serving, wait_for

APPLICATIONS = ("swap", "ops", "keys")
VIEWS = ("models", "chat", "requests", "logs", "devices")
SEEN_MS = 15_000
"""Milliseconds after which the page must show what the server knows."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def status_of(url: str, model: str) -> str:
    found: str = httpx.get(f"{url}/api/models/{model}", timeout=30).json()["model"]["status"]
    return found


def badge(page: Page, model: str, status: str) -> str:
    return f'li.model:has(h2:text-is("{model}")) .badge.is-{status}'


def shows_when_it_is(page: Page, url: str, model: str, status: str, deadline_s: float = 60) -> None:
    """Once the server says so, the page does within SEEN_MS."""
    wait_for(f"{model} is {status}", lambda: status_of(url, model) == status, deadline_s)
    page.wait_for_selector(badge(page, model, status), timeout=SEEN_MS)


def test_root_names_the_console_and_it_is_painted_soon(serving: Serving, browser: Browser) -> None:
    assert httpx.get(serving.url).json()["console_url"] == "/console"
    answer = httpx.get(f"{serving.url}/console")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["content-encoding"] == "gzip"
    with looking(browser, serving.url) as look:
        page = look.open()
        page.wait_for_selector("li.model h2")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        table = page.evaluate("performance.now()")
        print(f"\nfirst paint after {paint:.0f} ms, the table by {table:.0f} ms, {len(look.asked)} requests")
        page.reload()
        page.wait_for_selector("li.model h2")
        again = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"again: first paint after {again:.0f} ms, the table by {page.evaluate('performance.now()'):.0f} ms")
        assert paint < 2500


def test_policy_of_the_page_stops_scripts_and_styles_of_its_own(serving: Serving, browser: Browser) -> None:
    with looking(browser, serving.url) as look:
        page = look.open()
        ran = page.evaluate(
            """() => new Promise((resolve) => {
                 const stopped = [];
                 document.addEventListener("securitypolicyviolation", (e) => {
                   stopped.push(e.effectiveDirective);
                   if (stopped.length === 2) resolve([window.ran ?? false, stopped]);
                 });
                 const script = document.createElement("script");
                 script.textContent = "window.ran = true";
                 document.body.append(script);
                 const style = document.createElement("style");
                 style.textContent = "body { display: none }";
                 document.body.append(style);
               })"""
        )
        assert ran == [False, ["script-src-elem", "style-src-elem"]]
        assert all("Content Security Policy" in said for said in look.complaints)
        look.complaints.clear()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(("locale", "title"), [("en-GB", "Devices"), ("zh-CN", "设备")])
def test_every_view_shows_itself_in_both_languages_and_sizes(
    serving: Serving, browser: Browser, size: tuple[int, int], locale: str, title: str
) -> None:
    with looking(browser, serving.url, size, locale=locale) as look:
        for view in VIEWS:
            page = look.open(view)
            page.wait_for_selector(f'main.view-{view} h1, nav a[aria-current="page"][href="#/{view}"]')
            page.wait_for_selector(f"main.view-{view}")
            assert look.too_wide() == 0, view
        expect(page.locator("h1")).to_have_text(title)


def test_chat_streams_from_the_real_model(serving: Serving, browser: Browser) -> None:
    wait_for("the model is up", lambda: serving.statuses()["smollm2-135m"] == "running", 180)
    with looking(browser, serving.url) as look:
        page = look.open("chat?model=smollm2-135m")
        page.click("details.settings summary")
        page.fill("label:has-text('temperature') input", "0")
        page.fill("label:has-text('max_tokens') input", "24")
        page.fill("textarea[aria-label='Message']", "What is the capital of France?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".answer.is-streaming p", timeout=60_000)
        page.wait_for_selector(".answer.is-done .foot", timeout=60_000)
        assert "Paris" in page.inner_text(".answer")
        told = page.inner_text(".answer .foot")
        assert "first token" in told
        assert "tokens/s" in told
        look.picture("chat-real")
        page.reload()
        page.wait_for_selector(".answer .foot")
        assert "Paris" in page.inner_text(".answer")


def test_answer_is_stopped_and_sent_again(serving: Serving, browser: Browser) -> None:
    with looking(browser, serving.url) as look:
        page = look.open("chat?model=slow")
        page.fill("textarea[aria-label='Message']", "one two three")
        page.keyboard.press("Enter")
        page.wait_for_selector(".answer.is-streaming p", timeout=60_000)
        page.click("button:text-is('Stop')")
        page.wait_for_selector(".answer.is-stopped .foot")
        page.click("button:text-is('Edit')")
        assert page.input_value("textarea[aria-label='Message']") == "one two three"


def test_start_and_stop_are_seen_as_they_happen(serving: Serving, browser: Browser) -> None:
    url = f"{serving.url}/ops"
    with looking(browser, url) as look:
        page = look.open()
        page.click("button[aria-label='Start: plain']")
        shows_when_it_is(page, url, "plain", "running")
        page.click("button[aria-label='Stop: plain']")
        shows_when_it_is(page, url, "plain", "stopped")


def test_load_shows_its_progress(serving: Serving, browser: Browser) -> None:
    url = f"{serving.url}/ops"
    with looking(browser, url) as look:
        page = look.open()
        page.click("button[aria-label='Start: loads']")
        page.wait_for_selector("li.model:has(h2:text-is('loads')) progress", timeout=20_000)
        shows_when_it_is(page, url, "loads", "running")
        httpx.post(f"{url}/api/models/loads/stop", timeout=60)


def test_failed_model_shows_its_whole_reason(serving: Serving, browser: Browser) -> None:
    url = f"{serving.url}/ops"
    with looking(browser, url) as look:
        page = look.open()
        page.click("button[aria-label='Start: broken']")
        shows_when_it_is(page, url, "broken", "failed")
        reason = httpx.get(f"{url}/api/models/broken").json()["model"]["failure_reason"]
        assert reason
        expect(page.locator("li.model:has(h2:text-is('broken')) .reason.is-bad")).to_have_text(reason)
        look.picture("failed-real")


def test_log_is_followed_while_its_model_starts(serving: Serving, browser: Browser) -> None:
    url = f"{serving.url}/ops"
    with looking(browser, url) as look:
        page = look.open("logs?model=lazy")
        page.wait_for_selector(".log")
        before = page.locator(".line").count()
        httpx.post(f"{url}/api/models/lazy/start", timeout=60)
        page.wait_for_function("(n) => document.querySelectorAll('.line').length > n", arg=before, timeout=20_000)
        page.wait_for_selector("text=following")
        httpx.post(f"{url}/api/models/lazy/stop", timeout=60)


def test_swap_is_seen(serving: Serving, browser: Browser) -> None:
    url = f"{serving.url}/swap"
    with looking(browser, url) as look:
        page = look.open()
        for model in "abc":
            body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
            assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
            shows_when_it_is(page, url, model, "running")
        page.wait_for_selector(badge(page, "a", "stopped"), timeout=20_000)


def test_key_is_asked_for_and_what_it_may_not_do_is_said(serving: Serving, browser: Browser) -> None:
    with looking(browser, f"{serving.url}/keys") as look:
        page = look.open()
        for key in ("wrong", ALICE):
            page.fill("dialog input[name=key]", key)
            page.click("dialog button.main")
        page.wait_for_selector("li.model h2:text-is('mine')")
        assert page.locator("li.model").count() == 1
        page.click("button[aria-label='Start: mine']")
        page.wait_for_selector(".notice.error:has-text('The key lacks a right.'):has-text('manage')")
        kept = page.evaluate("[JSON.stringify(sessionStorage).includes('sk-alice'), JSON.stringify(localStorage)]")
        assert kept[0]
        assert "sk-" not in kept[1]
    with looking(browser, f"{serving.url}/keys") as look:
        page = look.open()
        page.fill("dialog input[name=key]", OPERATOR)
        page.keyboard.press("Enter")
        page.wait_for_selector("li.model h2:text-is('theirs')")
        began = time.monotonic()
        page.click("button[aria-label='Start: theirs']")
        page.wait_for_selector(badge(page, "theirs", "running"), timeout=60_000)
        print(f"\nstarted in {time.monotonic() - began:.1f} s")
