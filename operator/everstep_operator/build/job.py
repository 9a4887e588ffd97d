"""The migration Job: the new image, `everstep migrate`, and a retry policy made of exit codes."""

import posixpath
from typing import Any

from everstep_operator import names
from everstep_operator.build.meta import metadata
from everstep_operator.build.pod import environment, under, with_scratch, worker_template
from everstep_operator.resource import DurableApp

MIGRATION = "migration"
# Exit codes of the contract after which the same call cannot succeed.
_HOPELESS = [2, 4, 5]
_KEPT_OF_CONTAINER = (
    "name",
    "image",
    "imagePullPolicy",
    "envFrom",
    "volumeMounts",
    "workingDir",
    "securityContext",
    "resources",
)


def job_name(app: DurableApp) -> str:
    """The name says what runs: another image, path, command or schema is another Job."""
    return names.migration_job(
        app.name,
        app.worker["image"],
        [*_command(app), *_arguments(app)],
        app.spec.database.schema,
    )


def job(app: DurableApp) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(app, job_name(app), app.version, MIGRATION),
        "spec": {
            "backoffLimit": app.spec.migrations.backoff_limit,
            "activeDeadlineSeconds": app.spec.migrations.deadline_seconds,
            "completions": 1,
            "parallelism": 1,
            "podFailurePolicy": _failure_policy(),
            "template": _template(app),
        },
    }


def _failure_policy() -> dict[str, Any]:
    return {
        "rules": [
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            {
                "action": "FailJob",
                "onExitCodes": {
                    "containerName": names.WORKER,
                    "operator": "In",
                    "values": _HOPELESS,
                },
            },
        ]
    }


def _template(app: DurableApp) -> dict[str, Any]:
    """The worker's pod without what only a worker needs: probes, ports, sidecars."""
    whole = worker_template(app, app.version, app.spec.template)
    spec = {k: v for k, v in whole["spec"].items() if k not in ("containers", "initContainers")}
    spec["containers"] = [_container(app)]
    spec["restartPolicy"] = "Never"
    spec.pop("terminationGracePeriodSeconds", None)
    spec["volumes"] = [v for v in spec.get("volumes") or () if v["name"] != "everstep-tmp"]
    labels = names.labels(app.name, app.version, MIGRATION)
    annotations = {names.ANNOTATION_VERSION: app.version}
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": with_scratch(spec),
    }


def _container(app: DurableApp) -> dict[str, Any]:
    worker = app.worker
    kept = {key: worker[key] for key in _KEPT_OF_CONTAINER if key in worker}
    source = (app.spec.migrations.url_from or app.spec.database.url_from).secret_key_ref
    command = _command(app)
    return under(
        {
            **kept,
            **({"command": command} if command else {}),
            "args": _arguments(app),
            "env": environment(app, app.version, source, worker),
            "terminationMessagePolicy": "FallbackToLogsOnError",
        },
        {
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        },
    )


def _command(app: DurableApp) -> list[str]:
    """The image's ENTRYPOINT is `everstep`; a template that replaced it named it again."""
    command = app.worker.get("command")
    if not command:
        return []
    return [command[0]] if posixpath.basename(command[0]) == "everstep" else ["everstep"]


def _arguments(app: DurableApp) -> list[str]:
    path = app.spec.migrations.path
    return ["migrate", "--files", path] if path else ["migrate"]
