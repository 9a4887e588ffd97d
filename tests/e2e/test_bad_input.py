"""Mistakes of the user: each a clear message, and mended by mending the mistake."""

from typing import Any

import pytest
import yaml
from e2e.kube import CommandFailedError
from e2e.shop import IMAGES, Shop, durable_app, install, secret, worker_template


def test_missing_secret_is_named_and_awaited(new_namespace: Shop) -> None:
    shop = new_namespace
    shop.kubectl("delete", "secret", "orders-db")
    shop.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(durable_app()))
    condition = shop.wait_for("DatabaseReachable", "False", reason="SecretMissing")
    assert "orders-db" in condition["message"], condition
    assert shop.condition("Ready")["status"] == "False"

    shop.cluster.apply(secret(shop))
    shop.kubectl("wait", "dapp/orders", "--for=condition=Ready", "--timeout=150s")


def test_missing_image_is_named(new_namespace: Shop) -> None:
    shop = new_namespace
    body = yaml.safe_dump(durable_app(template=worker_template("v99")))
    shop.kubectl("apply", "-f", "-", stdin=body)
    condition = shop.wait_for("SchemaMigrated", "False", reason="MigrationPodFailing")
    assert f"{IMAGES}:v99" in condition["message"], condition
    assert "Never" in condition["message"], condition

    install(shop, template=worker_template("v1"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replicas": -1}, "spec.replicas"),
        ({"replicas": "many"}, "spec.replicas"),
        ({"database": {}}, "spec.database.urlFrom"),
        ({"version": "not a version"}, "spec.version"),
        ({"drain": {"scaleDownDelay": "soon"}}, "spec.drain.scaleDownDelay"),
        (
            {"template": {"spec": {"containers": [{"name": "main", "image": "x"}]}}},
            "needs a container named 'worker' with an image",
        ),
        (
            {"template": {**worker_template("v1"), "metadata": {"labels": {"everstep.dev/a": ""}}}},
            "may not use the prefix everstep.dev/",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_invalid_field_is_refused_by_the_api_server(
    new_namespace: Shop, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CommandFailedError) as refused:
        new_namespace.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(durable_app(**change)))
    assert message in str(refused.value)


def test_field_nobody_knows_is_refused_by_kubectl(new_namespace: Shop) -> None:
    with pytest.raises(CommandFailedError, match="unknown field"):
        new_namespace.kubectl(
            "apply", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(durable_app(replica=2))
        )
