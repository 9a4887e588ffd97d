"""The chart and the plain manifest say the same, and the cluster accepts both."""

from e2e.kube import TOP, Cluster, run


def test_helm_test_passes(cluster: Cluster, operator: str) -> None:
    assert "Succeeded" in cluster.helm("test", operator, "-n", operator, "--timeout", "60s")


def test_rendered_manifest_is_fresh(cluster: Cluster) -> None:
    run(str(TOP / "scripts/render-chart"), "--check")


def test_rendered_manifest_is_accepted(cluster: Cluster, operator: str) -> None:
    manifest = str(TOP / "manifests/install.yaml")
    cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", manifest)
    )
