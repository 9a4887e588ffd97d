"""The schema of a DurableApp's pod template: what of it the API server checks at once.

Pure. Only what the rules and the operator look at is spelled out, so that nothing the operator
reads can have another shape. The rest is checked when the Deployment is applied, by the API
server's own schema of its own version.
"""

from typing import Any

from everstep_operator import names

_ANY = "x-kubernetes-preserve-unknown-fields"


def _objects(*required: str, **properties: Any) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "object", _ANY: True}
    item |= {"required": list(required)} if required else {}
    item |= {"properties": properties} if properties else {}
    return {"type": "array", "nullable": True, "items": item}


_OBJECT: dict[str, Any] = {"type": "object", "nullable": True, _ANY: True}
_NAMED = _objects("name", name={"type": "string"})
_WORDS = {"type": "array", "nullable": True, "items": {"type": "string"}}
_CONTAINER = {
    "type": "object",
    _ANY: True,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 63},
        "image": {"type": "string", "maxLength": 1024},
        "command": _WORDS,
        "args": _WORDS,
        "env": _NAMED,
        "ports": _objects(),
        "volumeMounts": _objects(mountPath={"type": "string"}),
        "securityContext": _OBJECT,
    },
}
_TEXTS = {
    "type": "object",
    "maxProperties": 64,
    "additionalProperties": {"type": "string"},
}
SCHEMA: dict[str, Any] = {
    _ANY: True,
    "required": ["spec"],
    "properties": {
        "metadata": {
            "type": "object",
            _ANY: True,
            "properties": {"labels": _TEXTS, "annotations": _TEXTS},
        },
        "spec": {
            "type": "object",
            _ANY: True,
            "required": ["containers"],
            "properties": {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 32,
                    "items": _CONTAINER,
                },
                "initContainers": {
                    "type": "array",
                    "nullable": True,
                    "maxItems": 32,
                    "items": _CONTAINER,
                },
                "volumes": _NAMED,
                "securityContext": _OBJECT,
                "terminationGracePeriodSeconds": {
                    "type": "integer",
                    "format": "int64",
                    "nullable": True,
                },
            },
        },
    },
}


def _reserved(part: str) -> tuple[str, str]:
    place = f"self.metadata.{part}"
    return (
        (
            f"!has(self.metadata) || !has({place})"
            f" || {place}.all(key, !key.startsWith('{names.GROUP}/'))"
        ),
        f"template.metadata.{part} may not use the prefix {names.GROUP}/: the operator sets those",
    )


RULES = (
    (
        (
            f"self.spec.containers.exists(c, c.name == '{names.WORKER}'"
            " && has(c.image) && size(c.image) > 0)"
        ),
        f"template.spec.containers needs a container named '{names.WORKER}' with an image",
    ),
    _reserved("labels"),
    _reserved("annotations"),
)
