"""Small worlds for the operator's tests: a DurableApp, what is observed, and how they differ."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from everstep_operator import names
from everstep_operator.build.deployment import applied_hash, deployment
from everstep_operator.build.job import job_name
from everstep_operator.observed import (
    Database,
    Deployment,
    Job,
    JobState,
    Known,
    Observed,
    Revision,
    Routing,
    State,
    Version,
)
from everstep_operator.resource import DurableApp, parse

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def body(image: str = "localhost/orders:v2", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "everstep.dev/v1alpha1",
        "kind": "DurableApp",
        "metadata": {
            "name": "orders",
            "namespace": "shop",
            "uid": "u-1",
            "generation": 7,
            "creationTimestamp": "2026-11-22T11:00:00Z",
        },
        "spec": {
            "replicas": 3,
            "database": {"urlFrom": {"secretKeyRef": {"name": "orders-db", "key": "url"}}},
            "template": {
                "spec": {
                    "containers": [
                        {"name": "worker", "image": image, "args": ["worker", "orders.app:app"]}
                    ]
                }
            },
            **spec,
        },
    }


def app(
    image: str = "localhost/orders:v2", status: dict[str, Any] | None = None, **spec: Any
) -> DurableApp:
    return replace(parse(body(image, **spec)), status=status or {})


def known(
    current: str | None, *versions: Version, age: timedelta = timedelta(hours=1), **more: Any
) -> Known:
    routing = Routing(
        current=current,
        revision=5,
        changed_at=NOW - age,
        database_time=NOW,
        system_identifier="7000",
        engine_schema=1,
    )
    return Known(routing=routing, versions=versions, **more)


def version(name: str, state: State, **more: Any) -> Version:
    return Version(version=name, state=state, **more)


def done_job(of: DurableApp, state: JobState = JobState.COMPLETE) -> Job:
    return Job(name=job_name(of), version=of.version, state=state, created_at=NOW, finished_at=NOW)


def running(of: DurableApp, name: str, replicas: int = 3, **more: Any) -> Deployment:
    """The Deployment of a version, exactly as it should be and ready."""
    wanted = deployment(of, name, of.spec.template, replicas)
    facts: dict[str, Any] = {
        "ready": replicas,
        "available": replicas,
        "present": replicas,
        "created_at": NOW,
        "applied": applied_hash(wanted),
        **more,
    }
    return Deployment(names.deployment(of.name, name), name, replicas, **facts)


def stored(of: DurableApp, name: str, number: int = 1) -> Revision:
    template = of.spec.template
    return Revision(names.revision(of.name, name, template), name, number, template)


def at_rest(of: DurableApp) -> Observed:
    """`of.version` is current, migrated, and nothing is to be done."""
    return Observed(
        database=known(of.version, version(of.version, State.CURRENT, workers=3)),
        deployments=(running(of, of.version),),
        jobs=(done_job(of),),
        revisions=(stored(of, of.version),),
    )


def rolling(of: DurableApp, database: Database, *deployments: Deployment) -> Observed:
    """`v1` serves and `of.version` is migrated and comes in."""
    return Observed(
        database=database,
        deployments=(running(of, "v1"), *deployments),
        jobs=(done_job(of),),
        revisions=(stored(of, "v1"), stored(of, of.version, 2)),
    )
