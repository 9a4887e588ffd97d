"""New images: with a migration that works, and with one that fails."""

from collections import Counter

from e2e.shop import IMAGES, Shop, install, worker_template
from e2e.waiting import eventually

_SHORT = {"scaleDownDelay": "2s", "deleteDelay": "15s"}


def test_new_version_with_a_migration_drains_the_old_one(new_namespace: Shop) -> None:
    shop = new_namespace
    packing = worker_template("v1", ORDERS_PACKING_SECONDS="20")
    install(shop, template=packing, drain=_SHORT)
    shop.start("before", 60)
    eventually(
        lambda: statuses(shop, "before"), lambda s: s == {"waiting": 60}, what="all are parked"
    )

    shop.set_image("v2")
    eventually(
        lambda: shop.app()["status"].get("currentVersion"),
        lambda version: version == "v2",
        within=120,
        what="v2 is promoted",
    )
    shop.start("after", 60)
    draining = shop.wait_for("Draining", "True")
    assert "v1" in draining["message"], draining
    assert shop.deployments().get("v1", 0) > 0, "v1 goes on while its workflows are open"

    shop.wait_finished("before", 60, within=120)
    shop.wait_finished("after", 60, within=120)
    eventually(
        lambda: shop.deployments().get("v1", 0),
        lambda replicas: replicas == 0,
        within=150,
        what="v1 is scaled to zero",
    )
    eventually(
        shop.deployments, lambda found: "v1" not in found, within=90, what="v1's Deployment is gone"
    )
    assert shop.pods("v1") == []
    shop.wait_for("Draining", "False")

    assert versions(shop, "before") == {"v1": 60}
    assert versions(shop, "after") == {"v2": 60}
    assert executed_by_two_versions(shop) == 0
    assert shop.sql("SELECT count(gift_note) FROM orders.booking"), "0002 was applied"
    condition = shop.condition("SchemaMigrated")
    assert condition["status"] == "True", condition


def test_failing_migration_leaves_the_old_version_serving(new_namespace: Shop) -> None:
    shop = new_namespace
    install(shop, template=worker_template("v2"))

    shop.set_image("v3")
    failed = shop.wait_for("SchemaMigrated", "False", reason="MigrationFailed")
    for fact in ("0003_status.sql", "statement 2", "42701", 'column "status"'):
        assert fact in failed["message"], failed
    assert shop.condition("Ready")["status"] == "True"
    assert shop.condition("Stalled")["status"] == "True"
    assert shop.app()["status"]["currentVersion"] == "v2"

    shop.start("still", 20)
    shop.wait_finished("still", 20, within=120)
    assert versions(shop, "still") == {"v2": 20}
    assert "v3" not in shop.deployments()

    shop.set_image("v2")
    shop.wait_for("SchemaMigrated", "True")
    shop.wait_for("Stalled", "False")


def test_image_that_no_node_has_changes_nothing_and_can_be_taken_back(new_namespace: Shop) -> None:
    shop = new_namespace
    install(shop, template=worker_template("v1"))
    shop.set_image("v9")
    condition = shop.wait_for("SchemaMigrated", "False", reason="MigrationPodFailing")
    assert f"{IMAGES}:v9" in condition["message"], condition
    shop.set_image("v1")
    shop.wait_for("Reconciling", "False")
    assert shop.condition("Ready")["status"] == "True"
    assert set(shop.deployments()) == {"v1"}


def statuses(shop: Shop, prefix: str) -> dict[str, int]:
    return _counted(shop, "status", prefix)


def versions(shop: Shop, prefix: str) -> dict[str, int]:
    return _counted(shop, "version", prefix)


def _counted(shop: Shop, column: str, prefix: str) -> dict[str, int]:
    rows = shop.sql(
        "SELECT status, version FROM everstep.workflows WHERE id LIKE %s", f"{prefix}-%"
    )
    return dict(Counter(row[column] for row in rows))


def executed_by_two_versions(shop: Shop) -> int:
    """Workflows with checkpoints or charges from more than one version's workers."""
    recorded = shop.number(
        "SELECT count(*) FROM (SELECT FROM everstep.checkpoint c JOIN everstep.worker k"
        " ON k.id = c.worker_id GROUP BY c.workflow_id HAVING count(DISTINCT k.version) > 1) x"
    )
    charged = shop.number(
        "SELECT count(*) FROM (SELECT FROM ledger.charge_attempt GROUP BY order_id"
        " HAVING count(DISTINCT version) > 1) x"
    )
    return recorded + charged
