"""Finds the App that `module:app` names. The user's mistakes are told with the user's own frames, and only those."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from everstep.app import App
from everstep.cli.failures import ImportFailedError
from everstep.errors import UsageError

LAST_FRAMES = 3
_OURS = (str(Path(__file__).parent), "<frozen importlib", str(Path(importlib.__file__).parent))


def load_app(target: str) -> App:
    """The App object of `module:name`, or of `module` if there is only one in it. Raises UsageError."""
    name, _, attribute = target.partition(":")
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{target!r} does not name an App. Write MODULE:NAME, for example `orders.app:app`."
        )
    module = _imported(name)
    app = _attribute(module, attribute) if attribute else _only_app(module)
    if not isinstance(app, App):
        raise UsageError(
            f"{target} is {_article(type(app).__name__)}, not an everstep App. Name the object made by "
            f"`App(…)`; {_apps_of(module)}."
        )
    app.check()
    return app


def _imported(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        return importlib.import_module(name)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> UsageError:
    if isinstance(error, ModuleNotFoundError) and error.name and _is_part(error.name, name):
        return UsageError(
            f"there is no module {error.name!r} in {Path.cwd()} or on PYTHONPATH. Run the command in the folder "
            f"that holds it, or install it."
        )
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_OURS)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}, line {error.lineno}"
    else:
        where = (
            f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "no frame of its own"
        )
    told = "".join(traceback.format_list(frames[-LAST_FRAMES:]))
    return ImportFailedError(
        f"module {name} does not import: {type(error).__name__}: {error} ({where}). "
        f"`python -c 'import {name}'` shows the whole traceback.",
        told,
    )


def _is_part(missing: str, wanted: str) -> bool:
    """Whether what is missing is the wanted module itself, or a package above it."""
    return wanted == missing or wanted.startswith(f"{missing}.")


def _attribute(module: ModuleType, path: str) -> object:
    found: object = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(
                f"module {module.__name__} has no {path!r}. Name its App; {_apps_of(module)}."
            ) from None
    return found


def _only_app(module: ModuleType) -> App:
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    raise UsageError(f"which App? Write {module.__name__}:NAME; {_apps_of(module)}.")


def _apps_of(module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, App))
    return f"{module.__name__} has {', '.join(names) if names else 'no App'}"


def _article(word: str) -> str:
    return f"an {word}" if word[:1].lower() in "aeiou" else f"a {word}"
