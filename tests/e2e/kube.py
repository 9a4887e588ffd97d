"""A Kubernetes cluster under test: kubectl and helm, as a person would call them.

Answers for finding or starting the cluster and for loading images; what runs on it is the
fixtures' business.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).parents[2]
TOOLS = TOP / "tests/e2e/cluster"
ARCHIVES = Path.home() / ".cache/everstep-images/archives"
_START_LIMIT = 2400  # a first start builds Kubernetes


class CommandFailedError(AssertionError):
    """A command ended with an error; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Cluster:
    kubeconfig: Path
    host: str
    """An address of this machine that pods can reach."""
    tools: Path | None = None
    """Folder of kubectl and helm, where they are not on the PATH."""
    audit: Path | None = None
    """The API server's audit log, where this machine runs it."""

    def kubectl(self, *args: str, stdin: str | None = None, limit: float = 180) -> str:
        return run("kubectl", *args, stdin=stdin, limit=limit, env=self._env())

    def helm(self, *args: str, limit: float = 300) -> str:
        return run("helm", *args, limit=limit, env=self._env())

    def get(self, *args: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def items(self, *args: str) -> list[Any]:
        found: list[Any] = self.get(*args)["items"]
        return found

    def apply(self, *objects: Mapping[str, Any]) -> str:
        return self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def watch(self, *args: str) -> "subprocess.Popen[str]":
        """A running `kubectl`, for watches and log streams; the caller ends it."""
        return subprocess.Popen(
            ["kubectl", *args], env=self._env(), text=True, stdout=subprocess.PIPE
        )

    def _env(self) -> dict[str, str]:
        path = os.environ["PATH"]
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": f"{self.tools}:{path}" if self.tools else path,
        }


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The cluster KUBECONFIG names, or a node started for the tests and stopped after them.

    EVERSTEP_E2E_KEEP=1 leaves the started one up: the next run finds it.
    """
    given = os.environ.get("KUBECONFIG")
    if given and Path(given) != _localkube_kubeconfig():
        host = os.environ.get("EVERSTEP_E2E_HOST")
        assert host, "EVERSTEP_E2E_HOST: an address of this machine that the cluster's pods reach"
        yield Cluster(kubeconfig=Path(given), host=host)
        return
    was_up = _localkube_kubeconfig().exists()
    localkube("up")
    try:
        yield Cluster(
            kubeconfig=_localkube_kubeconfig(),
            host="198.18.255.1",
            tools=Path(localkube("bin")),
            audit=Path(localkube("audit")),
        )
    finally:
        if not was_up and not os.environ.get("EVERSTEP_E2E_KEEP"):
            localkube("down")


def load_images() -> None:
    """Build the images and bring them to the nodes. EVERSTEP_E2E_LOAD names the command that loads
    an archive, such as `kind load image-archive`; empty: the nodes have the images already."""
    command = os.environ.get("EVERSTEP_E2E_LOAD", f"{TOOLS / 'localkube'} load")
    if not command:
        return
    for archive in run(str(TOOLS / "images"), str(ARCHIVES), limit=_START_LIMIT).split():
        run(*shlex.split(command), archive)


def localkube(verb: str) -> str:
    return run(str(TOOLS / "localkube"), verb, limit=_START_LIMIT).strip()


def _localkube_kubeconfig() -> Path:
    return Path(localkube("kubeconfig"))


def run(
    *command: str,
    stdin: str | None = None,
    limit: float = 180,
    env: Mapping[str, str] | None = None,
) -> str:
    """The standard output of a command that has to succeed."""
    done = subprocess.run(
        command,
        input=stdin if stdin is not None else "",
        env=env,
        text=True,
        capture_output=True,
        timeout=limit,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailedError(
            f"{shlex.join(command)[:300]} ended with {done.returncode}:\n{done.stderr}{done.stdout}"
        )
    return done.stdout
