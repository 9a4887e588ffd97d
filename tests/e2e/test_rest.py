"""An operator with nothing to do writes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from e2e.kube import Cluster
from e2e.servers import Prometheus
from e2e.shop import Shop, install
from e2e.waiting import eventually

_RESYNCS = 100
_HANDLED = 'sum(everstep_operator_reconciles_total{namespace="everstep"})'
_HANDLED_BEFORE = 'sum(everstep_operator_reconciles_total{namespace="everstep"} offset 5s)'


def test_a_hundred_resyncs_of_an_unchanged_object_write_nothing(
    new_namespace: Shop, prometheus: Prometheus, cluster: Cluster
) -> None:
    if cluster.audit is None:
        pytest.skip("the API server's audit log is elsewhere")
    shop = new_namespace
    install(shop)
    shop.wait_for("Reconciling", "False")
    eventually(lambda: prometheus.value(_HANDLED), what="Prometheus sees the operator")
    before = settled(prometheus)
    started_at = cluster.audit.stat().st_size
    version = shop.app()["metadata"]["resourceVersion"]

    # Any event of an owned object makes the operator look at everything again.
    pod = shop.pods()[0]
    for number in range(_RESYNCS):
        shop.kubectl("annotate", "pod", pod, f"example.com/look={number}", "--overwrite")
    eventually(
        lambda: prometheus.value(_HANDLED) or 0,
        lambda handled: handled >= before + _RESYNCS,
        within=60,
        what=f"{_RESYNCS} resyncs after {before:g}",
    )
    assert writes_of_operator(cluster.audit, started_at) == []
    assert writes_of_operator(cluster.audit, 0), "the audit log would have shown them"
    assert shop.app()["metadata"]["resourceVersion"] == version


def settled(prometheus: Prometheus) -> float:
    """The number of resyncs, once it stood still for five seconds."""
    still = f"{_HANDLED} and ({_HANDLED} == {_HANDLED_BEFORE})"
    seen = eventually(
        lambda: prometheus.value(still), lambda n: n is not None, within=90, what="quiet"
    )
    assert seen is not None
    return seen


def writes_of_operator(audit: Path, offset: int) -> list[str]:
    """Write requests of the operator's account since `offset`; a Lease is renewed by time, not
    by a resync, and is not counted."""
    with audit.open("rb") as log:
        log.seek(offset)
        entries: list[dict[str, Any]] = [json.loads(line) for line in log]
    return [
        f"{entry['verb']} {entry['requestURI']}"
        for entry in entries
        if entry["user"]["username"] == "system:serviceaccount:everstep:everstep"
        and entry.get("objectRef", {}).get("resource") != "leases"
    ]
