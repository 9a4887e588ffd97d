"""The example as its manifest has it: a thousand orders, scaling, a worker that dies, metrics."""

from e2e.servers import Prometheus
from e2e.shop import Shop
from e2e.waiting import eventually


def test_a_thousand_orders_are_charged_booked_and_shipped_once(shop: Shop) -> None:
    shop.start("thousand", 1000)
    shop.wait_finished("thousand", 1000, within=240)
    assert charged_per_order(shop, "thousand") == {1: 1000}
    assert executions(shop, "thousand") == {1: 1000}


def test_kubectl_scale_changes_the_workers_and_repeats_nothing(shop: Shop) -> None:
    for replicas, prefix in ((1, "one"), (3, "three"), (1, "one-again")):
        shop.start(prefix, 200)
        shop.kubectl("scale", "dapp/orders", f"--replicas={replicas}")
        eventually(
            lambda: (len(shop.pods()), shop.app()["status"].get("readyReplicas"), live(shop)),
            lambda seen, n=replicas: seen == (n, n, n),
            within=120,
            what=f"{replicas} pods run, are ready in the status, and live in SQL",
        )
        shop.wait_finished(prefix, 200, within=120)
        # A worker that leaves lets its steps finish and gives its workflows back.
        assert executions(shop, prefix) == {1: 200}
        assert charged_per_order(shop, prefix) == {1: 200}


def test_workflows_of_a_force_deleted_worker_finish_elsewhere(shop: Shop) -> None:
    shop.kubectl("scale", "dapp/orders", "--replicas=2")
    eventually(lambda: live(shop), lambda n: n == 2, within=120, what="two workers")
    victim = shop.pods()[0]
    shop.start("killed", 600)
    held = eventually(
        lambda: held_by(shop, victim), lambda ids: len(ids) >= 20, what=f"20 workflows on {victim}"
    )
    shop.kubectl("delete", "pod", victim, "--force", "--grace-period=0", "--wait=false")
    shop.wait_finished("killed", 600, within=180)

    rescued = shop.sql(
        "SELECT w.id FROM everstep.workflow w JOIN everstep.worker k ON k.id = w.finished_by "
        "WHERE w.id = ANY(%s) AND k.pod <> %s",
        held,
        victim,
    )
    assert rescued, "the victim finished all it held: it was not killed in the middle"
    # None lost; charged twice is only what the victim had charged and not recorded.
    charged = charged_per_order(shop, "killed")
    assert sum(charged.values()) == 600
    assert set(charged) <= {1, 2}, charged
    again = shop.sql(
        "SELECT order_id, array_agg(pod ORDER BY n) AS pods FROM ledger.charge_attempt "
        "WHERE outcome = 'charged' AND order_id LIKE 'killed-%%' GROUP BY 1 HAVING count(*) > 1"
    )
    # It may have claimed more between the look and its death, but never more at once than its concurrency.
    assert len(again) <= 200
    assert all(row["pods"][0] == victim != row["pods"][1] for row in again), again
    # A step that was recorded never ran again: what ran twice has one checkpoint.
    assert (
        shop.number(
            "SELECT count(*) FROM (SELECT FROM everstep.steps WHERE workflow_id LIKE 'killed-%%' "
            "GROUP BY workflow_id, branch, seq HAVING count(*) > 1) twice"
        )
        == 0
    )


def test_promql_totals_equal_sql_counts(shop: Shop, prometheus: Prometheus) -> None:
    shop.start("counted", 50)
    shop.wait_finished("counted", 50, within=120)
    where = f'namespace="{shop.namespace}"'
    for promql, sql in (
        (
            f"sum(everstep_workflows_started_total{{{where}}})",
            "SELECT count(*) FROM everstep.workflows",
        ),
        (
            f'sum(everstep_workflows_finished_total{{{where}, outcome="succeeded"}})',
            "SELECT count(*) FROM everstep.workflows WHERE status = 'succeeded'",
        ),
        (
            f"sum(everstep_workflow_duration_seconds_count{{{where}}})",
            "SELECT count(*) FROM everstep.workflows WHERE finished_at IS NOT NULL",
        ),
    ):
        wanted = shop.number(sql)
        eventually(
            lambda promql=promql: prometheus.value(promql),
            lambda seen, wanted=wanted: seen == wanted,
            within=60,
            what=f"{promql} is {wanted}",
        )


def live(shop: Shop) -> int:
    return shop.number(
        "SELECT count(*) FROM everstep.v1_workers WHERE state = 'live' AND lease_until > now()"
    )


def held_by(shop: Shop, pod: str) -> list[str]:
    rows = shop.sql(
        "SELECT r.id FROM everstep.run r JOIN everstep.worker k ON k.id = r.worker_id "
        "WHERE k.pod = %s",
        pod,
    )
    return [row["id"] for row in rows]


def charged_per_order(shop: Shop, prefix: str) -> dict[int, int]:
    """How many orders were charged how often; an order that was not is missing."""
    rows = shop.sql(
        "SELECT times, count(*) AS orders FROM (SELECT count(*) AS times FROM ledger.charge_attempt"
        " WHERE outcome = 'charged' AND order_id LIKE %s GROUP BY order_id) x GROUP BY 1",
        f"{prefix}-%",
    )
    return {row["times"]: row["orders"] for row in rows}


def executions(shop: Shop, prefix: str) -> dict[int, int]:
    """How many bookings were executed how often."""
    rows = shop.sql(
        "SELECT executions, count(*) AS orders FROM orders.booking WHERE order_id LIKE %s "
        "GROUP BY 1",
        f"{prefix}-%",
    )
    return {row["executions"]: row["orders"] for row in rows}
