"""What one look cannot show: lost pods, foreign hands, another database, dead watches."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from unit.operator.worlds import NOW, app, known

from everstep_operator import names
from everstep_operator.database import Databases
from everstep_operator.observe import Memory, Observer, deployment, ours
from everstep_operator.observed import Known, Unknown, Unmigrated, Worker
from everstep_operator.trust import trusted

KEY = "shop/orders"


def observer() -> Observer:
    return Observer(kube=None, databases=Databases(), memory=Memory())  # type: ignore[arg-type]


def pods(*running: str, ended: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    labels = {names.LABEL_COMPONENT: "worker"}
    return [
        {"metadata": {"name": name, "labels": labels}, "status": {"phase": phase}}
        for phase, group in (("Running", running), ("Failed", ended))
        for name in group
    ]


def alive(*pods: str) -> Known:
    return known("v2", workers=tuple(Worker(pod, "v2", "live") for pod in pods))


def test_a_pod_that_was_seen_and_is_not_there_is_gone() -> None:
    looking = observer()
    assert looking._gone(KEY, pods("a", "b"), alive("a", "b")) == frozenset()
    assert looking._gone(KEY, pods("b"), alive("a", "b")) == {"a"}
    assert looking._gone(KEY, pods("b"), alive("a", "b")) == {"a"}, "until SQL knows"
    assert looking._gone(KEY, pods("b"), alive("b")) == frozenset()
    assert looking.memory.pods[KEY] == {"b"}


def test_a_pod_that_failed_is_gone_though_its_object_is_there() -> None:
    assert observer()._gone(KEY, pods("b", ended=("a",)), alive("a", "b")) == {"a"}


def test_a_worker_outside_kubernetes_is_not_ours_to_declare() -> None:
    assert observer()._gone(KEY, pods("a"), alive("a", "somebodys-laptop")) == frozenset()


def test_a_lost_pod_is_remembered_while_the_database_is_unknown() -> None:
    looking = observer()
    looking._gone(KEY, pods("a"), alive("a"))
    looking._gone(KEY, pods(), Unknown("Unreachable", ""))
    assert looking._gone(KEY, pods(), alive("a")) == {"a"}


def body(generation: int = 4, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "orders-v2-1",
            "uid": "d-1",
            "generation": generation,
            "annotations": {names.ANNOTATION_VERSION: "v2"},
        },
        "spec": {"replicas": 3},
        "status": {"observedGeneration": 4, **status},
    }


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({"replicas": 3, "updatedReplicas": 3, "readyReplicas": 3}, 3),
        ({"replicas": 4, "updatedReplicas": 1, "readyReplicas": 3}, 0),
        ({"replicas": 3, "updatedReplicas": 3, "readyReplicas": 2}, 2),
        ({"observedGeneration": 3, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3}, 0),
    ],
    ids=["settled", "old pods are left", "one not ready", "not seen yet"],
)
def test_only_pods_of_the_newest_template_count_as_ready(
    status: dict[str, int], ready: int
) -> None:
    assert deployment(body(**status)).ready == ready


def test_a_deployment_seen_first_is_trusted_if_only_we_wrote_it() -> None:
    def managed(*managers: str) -> dict[str, Any]:
        made = body()
        made["metadata"]["managedFields"] = [
            {"manager": name, "fieldsV1": {"f:spec": {}}} for name in managers
        ] + [{"manager": "kcm", "subresource": "status", "fieldsV1": {"f:status": {}}}]
        return made

    assert observer()._deployment(managed(names.MANAGER)).settled
    assert not observer()._deployment(managed(names.MANAGER, "kubectl-edit")).settled


def test_a_deployment_that_moved_since_our_write_is_not_settled() -> None:
    looking = observer()
    looking.memory.generations["d-1"] = 4
    assert looking._deployment(body(4)).settled
    assert not looking._deployment(body(5)).settled


def test_another_database_is_unknown_until_somebody_accepts_it() -> None:
    of = app(status={"database": {"systemIdentifier": "6999"}})
    found = trusted(of, known("v2"))
    assert isinstance(found, Unknown)
    assert found.reason == "IdentityChanged"
    assert f"{names.ANNOTATION_ACCEPT_DATABASE}=7000" in found.message
    accepted = replace(of, annotations={names.ANNOTATION_ACCEPT_DATABASE: "7000"})
    assert trusted(accepted, known("v2")) == known("v2")


def test_a_database_that_lost_its_tables_is_unknown_until_somebody_accepts_it() -> None:
    """A Secret that names another database of the same server is just as empty."""
    of = app(status={"database": {"systemIdentifier": "7000"}, "currentVersion": "v1"})
    found = trusted(of, Unmigrated())
    assert isinstance(found, Unknown)
    assert found.reason == "IdentityChanged"
    assert f"{names.ANNOTATION_ACCEPT_DATABASE}=empty" in found.message
    accepted = replace(of, annotations={names.ANNOTATION_ACCEPT_DATABASE: "empty"})
    assert trusted(accepted, Unmigrated()) == Unmigrated()
    assert trusted(app(), Unmigrated()) == Unmigrated(), "before the first migration"
    mended = app(status={"database": {"systemIdentifier": "7000"}})
    assert trusted(mended, Unmigrated()) == Unmigrated(), "before the first promotion"


@pytest.mark.parametrize(
    ("owners", "mine"),
    [
        ([{"uid": "u-1", "controller": True}], True),
        ([{"uid": "u-0", "controller": True}], False),
        ([{"uid": "u-0"}], True),
        ([], True),
    ],
    ids=["ours", "of a DurableApp that was deleted", "no controller", "left as an orphan"],
)
def test_only_what_no_other_controller_has_is_ours(
    owners: list[dict[str, Any]], mine: bool
) -> None:
    assert ours(app(), {"name": "x", "ownerReferences": owners}) is mine


def test_of_two_apps_on_one_schema_the_older_one_goes_on() -> None:
    """A copied manifest with another name: both would promote over each other for ever."""
    databases, url = Databases(), "postgresql://db/shop"
    assert databases.claim("shop/copy", url, "everstep", NOW) is None
    assert databases.claim("shop/orders", url, "everstep", NOW - timedelta(days=1)) is None
    assert databases.claim("shop/copy", url, "everstep", NOW) == "shop/orders"
    assert databases.claim("shop/copy", url, "of_its_own", NOW) is None
    assert databases.claim("shop/copy", "postgresql://db/other", "everstep", NOW) is None


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("postgresql://db/shop", True),
        ("postgres://reports:other@DB/shop?sslmode=require", True),
        ("host=db dbname=shop user=reports connect_timeout=3", True),
        ("postgresql://reports@db:5432/shop", True),
        ("postgresql://db:5433/shop", False),
        ("postgresql://db2/shop", False),
        ("postgresql://db/shop2", False),
        ("postgresql://shop@db", True),
        ("service=shop dbname=shop host=db", False),
        ("nothing that leads anywhere", False),
    ],
)
def test_an_app_on_the_same_schema_is_seen_however_its_address_is_written(
    url: str, same: bool
) -> None:
    databases = Databases()
    databases.claim("shop/orders", "postgresql://orders:secret@db/shop", "everstep", NOW)
    later = databases.claim("shop/copy", url, "everstep", NOW + timedelta(days=1))
    assert later == ("shop/orders" if same else None)


def test_several_servers_in_one_address_have_a_port_each() -> None:
    databases = Databases()
    databases.claim("shop/orders", "postgresql://a,b/shop", "everstep", NOW)
    later = NOW + timedelta(days=1)
    alike, other = "postgresql://me@a:5432,b:5432/shop", "postgresql://a:5432,b:5433/shop"
    assert databases.claim("shop/copy", alike, "everstep", later) == "shop/orders"
    assert databases.claim("shop/copy", other, "everstep", later) is None


async def test_a_schema_is_free_again_when_its_app_is_gone() -> None:
    databases, url = Databases(), "postgresql://db/shop"
    databases.claim("shop/orders", url, "everstep", NOW - timedelta(days=1))
    assert databases.claim("shop/copy", url, "everstep", NOW) == "shop/orders"
    await databases.forget("shop/orders")
    assert databases.claim("shop/copy", url, "everstep", NOW) is None


def test_events_are_counted_and_the_oldest_forgotten() -> None:
    memory = Memory()
    assert [memory.count("first") for _ in range(3)] == [1, 2, 3]
    for number in range(2000):
        memory.count(str(number))
    assert len(memory.events) == 1000
    assert memory.count("first") == 1
