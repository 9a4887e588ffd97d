"""Watching: every kopf decorator of the operator. Events wake the loop; they decide nothing.

Only `on.event` is used: no finalizers, no annotations, no daemons. What an event says is read
again from the API when its object's turn comes, so a lost or doubled event changes nothing.
"""

from typing import Any, cast

import kopf

from everstep_operator import names
from everstep_operator.reconcile import Reconciler
from everstep_operator.settings import Settings

_OWNED = (("apps", "v1", "deployments"), ("batch", "v1", "jobs"), ("", "v1", "pods"))


def registry(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """The handlers of one operator, bound to its loop."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> Any:
        # By the address in the environment, as every client does: kopf's own reader of the service
        # account asks for `kubernetes.default.svc`, and would fail while the cluster's DNS does.
        return kopf.login_via_client(**kwargs)

    @kopf.on.event(names.GROUP, names.API_VERSION, names.PLURAL, registry=handlers)
    async def app_changed(event: Any, meta: Any, **_: Any) -> None:
        key = f"{meta['namespace']}/{meta['name']}"
        if event["type"] == "DELETED":
            reconciler.freshness.forget(key)
        else:
            reconciler.freshness.seen(key, meta["resourceVersion"])
        reconciler.wake(meta["namespace"], meta["name"])

    for group, version, plural in _OWNED:
        _watch_owned(handlers, reconciler, group, version, plural)
    return handlers


def _watch_owned(
    handlers: kopf.OperatorRegistry, reconciler: Reconciler, group: str, version: str, plural: str
) -> None:
    @kopf.on.event(
        group,
        version,
        plural,
        registry=handlers,
        id=f"{plural}_changed",
        labels={names.LABEL_APP: kopf.PRESENT},
    )
    async def owned_changed(meta: Any, **_: Any) -> None:
        reconciler.wake(meta["namespace"], meta["labels"][names.LABEL_APP])


def configuration() -> kopf.OperatorSettings:
    """A kopf that watches and does nothing else."""
    config = kopf.OperatorSettings()
    config.posting.enabled = False
    config.peering.standalone = True
    # The operator may list neither namespaces nor CRDs: it watches the namespaces it was given or
    # the whole cluster, and its CRD is there before it is.
    config.scanning.disabled = True
    for _, _, plural in _OWNED:
        config.watching.label_selectors[plural] = names.LABEL_APP
    return config


async def watch(reconciler: Reconciler, settings: Settings) -> None:
    """Until a signal or cancellation."""
    await kopf.operator(
        registry=registry(reconciler),
        settings=configuration(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        # Else kopf asks for the user's name, and a container's user has none.
        identity=cast("Any", settings.identity),
    )
