"""`python -m everstep_operator check`: may this process do what the operator has to?

Asked of the API server itself, verb by verb; run by `helm test`. The chart's roles grant what
`NEEDED` lists and nothing else: a test compares the two.
"""

from everstep_operator.kube import APPS, Kind, Kube, KubeError
from everstep_operator.settings import Settings

NEEDED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("everstep.dev", "durableapps", ("get", "list", "watch")),
    ("everstep.dev", "durableapps/status", ("patch",)),
    # Not called: Kubernetes asks for it where owner references may block a deletion.
    ("everstep.dev", "durableapps/finalizers", ("update",)),
    ("apps", "deployments", ("list", "watch", "create", "patch", "delete")),
    ("apps", "controllerrevisions", ("list", "create", "delete")),
    ("batch", "jobs", ("list", "watch", "create", "delete")),
    ("", "pods", ("list", "watch")),
    ("", "secrets", ("get",)),
    ("", "events", ("create", "patch")),
)
_REVIEWS = Kind("/apis/authorization.k8s.io/v1", "selfsubjectaccessreviews")


async def problems(kube: Kube, settings: Settings) -> list[str]:
    """One line for each thing that is missing."""
    found: list[str] = []
    for namespace in settings.namespaces or (None,):
        where = f"namespace {namespace}" if namespace else "the cluster"
        try:
            await kube.items(APPS, namespace)
        except KubeError as error:
            found.append(f"DurableApps of {where} cannot be listed: {error}")
        found += [
            f"{verb} {resource} is not allowed in {where}"
            for group, resource, verbs in NEEDED
            for verb in verbs
            if not await _allowed(kube, namespace, group, resource, verb)
        ]
    return found


async def _allowed(kube: Kube, namespace: str | None, group: str, resource: str, verb: str) -> bool:
    plural, _, part = resource.partition("/")
    wanted = {"group": group, "resource": plural, "subresource": part, "verb": verb}
    if namespace:
        wanted["namespace"] = namespace
    answer = await kube.ask(
        _REVIEWS,
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        },
    )
    return bool(answer["status"]["allowed"])
