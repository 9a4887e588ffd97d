"""What the cluster looks like when a test has failed: shown under the failure."""

from e2e.kube import Cluster, CommandFailedError

_KNOWN = "reason!=MissingClusterDNS,reason!=CgroupV1"  # facts of the one-node cluster
_QUESTIONS: tuple[tuple[str, ...], ...] = (
    ("get", "dapp,deployments,jobs,pods", "-A", "-o", "wide"),
    (
        "get",
        "dapp",
        "-A",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}",
    ),
    ("get", "events", "-A", f"--field-selector=type=Warning,{_KNOWN}", "--sort-by=.lastTimestamp"),
    ("logs", "-n", "everstep", "deployment/everstep", "--tail=40"),
)


def of(cluster: Cluster) -> str:
    return "\n\n".join(_answer(cluster, question) for question in _QUESTIONS)


def _answer(cluster: Cluster, question: tuple[str, ...]) -> str:
    try:
        answer = cluster.kubectl(*question, limit=20)
    except (CommandFailedError, OSError) as error:
        answer = str(error)
    return f"$ kubectl {' '.join(question)}\n{answer[-8000:]}"
