#!/usr/bin/env python3
"""Does each lock file hold what pyproject.toml asks for? Offline; `make lock` mends what it finds."""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[1]


def main() -> int:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    base, extras = project["dependencies"], project["optional-dependencies"]
    wanted = {
        "runtime": base,
        "dev": [*base, *(line for extra in extras.values() for line in extra)],
        "operator": extras["operator"],
    }
    missing = [
        f"requirements/{lock}.txt has no version for {requirement}: make lock"
        for lock, lines in wanted.items()
        for requirement in map(Requirement, lines)
        if requirement.name != project["name"]
        and not requirement.specifier.contains(locked(lock).get(key(requirement), "0"))
    ]
    sys.stdout.writelines(f"{line}\n" for line in missing)
    return bool(missing)


def locked(lock: str) -> dict[str, str]:
    lines = (TOP / f"requirements/{lock}.txt").read_text().splitlines()
    pins = (line.split()[0].split("==") for line in lines if "==" in line and line[0] not in " #")
    return {canonicalize_name(name): version for name, version in pins}


def key(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


sys.exit(main())
