"""Alive or not: what a list shows against what the watch delivers, and answers that do not come."""

import asyncio
import time
from typing import Any

import kopf
import pytest
from aiohttp import web

from everstep_operator.freshness import Freshness
from everstep_operator.health import Health
from everstep_operator.reconcile import Reconciler
from everstep_operator.settings import Settings
from everstep_operator.watch import Sessions, configuration

APPS = "watch of /apis/everstep.dev/v1alpha1/namespaces/shop/durableapps"
PODS = "watch of /api/v1/namespaces/shop/pods"


def test_a_watch_behind_a_list_is_dead_after_a_while() -> None:
    fresh = Freshness()
    fresh.seen("a", "1")
    fresh.listed("a", "1", now=0)
    assert fresh.lag(1000) == 0
    fresh.listed("a", "2", now=1000)
    fresh.listed("a", "3", now=1060)
    assert fresh.lag(1100) == 100
    assert fresh.problem(1100, limit=100) is None
    assert fresh.problem(1101, limit=100) == "the watch has been behind the API for 101 s"
    fresh.seen("a", "3")
    assert fresh.lag(1200) == 0


def test_an_object_the_watch_never_delivered_counts_too() -> None:
    fresh = Freshness()
    fresh.listed("a", "1", now=10)
    assert fresh.lag(30) == 20
    fresh.forget("a")
    assert fresh.lag(30) == 0


def test_a_request_without_an_answer_is_a_problem_even_where_there_is_no_object() -> None:
    fresh = Freshness()
    assert fresh.problem(1e9, limit=120) is None
    fresh.expect(APPS, now=0)
    fresh.expect(PODS, now=0)
    fresh.answered(PODS, now=100)
    fresh.answered("list of something else", now=100)
    assert fresh.problem(120, limit=120) is None
    assert fresh.problem(121, limit=120) == f"the API has not answered the {APPS} for 121 s"
    fresh.answered(APPS, now=200)
    assert fresh.silence(201) == (PODS, 101)


def reconciler() -> Reconciler:
    settings = Settings(namespaces=("shop",), resync_seconds=60)
    return Reconciler(settings, kube=None)  # type: ignore[arg-type]


def test_two_silent_resyncs_are_enough_and_a_standby_needs_no_watch() -> None:
    acting = reconciler()
    acting.moved = 121.0
    Sessions(acting).expect()
    for what in list(acting.freshness._answered):
        acting.freshness.expect(what, now=0)
    lease: Any = type("Lease", (), {"moved": 121.0})
    assert configuration(acting.settings).watching.server_timeout == 60
    health = Health(acting, lease, port=0, acting=True)
    assert health.problem(120) is None
    assert "durableapps for 121 s" in str(health.problem(121))
    health.acting = False
    assert health.problem(121) is None


async def test_only_an_answer_of_success_is_one() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({}, status=403 if request.path.endswith("/pods") else 200)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    acting = reconciler()
    sessions = Sessions(acting)
    sessions.expect()
    for what in (APPS, PODS):
        acting.freshness.expect(what, now=0)
    # Some clusters are reached through a proxy that puts a path of its own in front.
    login = kopf.ConnectionInfo(server=f"http://127.0.0.1:{port}/clusters/7", token="t")
    opened = sessions.session(login)
    before = time.monotonic()
    for what in (APPS, PODS):
        path = what.removeprefix("watch of ")
        async with opened.aiohttp_session.get(f"{login.server}{path}?watch=true") as said:
            await said.read()
    assert acting.freshness._answered[APPS] >= before
    assert acting.freshness._answered[PODS] == 0
    await opened.aiohttp_session.close()
    await runner.cleanup()
    await asyncio.sleep(0)


@pytest.mark.parametrize("other", [False, True])
async def test_a_login_that_was_refused_is_known_again_and_another_is_another(other: bool) -> None:
    sessions = Sessions(reconciler())
    first = sessions.session(kopf.ConnectionInfo(server="http://127.0.0.1", token="one"))
    token = "two" if other else "one"
    second = sessions.session(kopf.ConnectionInfo(server="http://127.0.0.1", token=token))
    assert (first != second) is other
    await first.aiohttp_session.close()
    await second.aiohttp_session.close()
