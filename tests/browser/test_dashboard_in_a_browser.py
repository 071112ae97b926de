"""The dashboard as a person sees it, in a real browser: live, by keyboard, on a phone, in the dark, without scripts."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import tokens
from aiohttp.test_utils import TestServer
from axe_playwright_python.async_playwright import Axe
from cloud_transport import CloudTransport, connected, let_pass
from operator_api import TOKEN, body
from playwright.async_api import Browser, BrowserContext, Page, expect
from simulated import Caller
from sqlalchemy import func, select
from stored_events import store_dead_letter
from stored_messages import store_message

from service.api.app import make_app
from service.core.api_token import Role
from service.core.catalogue import Advice
from service.operations import submission
from service.runtime.runtime import Runtime
from service.storage import tables
from service.storage.engine import begin
from service.web.dashboard import add_dashboard
from service.worker import apply, create, prices, refresh

HOSTILE = """<img src=x onerror=alert(1)>"><script>alert(2)</script>'`${1}\x1b\u202e"""
SUBMITTED = {"environment_name": "default-CANADA-1", "flavor_name": "n3-A100x1"}
#: Milliseconds that a page may take to become what is expected of it; only a failure waits that long.
LIMIT = 30_000


@pytest.fixture
def provider() -> CloudTransport:
    return CloudTransport(Caller(contracts=[{"id": 41, "discounts": [{"resource_name": "x", "resource_count": 9}]}]))


@pytest.fixture
def rt(runtime: Runtime, provider: CloudTransport) -> Runtime:
    return connected(runtime, provider)


@pytest.fixture
async def server(rt: Runtime) -> AsyncIterator[TestServer]:
    app = make_app(rt, rt.settings.callers)
    add_dashboard(app)
    async with TestServer(app) as made:
        yield made


@pytest.fixture
async def page(chromium: Browser, server: TestServer) -> AsyncIterator[Page]:
    """A page of somebody who has signed in. The test fails if it breaks the content policy, or a script of it fails."""
    context = await chromium.new_context(base_url=str(server.make_url("/")))
    made = await signed_in(context)
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    made.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield made
    await context.close()
    assert wrong == []


async def signed_in(context: BrowserContext) -> Page:
    context.set_default_timeout(LIMIT)
    expect.set_options(timeout=LIMIT)
    page = await context.new_page()
    await page.goto("/")
    await page.get_by_label("API token").fill(TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Fleet", exact=True)).to_be_visible()
    return page


async def submit(rt: Runtime, **changes: Any) -> str:
    wanted = submission.read(body(**SUBMITTED, **changes), caller="tests", key=None)
    return str((await submission.submit(rt, wanted, Advice()))[0])


async def grow(rt: Runtime, provider: CloudTransport, seconds: int) -> None:
    for _ in range(seconds // 5):
        await let_pass(rt, provider, 5)
        await apply.run_once(rt)
        await refresh.run_once(rt)


async def test_a_fleet_is_followed_from_submit_to_ready_without_a_reload(
    page: Page, rt: Runtime, provider: CloudTransport
) -> None:
    await page.evaluate("window.loaded = 1")
    await submit(rt, name="train", count=3)
    await expect(page.get_by_role("link", name="train")).to_be_visible()
    ready = page.locator(".numbers div", has_text="ready").first.locator("dd")
    await expect(ready).to_have_text("0")
    await create.run_once(rt)
    await grow(rt, provider, 60)
    await expect(ready).to_have_text("3")
    assert await page.evaluate("window.loaded") == 1


async def test_a_vm_that_is_stuck_says_why_and_what_to_do(page: Page, rt: Runtime, provider: CloudTransport) -> None:
    await submit(rt, name="train", count=1)
    await create.run_once(rt)
    await let_pass(rt, provider, 1)
    await apply.run_once(rt)
    async with begin(rt.engine) as conn:
        await conn.execute(tables.vms.update().values(stuck=True, reason="in BUILD for 3600 s"))
    await page.goto("/vms?stuck=true")
    await page.locator("tbody a").first.click()
    explanation = page.locator(".explanation")
    await expect(explanation).to_contain_text("in BUILD for 3600 s")
    await expect(explanation).to_contain_text("Delete it, or ask the provider")
    await expect(page.locator("svg.lanes circle")).not_to_have_count(0)
    await page.locator("svg.lanes a").first.click()
    assert "#entry-" in page.url


async def test_a_dead_letter_is_replayed(page: Page, rt: Runtime) -> None:
    await store_dead_letter(rt)
    await page.get_by_role("link", name="Deliveries").click()
    await page.get_by_label("Dead letters").select_option("any")
    await page.get_by_role("button", name="Filter").click()
    await page.locator("tbody a").first.click()
    await expect(page.locator("main")).to_contain_text("it is not JSON")
    await page.get_by_role("button", name="Replay").click()
    await expect(page.locator("h1")).to_contain_text("waiting")
    await expect(page.get_by_role("button", name="Replay")).to_have_count(0)


async def test_a_submission_is_cancelled_by_keyboard_after_a_page_that_names_what_goes(page: Page, rt: Runtime) -> None:
    submission_id = await submit(rt, name="train", count=12)
    await page.goto(f"/submissions/{submission_id}")
    await page.get_by_role("link", name="Cancel").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_contain_text("12 of 12")
    await page.get_by_role("button", name="Cancel the submission").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("cancelled")


async def test_the_fleet_at_a_past_moment_follows_the_slider(page: Page, rt: Runtime) -> None:
    rt.clock.advance(7200)
    await submit(rt, name="train", count=4)
    rt.clock.advance(1)
    await page.get_by_role("link", name="Audit").click()
    await expect(page.locator("main")).to_contain_text("4 alive")
    await page.get_by_label("How long ago").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("caption").first).to_contain_text("As the record had it: 0 alive")


async def test_nothing_is_wider_than_a_phone_and_all_of_it_is_accessible_in_light_and_dark(
    chromium: Browser, server: TestServer, rt: Runtime, provider: CloudTransport
) -> None:
    submission_id = await submit(rt, name="train", count=3, policy={"lifetime": "2d"})
    await prices.run_once(rt)
    await create.run_once(rt)
    await grow(rt, provider, 60)
    await tokens.created(rt, "ci", Role.SUBMIT, max_vms=40)
    await store_dead_letter(rt)
    async with begin(rt.engine) as conn:
        event_id = await conn.scalar(select(tables.dead_letters.c.event_id))
    rt.health.report("provider", "is away")
    paths = ["/", "/submissions", f"/submissions/{submission_id}", f"/submissions/{submission_id}/cancel", "/vms"]
    paths += [f"/vms/{submission_id}.1", "/events", f"/events/{event_id}", "/calls", "/orphans", "/audit", "/vms/0"]
    paths += ["/audit/statistics", "/audit/log", "/cost", "/cost?by=flavor", "/tokens", "/tokens/ci/revoke"]
    paths += [f"/submissions/{submission_id}/extend?by=2h"]
    paths += ["/notifications", f"/notifications/{(await store_message(rt)).message_id}"]
    wrong, backgrounds = [], set()
    for scheme in ("light", "dark"):
        context = await chromium.new_context(
            base_url=str(server.make_url("/")), color_scheme=scheme, viewport={"width": 360, "height": 740}
        )
        page = await signed_in(context)
        for path in paths:
            await page.goto(path)
            width = await page.evaluate("document.documentElement.scrollWidth")
            found = [
                one
                for one in (await Axe().run(page)).response["violations"]
                if one["impact"] in {"serious", "critical"}
            ]
            wrong += [f"{scheme} {path}: {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]
            wrong += [f"{scheme} {path} is {width} px wide"] if width > 360 else []
        backgrounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        await context.close()
    assert wrong == []
    assert len(backgrounds) == 2


async def test_pages_are_read_and_used_without_javascript(chromium: Browser, server: TestServer, rt: Runtime) -> None:
    submission_id = await submit(rt, name="train", count=2)
    context = await chromium.new_context(base_url=str(server.make_url("/")), java_script_enabled=False)
    page = await signed_in(context)
    await page.get_by_role("link", name="VMs").click()
    await page.get_by_label("State").select_option("REQUESTED")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.goto(f"/submissions/{submission_id}/cancel")
    await page.get_by_role("button", name="Cancel the submission").click()
    await expect(page.locator("h1")).to_contain_text("cancelled")
    await page.get_by_role("link", name="Tokens").click()
    await page.get_by_text("Create a token").click()
    await page.get_by_label("Name").fill("ci")
    await page.get_by_role("button", name="Create").click()
    await expect(page.locator("pre")).to_contain_text("rollcall_")
    await page.get_by_role("link", name="All tokens").click()
    await page.get_by_role("link", name="Revoke").click()
    await page.get_by_role("button", name="Revoke the token").click()
    await expect(page.get_by_role("link", name="Revoke")).to_have_count(0)
    await context.close()


async def test_no_text_of_others_runs_or_breaks_out(page: Page, rt: Runtime) -> None:
    submission_id = await submit(rt, name="train", count=1)
    async with begin(rt.engine) as conn:
        texts = {
            one.name: HOSTILE for one in tables.vms.c if one.name in {"name", "reason", "region", "flavor", "fixed_ip"}
        }
        await conn.execute(tables.vms.update().values(texts))
        await conn.execute(tables.submissions.update().values(name=HOSTILE, reasons=[HOSTILE], warnings=[HOSTILE]))
    await store_dead_letter(rt, body=HOSTILE.encode(), headers={"user-agent": HOSTILE}, peer=HOSTILE)
    async with begin(rt.engine) as conn:
        event_id = await conn.scalar(select(tables.dead_letters.c.event_id))
        assert await conn.scalar(select(func.count()).select_from(tables.vms)) == 1
    rt.health.report("provider", HOSTILE)
    for path in (
        "/",
        "/vms",
        f"/vms/{submission_id}.1",
        f"/submissions/{submission_id}",
        "/events",
        "/cost?by=flavor",
        f"/events/{event_id}",
    ):
        await page.goto(path)
        await expect(page.locator("main script, main img")).to_have_count(0)
    await expect(page.locator("pre")).to_contain_text("<script>alert(2)</script>")


async def test_a_stream_that_breaks_is_taken_up_again(page: Page, rt: Runtime, server: TestServer) -> None:
    await expect(page.locator("#live")).to_have_text("live")
    port = server.port
    await server.close()
    await expect(page.locator("#live")).to_contain_text("away")
    await submit(rt, name="meanwhile", count=1)
    app = make_app(rt, rt.settings.callers)
    add_dashboard(app)
    async with TestServer(app, port=port):
        await expect(page.get_by_role("link", name="meanwhile")).to_be_visible()
