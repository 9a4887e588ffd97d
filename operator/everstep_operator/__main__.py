"""`python -m everstep_operator`: run the operator. `… crd`: print the
CustomResourceDefinition. `… check`: ask the API server whether all permissions are there.
"""

import asyncio
import json
import logging
import signal
import sys
from datetime import UTC, datetime
from typing import Any

from everstep_operator.settings import Settings, from_environment

log = logging.getLogger("everstep.operator")


def main(arguments: list[str]) -> int:
    match arguments:
        case []:
            settings = from_environment()
            _logging(settings)
            return asyncio.run(_run(settings))
        case ["crd"]:
            sys.stdout.write(crd_text())
            return 0
        case ["check"]:
            return asyncio.run(_check(from_environment()))
        case _:
            sys.stderr.write("usage: python -m everstep_operator [crd | check]\n")
            return 2


def crd_text() -> str:
    import yaml  # noqa: PLC0415 - only this command needs it

    from everstep_operator.crd import definition  # noqa: PLC0415

    plain = json.loads(json.dumps(definition()))  # without shared parts, which become anchors
    text: str = yaml.safe_dump(plain, sort_keys=False, width=100)
    return text


async def _check(settings: Settings) -> int:
    from everstep_operator.check import problems  # noqa: PLC0415
    from everstep_operator.kube import Kube, connect  # noqa: PLC0415

    kube = Kube(await connect())
    try:
        found = await problems(kube, settings)
    finally:
        await kube.close()
    sys.stdout.write("\n".join(found or ["all that the operator needs is there"]) + "\n")
    return 1 if found else 0


async def _run(settings: Settings) -> int:
    from everstep_operator.health import Health  # noqa: PLC0415
    from everstep_operator.kube import Kube, connect  # noqa: PLC0415
    from everstep_operator.lease import Lease  # noqa: PLC0415
    from everstep_operator.reconcile import Reconciler  # noqa: PLC0415

    kube = Kube(await connect())
    lease = Lease(Kube(kube.client), settings.namespace, settings.identity)
    reconciler = Reconciler(settings, kube)
    health = Health(reconciler, lease, settings.port)
    await health.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        if settings.leader_election and not await _first(stop.wait(), lease.acquire()):
            return 0
        health.acting = True
        return await _act(settings, reconciler, lease, stop)
    finally:
        await lease.release()
        await health.stop()
        await kube.close()


async def _act(settings: Settings, reconciler: Any, lease: Any, stop: asyncio.Event) -> int:
    """Handle objects until told to stop (0) or until a part of it ends by itself (1)."""
    from everstep_operator.watch import watch  # noqa: PLC0415

    parts = [
        asyncio.create_task(stop.wait(), name="stop"),
        asyncio.create_task(reconciler.run(), name="loop"),
        asyncio.create_task(watch(reconciler, settings), name="watch"),
    ]
    if settings.leader_election:
        parts.append(asyncio.create_task(lease.keep(), name="lease"))
    done, open_parts = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    for task in open_parts:
        task.cancel()
    await asyncio.gather(*open_parts, return_exceptions=True)
    broken = [task for task in done if task.exception() is not None]
    for task in broken:
        log.error("%s ended: %s", task.get_name(), task.exception())
    return 1 if broken else 0


async def _first(stopped: Any, wanted: Any) -> bool:
    """Whether `wanted` came before the signal to stop."""
    stopping, wanting = asyncio.ensure_future(stopped), asyncio.ensure_future(wanted)
    await asyncio.wait([stopping, wanting], return_when=asyncio.FIRST_COMPLETED)
    won = bool(wanting.done())
    for task in (stopping, wanting):
        task.cancel()
    await asyncio.gather(stopping, wanting, return_exceptions=True)
    return won


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said)


def _logging(settings: Settings) -> None:
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(_Json() if settings.log_format == "json" else plain)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # A database that is away is told in the status; the pool would repeat it every second.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
