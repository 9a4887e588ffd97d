"""What the end-to-end tests share: one cluster, one operator, one Postgres, one Prometheus."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import diagnosis
from e2e.kube import Cluster, load_images
from e2e.kube import cluster as running_cluster
from e2e.servers import Postgres, Prometheus
from e2e.servers import postgres as running_postgres
from e2e.servers import prometheus as running_prometheus
from e2e.shop import Shop, install
from e2e.shop import shop as new_shop

OPERATOR = "everstep"
CHART = Path(__file__).parents[2] / "charts/everstep"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        load_images()
        yield found


@pytest.fixture(scope="session")
def postgres(cluster: Cluster) -> Iterator[Postgres]:
    with running_postgres(cluster.host) as server:
        yield server


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> Iterator[str]:
    """The chart installed for the whole cluster; the name of its namespace."""
    cluster.helm(
        *("upgrade", "--install", OPERATOR, str(CHART), "-n", OPERATOR, "--create-namespace"),
        *("--set", "image.tag=dev,image.pullPolicy=Never,clusterWide=true,logging.level=DEBUG"),
        *("--wait", "--timeout", "120s"),
    )
    yield OPERATOR
    cluster.helm("uninstall", OPERATOR, "-n", OPERATOR, "--wait")
    cluster.kubectl("delete", "namespace", OPERATOR, "--wait=true")
    cluster.kubectl("delete", "crd", "durableapps.everstep.dev", "--ignore-not-found")


@pytest.fixture(scope="session")
def prometheus(cluster: Cluster) -> Iterator[Prometheus]:
    with running_prometheus(cluster) as server:
        yield server


@pytest.fixture
def new_namespace(
    cluster: Cluster, postgres: Postgres, operator: str, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    """A namespace with a database and a Secret, and no DurableApp yet."""
    name = request.node.name.removeprefix("test_").split("[")[0].replace("_", "-")[:30].strip("-")
    with new_shop(cluster, postgres, name) as shop:
        yield shop


@pytest.fixture(scope="module")
def shop(
    cluster: Cluster, postgres: Postgres, prometheus: Prometheus, operator: str
) -> Iterator[Shop]:
    """The example as its manifest has it, Ready, shared by the tests of a module."""
    with new_shop(cluster, postgres, "shop") as shop:
        install(shop)
        yield shop


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    """A failed test shows what the cluster looked like."""
    report = yield
    if report.failed and (found := getattr(item, "funcargs", {}).get("cluster")):
        report.sections.append(("cluster", diagnosis.of(found)))
    return report
