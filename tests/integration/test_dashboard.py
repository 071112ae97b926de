"""The dashboard over HTTP: who is let in, what a form may do, and that no page shows what others wrote unescaped."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import tokens
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from operator_api import TOKEN, body
from pydantic import SecretStr
from sqlalchemy import event
from stored_events import store_dead_letter
from stored_messages import HOSTILE, store_message

from service.api.app import make_app
from service.api.context import ACCESS
from service.api.route import Access
from service.core.api_token import Role
from service.core.lifecycle import VmState
from service.core.money import ListPrice
from service.notify_rules import NotifyTarget
from service.operations import tokens as operations
from service.operations.tokens import TokenRotation
from service.queries import fleet, state_history, statistics
from service.runtime.replica import Replica
from service.runtime.runtime import Runtime
from service.storage import prices, tables
from service.storage.engine import begin, create_engine
from service.web.dashboard import LIVE, add_dashboard
from service.web.pages import page
from service.web.reports import REPORTS
from service.web.sessions import COOKIE, LIFETIME
from service.web.shared import SHARED
from service.worker import sample

PAGES = (
    "/",
    "/submissions",
    "/vms",
    "/orphans",
    "/events",
    "/calls",
    "/notifications",
    "/cost",
    "/audit",
    "/audit/statistics",
    "/audit/log",
    "/tokens",
)


@dataclass
class Page:
    status: int
    text: str
    url: str
    headers: Any

    @property
    def csrf(self) -> str:
        return re.search(r'name="csrf" value="(\w+)"', self.text)[1]


class Browser:
    """Keeps cookies and follows redirects, as a browser does."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    async def get(self, path: str, **headers: str) -> Page:
        return await self._read("GET", path, headers=headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> Page:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._read("POST", path, data=fields, headers=named)

    async def sign_in(self, token: str = TOKEN, **fields: str) -> Page:
        return await self.post("/signin", {"token": token, **fields})

    async def api(self, method: str, path: str, content: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self.client.request(method, path, json=content, headers=headers) as got:
            return await got.json()

    def cookie(self) -> str:
        return next(one.value for one in self.client.session.cookie_jar if one.key == COOKIE)

    async def _read(self, method: str, path: str, **options: Any) -> Page:
        async with self.client.request(method, path, **options) as got:
            return Page(got.status, await got.text(), str(got.url.relative()), got.headers)


@asynccontextmanager
async def browsing(
    rt: Runtime,
    callers: dict[str, SecretStr] | None = None,
    add_pages: Callable[[web.Application], None] = add_dashboard,
) -> AsyncIterator[Browser]:
    app = make_app(rt, rt.settings.callers if callers is None else callers)
    add_pages(app)
    async with TestClient(TestServer(app), cookie_jar=CookieJar(unsafe=True)) as client:
        yield Browser(client)


@pytest.fixture
async def browser(runtime: Runtime) -> AsyncIterator[Browser]:
    async with browsing(runtime) as made:
        yield made


@pytest.mark.parametrize("path", [*PAGES, "/vms/7", "/submissions/x", "/events/x", "/live", "/vms/7/delete"])
async def test_whoever_is_not_signed_in_is_sent_to_the_sign_in_page_and_comes_back(browser: Browser, path: str) -> None:
    page = await browser.get(path)
    assert page.url.startswith("/signin?next=")
    assert "<table" not in page.text


async def test_a_right_token_signs_in_and_leads_to_the_page_that_was_asked_for(browser: Browser) -> None:
    page = await browser.sign_in(next="/vms?ready=true")
    assert (page.status, page.url) == (200, "/vms?ready=true")
    assert "Sign out tests" in page.text
    assert (await browser.get("/signin?next=/calls")).url == "/calls"


async def test_a_wrong_token_is_refused_with_the_reason_and_counted_and_never_shown(
    browser: Browser, runtime: Runtime
) -> None:
    page = await browser.sign_in("a-wrong-token-of-tests")
    assert page.status == 401
    assert "refused" in page.text
    assert "a-wrong-token-of-tests" not in page.text
    assert runtime.metrics.wrong_tokens._value.get() == 1
    assert (await browser.get("/")).url.startswith("/signin")


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\r\nX: y"]
)
async def test_nobody_is_sent_elsewhere_after_signing_in(browser: Browser, elsewhere: str) -> None:
    async with browser.client.post(
        "/signin", data={"token": TOKEN, "next": elsewhere}, allow_redirects=False
    ) as answer:
        assert answer.headers["Location"] == "/"


async def test_the_cookie_is_for_this_site_and_not_for_scripts_and_secure_behind_tls(browser: Browser) -> None:
    for headers, secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
        async with browser.client.post(
            "/signin", data={"token": TOKEN}, headers=headers, allow_redirects=False
        ) as answer:
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert ("Secure" in cookie) is secure
        assert TOKEN not in cookie


async def test_a_session_ends_by_itself_and_says_so(browser: Browser, runtime: Runtime) -> None:
    await browser.sign_in()
    runtime.clock.advance(LIFETIME - 1)
    assert (await browser.get("/")).url == "/"
    runtime.clock.advance(1)
    page = await browser.get("/vms")
    assert page.url.startswith("/signin")
    assert "Your session has ended" in page.text


@pytest.mark.parametrize("how", ["revoked", "expired", "rotated", "another in the settings"])
async def test_a_session_ends_with_its_token(runtime: Runtime, how: str) -> None:
    token = TOKEN if "settings" in how else await tokens.created(runtime, "night-shift", lifetime=3600.0)
    async with browsing(runtime) as browser:
        await browser.sign_in(token)
        assert (await browser.get("/")).url == "/"
        cookie = {"Cookie": f"{COOKIE}={browser.cookie()}"}
        if how == "revoked":
            await operations.revoke(runtime, "night-shift", caller="tests")
        elif how == "expired":
            runtime.clock.advance(3600 - 5)
        elif how == "rotated":
            await operations.rotate(runtime, "night-shift", TokenRotation(grace=0), caller="tests")
        runtime.clock.advance(5)
    callers = {"tests": SecretStr("another-token-of-tests")} if "settings" in how else None
    async with browsing(runtime, callers) as browser:
        page = await browser.get("/", **cookie)
        assert page.url.startswith("/signin")
        assert "its token is no longer valid" in page.text


async def test_the_page_that_is_open_is_no_longer_told_once_the_token_is_revoked(runtime: Runtime) -> None:
    token = await tokens.created(runtime, "night-shift")
    async with browsing(runtime) as browser:
        await browser.sign_in(token)
        async with browser.client.get("/live") as stream:
            assert await stream.content.readline() == b"retry: 2000\n"
            await operations.revoke(runtime, "night-shift", caller="tests")
            runtime.clock.advance(5)
            browser.client.app[LIVE]._tell()
            assert await stream.content.read()  # it comes to its end


async def test_what_a_role_may_not_do_is_not_offered(runtime: Runtime) -> None:
    async with browsing(runtime) as browser:
        made = await browser.api("POST", "/v1/submissions", body(policy={"lifetime": "2d"}))
        letter = await store_dead_letter(runtime)
        pages = {
            f"/submissions/{made['submission_id']}": "/cancel",
            f"/submissions/{made['submission_id']}?": "/extend",
            f"/vms/{made['submission_id']}.1": "/delete",
            f"/events/{letter}": "/replay",
        }
        for role, offered in (
            ("read", ""),
            ("audit", ""),
            ("submit", "/cancel /extend /delete"),
            ("admin", "/cancel /extend /delete /replay"),
        ):
            token = await tokens.created(runtime, role, Role(role))
            browser.client.session.cookie_jar.clear()
            await browser.sign_in(token)
            for path, form in pages.items():
                text = (await browser.get(path)).text
                assert (f'{form}"' in text) == (form in offered), (role, path)
                assert f"Sign out {role}" in text


async def test_any_daemon_of_the_database_knows_the_session(runtime: Runtime) -> None:
    async with browsing(runtime) as first, browsing(runtime) as second:
        await first.sign_in()
        assert (await second.get("/", Cookie=f"{COOKIE}={first.cookie()}")).url == "/"


async def test_no_changed_cookie_is_let_in(browser: Browser) -> None:
    await browser.sign_in()
    right = browser.cookie()
    browser.client.session.cookie_jar.clear()
    assert (await browser.get("/", Cookie=f"{COOKIE}={right}")).url == "/"
    wrong = ["", "x", "a.b", "a.b.c.d", "...", right[:-1], right + "0", right.replace(".", "..", 1), right.upper()]
    wrong += [right[:i] + ("0" if right[i] != "0" else "1") + right[i + 1 :] for i in range(0, len(right), 3)]
    for cookie in wrong:
        assert (await browser.get("/", Cookie=f"{COOKIE}={cookie}")).url.startswith("/signin"), cookie


async def test_the_api_takes_no_cookie(browser: Browser) -> None:
    await browser.sign_in()
    for path in ("/v1/vms", "/v1/fleet", "/metrics"):
        assert (await browser.get(path)).status == 401


async def test_signing_out_ends_the_session_in_this_browser(browser: Browser) -> None:
    page = await browser.sign_in()
    page = await browser.post("/signout", {"csrf": page.csrf})
    assert "You are signed out" in page.text
    assert (await browser.get("/")).url.startswith("/signin")


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_answers_on_an_empty_record_with_a_strict_policy(browser: Browser, path: str) -> None:
    await browser.sign_in()
    page = await browser.get(path)
    assert (page.status, page.url) == (200, path)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"""(?i)\bon\w+=|style=|<script>|(?:src|href)=["']?(?:https?:)?//""", page.text)


async def test_a_page_shows_the_same_as_the_api_and_names_it(browser: Browser) -> None:
    made = await browser.api("POST", "/v1/submissions", body(count=3, name="train"))
    await browser.sign_in()
    page = await browser.get(f"/vms?submission_id={made['submission_id']}&limit=2")
    named = re.search(r"GET (/v1/\S+?)</code>", page.text)[1].replace("&amp;", "&")
    listed = await browser.api("GET", named)
    assert [one["ref"] in page.text for one in listed["items"]] == [True, True]
    following = re.search(r'href="([^"]+)">Next page', page.text)[1].replace("&amp;", "&")
    assert f"{made['submission_id']}.3" in (await browser.get(following)).text


@pytest.mark.parametrize("path", ["/", "/events", "/audit", "/audit/statistics", "/vms"])
async def test_a_page_that_was_read_from_a_replica_says_how_far_behind_it_is(
    browser: Browser, runtime: Runtime, path: str
) -> None:
    await browser.sign_in()
    assert 'id="lag"' not in (await browser.get(path)).text
    runtime.replica = Replica(runtime.engine, usable=True, lag=7.25)
    found = await browser.get(path)
    assert ("Read from a replica, 7.2 s behind the primary." in found.text) is (path != "/vms"), found.text
    runtime.replica = None


async def test_every_table_comes_as_csv_whole(browser: Browser) -> None:
    await browser.api("POST", "/v1/submissions", body(count=1203, name="train"))
    await browser.sign_in()
    page = await browser.get("/vms?format=csv&limit=2")
    rows = list(csv.DictReader(io.StringIO(page.text)))
    assert len(rows) == 1203
    assert {row["state"] for row in rows} == {"REQUESTED"}
    for path in ("/submissions", "/events", "/calls", "/orphans", "/cost", "/tokens"):
        assert (await browser.get(f"{path}?format=csv")).headers["Content-Type"].startswith("text/csv")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
async def test_no_cell_of_the_csv_is_a_formula(browser: Browser, runtime: Runtime, text: str) -> None:
    await browser.api("POST", "/v1/submissions", body(count=1))
    async with begin(runtime.engine) as conn:
        await conn.execute(tables.vms.update().values(name=text))
    await browser.sign_in()
    rows = list(csv.DictReader(io.StringIO((await browser.get("/vms?format=csv")).text)))
    assert rows[0]["name"] == f"'{text}"


async def test_what_others_wrote_is_escaped_on_every_page(browser: Browser, runtime: Runtime) -> None:
    made = await browser.api("POST", "/v1/submissions", body(count=1))
    async with begin(runtime.engine) as conn:
        await conn.execute(tables.vms.update().values(name=HOSTILE, reason=HOSTILE, region=HOSTILE, flavor=HOSTILE))
        await conn.execute(tables.submissions.update().values(name=HOSTILE, reasons=[HOSTILE], warnings=[HOSTILE]))
    event_id = await store_dead_letter(runtime, body=HOSTILE.encode(), headers={"user-agent": HOSTILE}, peer=HOSTILE)
    await browser.sign_in()
    ref = f"{made['submission_id']}.1"
    one = f"/submissions/{made['submission_id']}"
    paths = [*PAGES, f"/vms/{ref}", f"/vms/{ref}/delete", one, f"{one}/cancel", f"/events/{event_id}"]
    paths += [f"{one}/extend?by=%3Cscript%3E", f"{one}/extend", "/cost?by=label", "/cost?by=%3Cscript%3E"]
    paths += ["/tokens/%3Cscript%3E/revoke", "/cost?by=flavor&format=csv"]
    for path in [
        *paths,
        "/vms?name=%3Cscript%3E",
        "/vms?format=csv",
        "/vms/%3Cscript%3E",
        "/events?limit=%3Cscript%3E",
    ]:
        page = await browser.get(path)
        assert "<script>" not in page.text or path.endswith("csv"), path
        assert not set(page.text) & {"\x1b", "\u202e"}, path


async def test_a_form_from_elsewhere_does_nothing(browser: Browser) -> None:
    made = await browser.api("POST", "/v1/submissions", body(count=2))
    page = await browser.sign_in()
    one = f"/submissions/{made['submission_id']}"
    for fields, headers in (
        ({}, {}),
        ({"csrf": "0" * 32}, {}),
        ({"csrf": page.csrf}, {"Sec_Fetch_Site": "cross-site"}),
        ({"csrf": page.csrf}, {"Sec_Fetch_Site": "same-site"}),
    ):
        assert (await browser.post(f"{one}/cancel", fields, **headers)).status == 403
    assert (await browser.api("GET", f"/v1{one}"))["cancelled_at"] is None


async def test_cancelling_names_what_will_go_and_is_on_record_with_who_did_it(browser: Browser) -> None:
    made = await browser.api("POST", "/v1/submissions", body(count=12))
    await browser.sign_in()
    one = f"/submissions/{made['submission_id']}"
    page = await browser.get(f"{one}/cancel")
    assert "12 of 12" in page.text
    page = await browser.post(f"{one}/cancel", {"csrf": page.csrf})
    assert page.url == one
    shown = await browser.api("GET", f"/v1{one}")
    assert shown["cancelled_at"] is not None
    assert {(one["kind"], one["caller"]) for one in shown["actions"]} == {("submit", "tests"), ("cancel", "tests")}


async def test_the_page_after_a_form_shows_what_the_form_did_also_while_many_share_it(browser: Browser) -> None:
    made = await browser.api("POST", "/v1/submissions", body(count=1))
    await browser.sign_in()
    one = f"/submissions/{made['submission_id']}"
    csrf = (await browser.get(f"{one}/cancel")).csrf
    values = browser.client.app[SHARED]
    values.is_on = True
    before = await browser.get(one)
    after = await browser.post(f"{one}/cancel", {"csrf": csrf})
    values.is_on = False
    assert after.text == (await browser.get(one)).text != before.text


async def test_deleting_a_vm_asks_first(browser: Browser, runtime: Runtime) -> None:
    made = await browser.api("POST", "/v1/submissions", body(count=1))
    ref = f"{made['submission_id']}.1"
    async with begin(runtime.engine) as conn:
        await conn.execute(tables.vms.update().values(state=VmState.ACTIVE, next_refresh_at=runtime.clock.now()))
    await browser.sign_in()
    page = await browser.get(f"/vms/{ref}/delete")
    assert (await browser.api("GET", f"/v1/vms/{ref}"))["desired_state"] == "present"
    page = await browser.post(f"/vms/{ref}/delete", {"csrf": page.csrf})
    assert page.url == f"/vms/{ref}"
    assert (await browser.api("GET", f"/v1/vms/{ref}"))["desired_state"] == "deleted"


async def test_a_replayed_dead_letter_waits_again_and_who_did_it_is_on_record(
    browser: Browser, runtime: Runtime
) -> None:
    event_id = await store_dead_letter(runtime)
    await browser.sign_in()
    page = await browser.get(f"/events/{event_id}")
    assert "it is not JSON" in page.text
    page = await browser.post(f"/events/{event_id}/replay", {"csrf": page.csrf})
    assert (page.status, page.url) == (200, f"/events/{event_id}")
    shown = (await browser.api("GET", f"/v1/events/{event_id}"))["event"]
    assert (shown["waiting"], shown["dead_letter"]) == (True, None)
    async with begin(runtime.engine) as conn:
        (action,) = await conn.execute(tables.actions.select())
    assert (action.kind, action.caller, action.detail) == ("replay", "tests", f"event {event_id}")
    again = await browser.api("POST", f"/v1/events/{event_id}/replay")
    assert again["status"] == 404


async def test_wrong_parameters_are_named_in_the_pages_frame(browser: Browser) -> None:
    await browser.sign_in()
    for path, named in (("/vms?state=X&nonsense=1", ("state", "nonsense")), ("/audit?time=now", ("time",))):
        page = await browser.get(path)
        assert page.status == 422
        assert all(f"{field}: " in page.text for field in named)
        assert "<nav" in page.text


async def test_a_page_without_its_database_keeps_its_frame_and_says_so(runtime: Runtime) -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:9/nothing")
    async with browsing(replace(runtime, engine=engine)) as browser:
        page = await browser.sign_in()
        assert page.status == 503
        assert "<nav" in page.text
        assert "database does not answer" in page.text
    await engine.dispose()


async def test_a_page_that_takes_too_long_keeps_its_frame_and_says_so(runtime: Runtime) -> None:
    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    def add_pages(app: web.Application) -> None:
        add_dashboard(app)
        access = Access(role=Role.READ, session=True)
        app[ACCESS]["GET", "/never"] = access
        app.router.add_get("/never", page(never, access, timeout=0.2))

    async with browsing(runtime, add_pages=add_pages) as browser:
        await browser.sign_in()
        shown = await browser.get("/never")
        assert shown.status == 503
        assert "<nav" in shown.text
        assert "took too long" in shown.text


async def test_an_open_page_is_told_of_a_change_and_let_go_when_the_daemon_stops(
    browser: Browser, runtime: Runtime
) -> None:
    await browser.sign_in()
    async with browser.client.get("/live") as stream:
        runtime.health.report("database", "is away")
        async for line in stream.content:
            if line == b"event: changed\n":
                break
            runtime.health.report(f"issue {len(runtime.health.issues)}", "something else")
        await browser.client.server.app.shutdown()
        assert not [line async for line in stream.content if line.startswith(b"event: other")]


async def test_many_open_pages_are_counted_for_once_and_all_told_of_a_change(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.web.live._SECONDS", 0.05)
    monkeypatch.setattr("service.web.live._SECONDS_PER_PAGE", 0.001)
    counts: list[object] = []
    counted = fleet.count

    async def noted(*given: Any, **more: Any) -> Any:
        counts.append(given)
        return await counted(*given, **more)

    monkeypatch.setattr(fleet, "count", noted)
    await browser.sign_in()
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(browser.client.get("/live")) for _ in range(7)]
        while not browser.client.app[SHARED].is_on:  # noqa: ASYNC110  at the next look
            await asyncio.sleep(0)
        counts.clear()
        shown = await asyncio.gather(*(browser.get("/") for _ in opened))
        assert {page.status for page in shown} == {200}
        assert len(counts) == 1
        await browser.api("POST", "/v1/submissions", body(name="new-one", count=3))
        for page in opened:
            while b"event: changed" not in await page.content.readline():
                pass
        assert '/vms?alive=true">0<' in shown[0].text
        assert '/vms?alive=true">3<' in (await browser.get("/")).text
        assert len(counts) > 1


async def test_fifty_open_pages_send_no_more_statements_than_one_and_each_is_its_own_sessions(
    browser: Browser, runtime: Runtime
) -> None:
    statements: list[str] = []
    event.listen(runtime.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    await browser.api("POST", "/v1/submissions", body(name="new-one", count=3))
    await browser.sign_in()
    values = browser.client.app[SHARED]
    paths = ("/", "/submissions", "/vms", "/events", "/calls", "/orphans")
    for path in paths:
        alone = await browser.get(path)
        statements.clear()
        await browser.get(path)
        one = len(statements)
        values.is_on = True
        statements.clear()
        pages = await asyncio.gather(*(browser.get(path) for _ in range(50)))
        assert (path, len(statements)) == (path, one)
        assert {page.csrf for page in pages} == {alone.csrf}
        assert all("Sign out" in page.text and page.text.count("<tr>") == alone.text.count("<tr>") for page in pages)
        values.is_on = False
    values.is_on = True
    mine = await browser.get("/vms")
    await browser.post("/signout", {"csrf": mine.csrf})
    other = await browser.sign_in(await tokens.created(runtime, "a-reader"), next="/vms")
    assert other.csrf != mine.csrf
    assert "Sign out a-reader" in other.text
    assert ['href="/tokens"' in page.text for page in (mine, other)] == [True, False]


async def test_a_report_that_takes_long_is_made_once_and_shown_when_it_is_there(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.web.reports._PATIENCE", 0.0)
    monkeypatch.setattr("service.web.reports._QUICK", 0.0)
    go_on, made = asyncio.Event(), []
    counted = statistics.times

    async def slowly(*given: Any) -> Any:
        made.append(given)
        await go_on.wait()
        return await counted(*given)

    monkeypatch.setattr(statistics, "times", slowly)
    await browser.sign_in()
    pages = await asyncio.gather(*(browser.get("/audit/statistics") for _ in range(5)))
    assert [(page.status, page.headers.get("Refresh"), "is being counted" in page.text) for page in pages] == [
        (200, "5", True)
    ] * 5
    wrong = await browser.get("/audit/statistics?since=yesterdaay")
    assert (wrong.status, "since" in wrong.text) == (422, True)  # at once, though another report is being made
    monkeypatch.setattr("service.web.statistics._CSV_PATIENCE", 0.0)
    early = await browser.get("/audit/statistics?format=csv")
    assert (early.status, early.headers["Retry-After"], "is being counted" in early.text) == (503, "10", True)
    monkeypatch.setattr("service.web.statistics._CSV_PATIENCE", 14.0)
    late = asyncio.create_task(browser.get("/audit/statistics?format=csv"))  # waits for what is being made
    go_on.set()
    while "Refresh" in (page := await browser.get("/audit/statistics")).headers:
        pass
    assert "Counted at" in page.text
    assert (await late).headers["Content-Type"].startswith("text/csv")
    assert "Refresh" not in (await browser.get("/audit/statistics?by=day")).headers  # the same report by another key
    assert len(made) == 1
    go_on.clear()
    monkeypatch.setattr(browser.client.app[REPORTS], "_monotonic", lambda: 1e12)  # later
    page = await browser.get("/audit/statistics")
    assert (page.headers["Refresh"], "Counted at" in page.text, "newer one is being counted" in page.text) == (
        "5",
        True,
        True,
    )
    go_on.set()


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_a_page_whatever_the_browser_accepts(browser: Browser, path: str) -> None:
    await browser.sign_in()
    page = await browser.get(path, Accept="text/csv")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


async def test_the_drawing_takes_the_moves_back_from_the_numbers_of_now(browser: Browser, runtime: Runtime) -> None:

    await browser.api("POST", "/v1/submissions", body(count=3))
    now = runtime.clock.now()
    moves = [(1, 5, "REQUESTED", "CREATING"), (1, 3, "CREATING", "ACTIVE"), (2, 2, "REQUESTED", "ERROR")]
    async with begin(runtime.engine) as conn:
        (row,) = await conn.execute(tables.submissions.select())
        for seq, (vm_no, ago, from_state, to_state) in enumerate(moves, 1):
            at = now - timedelta(minutes=ago) + timedelta(seconds=1)
            await conn.execute(
                tables.transitions.insert().values(
                    submission_id=row.submission_id, vm_no=vm_no, seq=seq, at=at, from_state=from_state,
                    to_state=to_state, verdict="moved", evidence="answer", evidence_at=at,
                )
            )  # fmt: skip
            await conn.execute(
                tables.vms.update().where(tables.vms.c.vm_no == vm_no).values(state=to_state, next_refresh_at=now)
            )
        history = await state_history.over_time(conn, since=now - timedelta(minutes=6), until=now, steps=6)
    assert [dict(one.by_state) for one in history] == [
        {}, {}, {"CREATING": 1}, {"CREATING": 1}, {"ACTIVE": 1}, {"ACTIVE": 1, "ERROR": 1}, {"ACTIVE": 1, "ERROR": 1},
    ]  # fmt: skip


async def test_messages_are_shown_escaped_and_without_what_is_secret_in_their_targets(
    browser: Browser, runtime: Runtime
) -> None:
    key = "whsec_" + "a" * 32
    target = NotifyTarget(name="ops", to=SecretStr("https://example.com/hunter2"), secrets=(SecretStr(key),))
    runtime.settings = runtime.settings.model_copy(update={"notify": (target,)})
    one = await store_message(runtime)
    await browser.sign_in()
    for path in ("/notifications", f"/notifications/{one.message_id}", "/notifications?format=csv"):
        page = await browser.get(path)
        assert page.status == 200
        assert "lost: " in page.text or "vm.lost" in page.text
        for never in ("<script>alert", "\x1b", "\u202e", "hunter2", key):
            assert (path.endswith("csv") and never.startswith("<")) or never not in page.text, (path, never)


async def test_a_message_is_replayed_by_a_form_of_this_session_only(browser: Browser, runtime: Runtime) -> None:
    one = await store_message(runtime)
    page = await browser.sign_in(next=f"/notifications/{one.message_id}")
    path = f"/notifications/{one.message_id}/replay"
    assert (await browser.post(path, {"csrf": "0" * 64})).status == 403
    again = await browser.post(path, {"csrf": page.csrf})
    assert again.url == f"/notifications/{one.message_id}"
    assert "state-due" in again.text
    assert (await browser.post(path, {"csrf": page.csrf})).status == 409


async def ran(browser: Browser, runtime: Runtime, **changes: Any) -> dict[str, Any]:
    """A submission of two VMs that ran for an hour at 2 an hour, one of them off its contract against its wish."""
    at = runtime.clock.now()
    made = await browser.api("POST", "/v1/submissions", body(count=2, **changes))
    submission_id = UUID(made["submission_id"])
    move = {"submission_id": submission_id, "seq": 1, "at": at, "from_state": "CREATING", "to_state": "ACTIVE",
            "verdict": "moved", "evidence": "observation", "evidence_at": at}  # fmt: skip
    step = {"submission_id": submission_id, "vm_no": 1, "attempt": 1, "at": at, "step": "create",
            "outcome": "on_demand", "contract_id": 41, "reason": "no room"}  # fmt: skip
    async with begin(runtime.engine) as conn:
        await prices.insert_changed_prices(conn, [ListPrice("A100-80G-PCIe", at, Decimal(2), "USD", "test")])
        await conn.execute(tables.vms.update().values(gpu_model="A100-80G-PCIe", gpu_count=1))
        await conn.execute(tables.transitions.insert(), [{**move, "vm_no": vm_no} for vm_no in (1, 2)])
        await conn.execute(tables.assignments.insert(), [step])
    runtime.clock.advance(3600)
    return made


async def test_costs_are_those_of_the_api_drawn_and_as_csv_with_what_ran_off_contract(
    browser: Browser, runtime: Runtime
) -> None:
    made = await ran(browser, runtime, labels=["=team"])
    await browser.sign_in()
    page = await browser.get(f"/cost?by=submission&submission_id={made['submission_id']}")
    assert re.findall(r'<rect class="bar (\w+)" .*?width="([\d.]+)"', page.text) == [
        ("cost", "480.0"),
        ("off", "240.0"),
    ]
    assert re.search(r"in all</dt><dd>4\.00", page.text)
    assert re.search(r'class="bad"><dt>off contract, of it</dt><dd>2\.00', page.text)
    named = re.search(r"GET (/v1/cost\S*)</code>", page.text)[1].replace("&amp;", "&")
    (row,) = (await browser.api("GET", named))["items"]
    assert (row["estimate"], row["off_contract_estimate"]) == ("4.000000", "2.000000")
    for by in ("contract", "flavor", "day", "region", "caller"):
        assert "4.00" in (await browser.get(f"/cost?by={by}")).text
    rows = list(csv.DictReader(io.StringIO((await browser.get("/cost?by=label&format=csv")).text)))
    assert [(one["label"], one["estimate"], one["currency"]) for one in rows] == [("'=team", "4.000000", "USD")]


async def test_the_first_page_says_what_running_off_contract_costs_per_hour(browser: Browser, runtime: Runtime) -> None:
    await ran(browser, runtime)
    now = runtime.clock.now()
    running = tables.vms.update().values(state="ACTIVE", next_refresh_at=now)
    async with begin(runtime.engine) as conn:
        await conn.execute(running)
        await conn.execute(running.values(on_demand_since=now).where(tables.vms.c.vm_no == 1))
    page = await browser.sign_in()
    assert re.search(r'class="bad"><dt>off contract</dt><dd>1 <small>2\.00 USD per hour</small>', page.text)
    async with begin(runtime.engine) as conn:  # it was replaced, and still costs
        await conn.execute(tables.vms.update().values(member=False).where(tables.vms.c.vm_no == 1))
    page = await browser.get("/")
    assert re.search(r'class="bad"><dt>off contract</dt><dd>0 <small>2\.00 USD per hour</small>', page.text)


async def test_pages_of_a_large_record_count_if_the_sample_is_of_another_time_or_shape(
    browser: Browser, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.queries.fleet_samples.FEW", 0)
    await browser.api("POST", "/v1/submissions", body(count=3))
    await sample.run_once(runtime)
    await browser.sign_in()
    sampled = runtime.clock.now()
    assert "Counted at" in (await browser.get("/")).text
    runtime.clock.advance(3600)  # nobody samples
    await sample.run_once(runtime)
    moments = [f"/audit?time={sampled + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}" for minutes in (5, 30)]
    shown = [(await browser.get(path)).text for path in moments]
    assert [f'Counted at <time datetime="{sampled:%Y-%m-%dT%H:%M:%SZ}"' in text for text in shown] == [True, False]
    async with begin(runtime.engine) as conn:
        await conn.execute(tables.fleet_samples.update().values(numbers={"of": "another version"}))
    pages = [await browser.get(path) for path in ("/", "/audit", *moments)]
    assert [(page.status, "Counted at" in page.text) for page in pages] == [(200, False)] * 4, "counted exactly"


async def test_a_lifetime_is_extended_after_the_new_end_is_shown_and_twice_is_once(
    browser: Browser, runtime: Runtime
) -> None:
    made = await browser.api("POST", "/v1/submissions", body(policy={"expires_at": "2026-03-04T12:00:00Z"}))
    await browser.sign_in()
    one = f"/submissions/{made['submission_id']}"
    page = await browser.get(f"{one}/extend?by=2h")
    assert "2026-03-04 14:00:00" in page.text
    fields = {"csrf": page.csrf, "expires_at": "2026-03-04T14:00:00Z"}
    assert (await browser.post(f"{one}/extend", {**fields, "csrf": "0" * 32})).status == 403
    for _ in range(2):
        assert (await browser.post(f"{one}/extend", fields)).url == one
        shown = await browser.api("GET", f"/v1{one}")
        assert shown["expires_at"] == "2026-03-04T14:00:00Z"
    assert ("change", "tests") in {(action["kind"], action["caller"]) for action in shown["actions"]}
    assert (await browser.get(f"{one}/extend?by=soon")).status == 422
    assert (await browser.get(f"{one}/extend?by=9999999d")).status == 422


async def test_a_lifetime_that_has_not_begun_is_extended_and_what_is_kept_for_ever_is_not(browser: Browser) -> None:
    made = await browser.api("POST", "/v1/submissions", body(policy={"lifetime": "2d"}))
    await browser.sign_in()
    one = f"/submissions/{made['submission_id']}"
    page = await browser.get(f"{one}/extend?by=1d")
    assert "3 d after the submission is ready" in page.text
    value = re.search(r'name="lifetime" value="([^"]+)"', page.text)[1]
    await browser.post(f"{one}/extend", {"csrf": page.csrf, "lifetime": value})
    assert (await browser.api("GET", f"/v1{one}"))["policy"]["lifetime"] == 3 * 86_400
    kept = await browser.api("POST", "/v1/submissions", body())
    assert "extend" not in (await browser.get(f"/submissions/{kept['submission_id']}")).text
    assert (
        "<form method"
        not in (await browser.get(f"/submissions/{kept['submission_id']}/extend?by=1d")).text.split("<main")[1]
    )


async def test_a_token_is_created_shown_once_and_revoked_by_forms_of_this_session_only(
    browser: Browser, runtime: Runtime
) -> None:
    await browser.sign_in()
    page = await browser.get("/tokens")
    fields = {"name": "ci", "role": "submit", "lifetime": "90d", "max_vms": "40", "max_gpus": "", "csrf": page.csrf}
    assert (await browser.post("/tokens", {**fields, "csrf": "0" * 32})).status == 403
    made = await browser.post("/tokens", fields)
    (token,) = re.findall(r"rollcall_\w+", made.text.split("<pre")[1].split("</pre>")[0])
    assert made.headers["Cache-Control"] == "no-store"
    listed = await browser.get("/tokens")
    assert token not in listed.text
    assert "0 of 40" in listed.text
    assert (await browser.post("/tokens", fields)).status == 422  # as when the page is loaded again
    wrong = await browser.post("/tokens", {**fields, "name": "<b>", "role": "x", "max_vms": "many", "max_gpus": "0"})
    assert wrong.status == 422
    assert all(field in wrong.text for field in ("name:", "role:", "max_vms:", "max_gpus:"))
    asks = await browser.get("/tokens/ci/revoke")
    assert (await browser.post("/tokens/ci/revoke", {})).status == 403
    assert (await browser.post("/tokens/ci/revoke", {"csrf": asks.csrf})).url == "/tokens"
    assert [one["name"] for one in (await browser.api("GET", "/v1/tokens"))["items"]] == ["tests"]
    assert "Revoke …" not in (await browser.get("/tokens?format=csv&ended=true")).text


async def test_tokens_are_the_administrators_and_an_auditor_may_look(runtime: Runtime) -> None:
    async with browsing(runtime) as browser:
        for role, status, forms in (
            ("read", 403, False),
            ("submit", 403, False),
            ("audit", 200, False),
            ("admin", 200, True),
        ):
            token = await tokens.created(runtime, role, Role(role))
            browser.client.session.cookie_jar.clear()
            page = await browser.sign_in(token)
            assert ('href="/tokens"' in page.text) == (status == 200)
            page = await browser.get("/tokens")
            assert (page.status, "/revoke" in page.text, 'action="/tokens"' in page.text) == (status, forms, forms)
