"""Watching: every kopf decorator of the operator. Events wake the loop; they decide nothing.

Only `on.event` is used: no finalizers, no annotations, no daemons. What an event says is read
again from the API when its object's turn comes, so a lost or doubled event changes nothing.
"""

import time
from typing import Any, cast

import aiohttp
import kopf

from everstep_operator import names
from everstep_operator.kube import APPS, DEPLOYMENTS, JOBS, PODS
from everstep_operator.reconcile import Reconciler
from everstep_operator.settings import Settings

_OWNED = (("apps", "v1", "deployments"), ("batch", "v1", "jobs"), ("", "v1", "pods"))
_WATCHED = (APPS, DEPLOYMENTS, JOBS, PODS)


class Sessions:
    """kopf's connection to the API, with an ear on it: which watches were answered, and when.

    kopf swallows a watch that cannot be opened and tries again; its handlers hear of objects only.
    """

    def __init__(self, reconciler: Reconciler) -> None:
        self._freshness, namespaces = reconciler.freshness, reconciler.settings.namespaces
        self._paths = [k.path(n) for k in _WATCHED for n in namespaces or (None,)]
        self._last: tuple[kopf.ConnectionInfo, kopf.AiohttpSession] | None = None

    def expect(self) -> None:
        for path in self._paths:
            self._freshness.expect(f"watch of {path}", time.monotonic())

    def session(self, login: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """The same for the same login: kopf has to see that a login it refused comes again."""
        if self._last is None or self._last[0] != login:
            self._last = (
                login,
                kopf.AiohttpSession(
                    server=login.server,
                    default_namespace=login.default_namespace,
                    aiohttp_session=self._open(login),
                ),
            )
        return self._last[1]

    def _open(self, login: kopf.ConnectionInfo) -> aiohttp.ClientSession:
        ear = aiohttp.TraceConfig()
        ear.on_request_end.append(self._answered)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=login.as_ssl_context()),
            headers=login.as_http_headers(),
            proxy=login.proxy_url,
            trust_env=login.trust_env,
            trace_configs=[ear],
        )

    async def _answered(self, _session: Any, _context: Any, end: Any) -> None:
        """A watch has begun, or the list before it: the answer's head is there."""
        if end.response.ok:
            for path in self._paths:
                # The server's address may have a path of its own in front.
                if end.url.path.endswith(path):
                    self._freshness.answered(f"watch of {path}", time.monotonic())


def registry(reconciler: Reconciler, sessions: Sessions) -> kopf.OperatorRegistry:
    """The handlers of one operator, bound to its loop."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**kwargs: Any) -> Any:
        # By the address in the environment, as every client does: kopf's own reader of the service
        # account asks for `kubernetes.default.svc`, and would fail while the cluster's DNS does.
        found = kopf.login_via_client(**kwargs)
        return None if found is None else sessions.session(found)

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


def configuration(settings: Settings) -> kopf.OperatorSettings:
    """A kopf that watches and does nothing else."""
    config = kopf.OperatorSettings()
    config.posting.enabled = False
    config.peering.standalone = True
    # The operator may list neither namespaces nor CRDs: it watches the namespaces it was given or
    # the whole cluster, and its CRD is there before it is.
    config.scanning.disabled = True
    # Each watch is opened anew that often, so that one that is alive shows it.
    config.watching.server_timeout = max(1, int(settings.resync_seconds))
    for _, _, plural in _OWNED:
        config.watching.label_selectors[plural] = names.LABEL_APP
    return config


async def watch(reconciler: Reconciler, settings: Settings) -> None:
    """Until a signal or cancellation."""
    sessions = Sessions(reconciler)
    sessions.expect()
    await kopf.operator(
        registry=registry(reconciler, sessions),
        settings=configuration(settings),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        # Else kopf asks for the user's name, and a container's user has none.
        identity=cast("Any", settings.identity),
    )
