"""Who may use which route: every route of the API and of the dashboard, with every kind of token."""

import re
from collections.abc import Iterator

import tokens
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from operator_api import serving

from service.api.app import make_app
from service.api.context import ACCESS
from service.api.openapi import document
from service.api.routes import ROUTES
from service.core.api_token import ALLOWED, Role
from service.runtime.runtime import Runtime
from service.web.dashboard import PAGES, add_dashboard

#: Pages that anybody may see.
OPEN = {
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/signin"),
    ("POST", "/signin"),
    ("GET", "/static/{name}"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
}
#: What each role may do, said once more and not taken from the code.
READERS = {Role.READ, Role.SUBMIT, Role.ADMIN, Role.AUDIT}
SUBMITTERS = {Role.SUBMIT, Role.ADMIN}
#: What is neither read by everybody nor changed by whoever may submit.
OTHERS = {
    ("POST", "/v1/events/{event_id}/replay"): {Role.ADMIN},
    ("POST", "/v1/notifications/test"): {Role.ADMIN},
    ("POST", "/v1/notifications/{message_id}/replay"): {Role.ADMIN},
    ("GET", "/v1/export/begin"): {Role.AUDIT, Role.ADMIN},
    ("GET", "/v1/export"): {Role.AUDIT, Role.ADMIN},
    ("GET", "/v1/tokens"): {Role.AUDIT, Role.ADMIN},
    ("POST", "/v1/tokens"): {Role.ADMIN},
    ("POST", "/v1/tokens/{name}/rotate"): {Role.ADMIN},
    ("PATCH", "/v1/tokens/{name}"): {Role.ADMIN},
    ("DELETE", "/v1/tokens/{name}"): {Role.ADMIN},
    ("GET", "/submissions/{id}/cancel"): SUBMITTERS,
    ("GET", "/submissions/{id}/extend"): SUBMITTERS,
    ("GET", "/tokens"): {Role.AUDIT, Role.ADMIN},
    ("POST", "/tokens"): {Role.ADMIN},
    ("GET", "/tokens/{name}/revoke"): {Role.ADMIN},
    ("POST", "/tokens/{name}/revoke"): {Role.ADMIN},
    ("GET", "/vms/{ref}/delete"): SUBMITTERS,
    ("POST", "/events/{event_id}/replay"): {Role.ADMIN},
    ("POST", "/notifications/{message_id}/replay"): {Role.ADMIN},
    ("POST", "/signout"): READERS,
}


def who_may(method: str, path: str) -> set[Role]:
    return OTHERS.get((method, path), READERS if method == "GET" else SUBMITTERS)


def operator_app(runtime: Runtime) -> web.Application:
    app = make_app(runtime, runtime.settings.callers)
    add_dashboard(app)
    return app


def routed(app: web.Application) -> Iterator[tuple[str, str]]:
    """Every route, but for the HEAD that aiohttp adds to each GET."""
    for one in app.router.routes():
        if one.resource is not None and one.method != "HEAD":
            yield one.method, one.resource.canonical


def path_of(route: str) -> str:
    return re.sub(r"{\w+}", "nothing-of-this-name", route)


def test_every_route_says_who_may_use_it_and_what_is_not_declared_is_the_administrators(runtime: Runtime) -> None:
    app = operator_app(runtime)
    assert set(routed(app)) == set(app[ACCESS])
    assert {route for route, access in app[ACCESS].items() if access.role is None} == OPEN
    for route, access in app[ACCESS].items():
        if access.role is not None:
            assert set(ALLOWED[access.role]) == who_may(*route), route


async def test_every_route_refuses_a_token_that_is_missing_wrong_expired_revoked_or_of_too_small_a_role(
    runtime: Runtime,
) -> None:
    ended = await tokens.ended(runtime)
    by_role = await tokens.of_each_role(runtime)
    right = by_role[Role.ADMIN]
    wrong = {
        None: "valid API token",
        "a-wrong-token-of-tests": "valid API token",
        right[:-1]: "not copied whole",
        right[:20] + ("x" if right[20] != "x" else "y") + right[21:]: "not copied whole",
        ended["expired"]: "the token an-old-one expired at 2026-03-02 12:01:00Z",
        ended["revoked"]: "the token a-leaked-one was revoked at 2026-03-02 12:00:00Z",
    }
    async with serving(runtime) as api:
        for route in ROUTES:
            path = path_of(route.path)
            if route.role is None:
                assert (await api.request(route.method, path, token=None)).status == 200
                continue
            for token, why in wrong.items():
                answer = await api.request(route.method, path, token=token)
                assert (answer.status, answer.json["type"]) == (401, "/problems/unauthorized"), (route, token)
                assert why in answer.json["detail"]
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            for role, token in by_role.items():
                if "text/event-stream" in route.streams and role in who_may(route.method, route.path):
                    assert await api.status_of_stream(path, token) == 200  # it has no end
                    continue
                answer = await api.request(route.method, path, token=token)
                if role in who_may(route.method, route.path):
                    assert answer.status not in {401, 403}, (route, role)
                else:
                    assert (answer.status, answer.json["type"]) == (403, "/problems/forbidden"), (route, role)
                    assert f"a-{role}-token has the role {role}" in answer.json["detail"]


async def test_every_page_of_the_dashboard_asks_for_a_session_and_its_role(runtime: Runtime) -> None:
    by_role = await tokens.of_each_role(runtime)
    for role, token in [(None, None), *by_role.items()]:
        server = TestServer(operator_app(runtime))
        async with TestClient(server, cookie_jar=CookieJar(unsafe=True)) as client:
            if token is not None:
                await client.post("/signin", data={"token": token})
            for one in PAGES:
                async with client.request(one.method, path_of(one.path), allow_redirects=False) as answer:
                    text = await answer.text()
                    if role is None:
                        assert (answer.status, answer.headers["Location"][:7]) == (303, "/signin"), one
                    elif role in who_may(one.method, one.path):
                        assert "has the role" not in text, (one, role)
                    else:
                        assert answer.status == 403, (one, role)
                        assert f"a-{role}-token has the role {role}" in text


async def test_a_route_that_nobody_declared_is_the_administrators(runtime: Runtime) -> None:
    async def forgotten(_request: web.Request) -> web.Response:
        return web.Response(text="secret")

    by_role = await tokens.of_each_role(runtime)
    app = operator_app(runtime)
    app.router.add_get("/v1/forgotten", forgotten)
    async with TestClient(TestServer(app)) as client:
        for role, token in by_role.items():
            async with client.get("/v1/forgotten", headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status == (200 if role is Role.ADMIN else 403)


def test_the_document_names_the_roles_of_each_operation() -> None:
    paths = document(ROUTES)["paths"]
    for route in ROUTES:
        operation = paths[route.path][route.method.lower()]
        named = {role for one in operation["security"] for role in one["token"]}
        if route.role is None:
            assert named == set()
        else:
            assert named == who_may(route.method, route.path)
            assert {"401", "403", "429"} <= operation["responses"].keys()
