"""`module:app` finds the App; the user's mistakes show the user's frames and nobody else's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.command import Everstep, assert_told, in_process

from everstep import UsageError
from everstep.cli.loading import load_app

APP = "from everstep import App\napp = App('x')\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder to write modules into, gone from sys.path and sys.modules afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


@pytest.fixture
def run(capsys) -> Everstep:
    return in_process(capsys)


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_the_app_is_found_by_name_in_a_package_or_as_the_only_one(here: Path):
    write(here, "shop_a.py", APP)
    assert load_app("shop_a:app").name == "x"
    assert load_app("shop_a").name == "x"
    write(here, "pack_a/__init__.py", "")
    write(here, "pack_a/inner.py", APP + "class Box:\n    held = app\n")
    assert load_app("pack_a.inner:Box.held").name == "x"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("not a module", "MODULE:NAME"),
        ("nowhere_at_all:app", "there is no module 'nowhere_at_all'"),
        ("shop_b:other", "has no 'other'"),
        ("shop_b:number", "is an int, not an everstep App"),
        ("shop_two", "shop_two has app, second"),
        ("shop_none", "shop_none has no App"),
    ],
)
def test_what_is_no_app_is_told(here: Path, target: str, words: str):
    write(here, "shop_b.py", APP + "number = 1\n")
    write(here, "shop_two.py", APP + "second = App('y')\n")
    write(here, "shop_none.py", "")
    with pytest.raises(UsageError, match=words):
        load_app(target)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("broken_import", "import missing_dependency", "No module named 'missing_dependency'"),
        ("broken_name", "def f():\n    return oops\nf()", "NameError: name 'oops' is not defined"),
        ("broken_syntax", "def f(:", "SyntaxError"),
        ("broken_exit", "import sys\nsys.exit(3)", "SystemExit: 3"),
        (
            "broken_app",
            APP + "@app.workflow\nasync def a(): ...\n@app.workflow(name='a')\nasync def b(): ...",
            "a workflow named a already",
        ),
    ],
)
def test_a_module_that_does_not_import_exits_with_2_and_the_users_own_frames(
    here: Path, run: Everstep, name: str, text: str, words: str
):
    write(here, f"{name}.py", text + "\n")
    said = run("worker", f"{name}:app", "--database", "postgresql://u:secret@127.0.0.1:1/x")
    assert_told(said, 2, words, f"{name}.py", f"module {name} does not import")
    frames = [line for line in said.lines if line.startswith('  File "')]
    assert all(str(here) in line for line in frames[:1])
    assert "everstep/cli" not in said.err
    assert "importlib" not in said.err


def test_only_the_last_frames_are_shown(here: Path, run: Everstep):
    depth = "".join(f"def f{n}():\n    return f{n + 1}()\n" for n in range(9))
    write(here, "deep.py", depth + "def f9():\n    return 1 / 0\nf0()\n")
    said = run("worker", "deep:app")
    assert said.code == 2
    shown = [line for line in said.lines if line.startswith('  File "')]
    assert [line.rpartition(" in ")[2] for line in shown] == ["f7", "f8", "f9"]


def test_annotations_that_cannot_be_resolved_show_before_anything_runs(here: Path, run: Everstep):
    write(here, "unresolved.py", APP + "@app.workflow\nasync def w(x: 'Nowhere') -> None: ...\n")
    said = run("worker", "unresolved", "--database", "postgresql://u@127.0.0.1:1/x")
    assert_told(said, 2, "cannot be resolved", "Nowhere")
