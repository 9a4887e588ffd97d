"""Pages hold together: every block has a language and is run or says why not; every link leads somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from support.pages import COMMANDS, LOOKED_AT, RUN, TOP, Block, blocks, pages

ALL = [block for page in pages() for block in blocks(page)]
CLUSTER = ("kubectl", "helm", "buildah")


def ids(block: Block) -> str:
    return block.place


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_there_are_pages_and_blocks():
    assert len(pages()) > 10
    assert {block.language for block in ALL} >= {"python", "sh", "sql", "yaml"}


@pytest.mark.parametrize("block", ALL, ids=ids)
def test_a_block_names_a_language_that_is_run_or_looked_at(block):
    if not block.language:
        commands = [s for s in block.text.splitlines() if s.split(" ")[0] in COMMANDS]
        assert not commands, "commands without a language are not run: write ```sh"
    else:
        assert block.language in (*RUN, *LOOKED_AT)


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "sh"], ids=ids)
def test_what_is_not_run_here_says_why(block):
    needs_cluster = any(
        line.split(" ")[0] in CLUSTER for line in block.text.splitlines() if line.strip()
    )
    assert needs_cluster == (block.mark == "e2e")
    if block.mark in ("e2e", "not run"):
        assert len(block.remark.split()) >= 3
        named = re.findall(r"tests/[\w/]+\.py", block.remark)
        assert named or block.mark == "not run", "which test runs the same steps?"
        assert all((TOP / name).exists() for name in named), named


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "json"], ids=ids)
def test_json_is_json(block):
    json.loads(block.text)


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "yaml"], ids=ids)
def test_manifests_fit_the_schema_of_their_kind(block):
    schema = crd_schema()
    for document in yaml.safe_load_all(block.text):
        if document.get("kind") == "DurableApp":
            assert misfits(document, schema) == []


def test_the_schema_check_finds_what_does_not_fit():
    manifest = yaml.safe_load((TOP / "manifests/examples/orders.yaml").read_text())
    manifest["spec"]["replicas"] = "two"
    manifest["spec"]["drain"]["scaleDelay"] = "5m"
    del manifest["spec"]["database"]
    assert sorted(misfits(manifest, crd_schema())) == [
        ".spec needs database",
        ".spec.drain.scaleDelay is not in the schema",
        ".spec.replicas is not of type integer: 'two'",
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(TOP)))
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        target, _, heading = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), link
        assert not heading or heading in anchors(file), link


def anchors(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def crd_schema() -> dict[str, object]:
    documents = yaml.safe_load_all((TOP / "charts/everstep/files/durableapps.yaml").read_text())
    (crd,) = [d for d in documents if d and d["kind"] == "CustomResourceDefinition"]
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def misfits(value, schema, place="") -> list[str]:
    """Where a value does not fit a structural schema: types, required, unknown fields, patterns, bounds."""
    kind = TYPES.get(schema.get("type"), object)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return [f"{place} is not of type {schema['type']}: {value!r}"]
    found = []
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        found += [
            f"{place} needs {name}" for name in schema.get("required", ()) if name not in value
        ]
        for name, part in value.items():
            if name in known or rest:
                found += misfits(part, known.get(name, rest), f"{place}.{name}")
            elif place and known and not schema.get("x-kubernetes-preserve-unknown-fields"):
                found.append(f"{place}.{name} is not in the schema")
    if isinstance(value, list):
        for i, part in enumerate(value):
            found += misfits(part, schema.get("items", {}), f"{place}[{i}]")
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{place} does not fit {schema['pattern']}: {value!r}")
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get(
        "maximum", value
    ):
        found.append(f"{place} is out of bounds: {value}")
    return found
