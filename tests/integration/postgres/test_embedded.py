"""The embedded PostgreSQL: what survives which death, who finds whom, and as which user it runs."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from controlplane.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from controlplane.postgres.footing import find_binaries

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes uid")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs PDEATHSIG, user namespaces or /proc")

# Starts a server, says so, and then lives until its standard input ends.
OTHER_PROCESS = """
import sys
from pathlib import Path
from controlplane.postgres.embedded import EmbeddedPostgres

with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as postgres:
    print(postgres.pid, postgres.attached, postgres.dsn, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may search (pytest's own are 0700)."""
    folder = Path(tempfile.mkdtemp(prefix="embedded-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def other_process(data_dir: Path, *command: str, **options: Any) -> subprocess.Popen[str]:
    """Another process that starts, or attaches to, the server of this folder."""
    return subprocess.Popen(
        [*(command or (sys.executable,)), "-c", OTHER_PROCESS, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def said(process: subprocess.Popen[str]) -> tuple[int, bool, str]:
    """The postmaster's pid, whether that process attached to it, and the DSN."""
    assert process.stdout is not None
    pid, attached, dsn = process.stdout.readline().split()
    return int(pid), attached == "True", dsn


def end(process: subprocess.Popen[str]) -> None:
    """Let the other process end in good order."""
    process.communicate()
    assert process.returncode == 0


def fetchval(dsn: str, query: str) -> object:
    """The one value of a query, on a connection of its own."""
    return asyncio.run(_fetchval(dsn, query))


async def _fetchval(dsn: str, query: str) -> object:
    conn = await asyncpg.connect(dsn)
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


def test_starts_in_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    """From nothing to a database that sorts the same everywhere."""
    with EmbeddedPostgres(tmp_path / "new" / "postgres") as postgres:
        assert fetchval(postgres.dsn, "select current_database()") == "controlplane"
        assert (
            fetchval(postgres.dsn, "select string_agg(x, '' order by x) from (values ('ä'), ('Z'), ('a')) v(x)")
            == "Zaä"
        )
        assert fetchval(postgres.dsn, "show fsync") == "on"


def test_committed_rows_survive_a_crash(durable_postgres: EmbeddedPostgres) -> None:
    """After SIGKILL of the postmaster the next start recovers what was committed."""
    fetchval(durable_postgres.dsn, "create table t as select generate_series(1, 1000) n")

    durable_postgres.kill()
    durable_postgres.start()

    assert fetchval(durable_postgres.dsn, "select count(*) from t") == 1000


def test_stop_and_start_keep_the_rows(tmp_path: Path) -> None:
    """An orderly stop can be followed by a start, even one with other settings."""
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as postgres:
        fetchval(postgres.dsn, "create table t as select 1 n")

    with EmbeddedPostgres(tmp_path / "postgres", settings={"work_mem": "7MB"}) as postgres:
        assert fetchval(postgres.dsn, "select n from t") == 1
        assert fetchval(postgres.dsn, "show work_mem") == "7MB"


@on_linux
@pytest.mark.parametrize("folder", ["tmp_path", "public_folder"], ids=["private", "public"])
def test_a_killed_owner_takes_the_server_along(folder: str, request: pytest.FixtureRequest) -> None:
    """After SIGKILL of the process that started it, the server ends by itself and the next start has its rows."""
    data_dir = request.getfixturevalue(folder) / "postgres"
    owner = other_process(data_dir)
    pid, _, dsn = said(owner)
    fetchval(dsn, "create table t as select 1 n")

    owner.kill()
    owner.communicate()
    with EmbeddedPostgres(data_dir) as postgres:
        assert not postgres.attached
        assert postgres.pid != pid
        assert fetchval(postgres.dsn, "select n from t") == 1


def test_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The death signal is bound to the object's own thread, not to the caller's."""
    postgres = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    caller = threading.Thread(target=postgres.start)
    caller.start()
    caller.join()

    with postgres:
        assert fetchval(postgres.dsn, "select 1") == 1


def test_a_second_process_attaches_and_leaves_the_server_alone(durable_postgres: EmbeddedPostgres) -> None:
    """Who finds a running server uses it, and does not stop it on leaving."""
    second = other_process(durable_postgres.data_dir)

    pid, attached, dsn = said(second)
    end(second)

    assert (pid, attached, dsn) == (durable_postgres.pid, True, durable_postgres.dsn)
    assert fetchval(durable_postgres.dsn, "select 1") == 1


def test_of_two_that_start_at_once_one_owns_and_one_attaches(tmp_path: Path) -> None:
    """Simultaneous first starts make one cluster and one server."""
    both = [other_process(tmp_path / "postgres") for _ in range(2)]

    answers = {process: said(process) for process in both}
    owner, guest = sorted(both, key=lambda process: answers[process][1])
    end(guest)
    end(owner)

    assert [answers[owner][1], answers[guest][1]] == [False, True]
    assert answers[owner][0] == answers[guest][0]


def test_a_stale_pid_file_that_names_a_living_process_is_no_obstacle(tmp_path: Path) -> None:
    """After a reboot the old pid may belong to anybody; the lock says that nobody is there."""
    postgres = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    postgres.start()
    pid_file = postgres.data_dir / "postmaster.pid"
    left = pid_file.read_text().splitlines()
    postgres.kill()
    pid_file.write_text("\n".join([str(os.getpid()), *left[1:]]) + "\n")

    with postgres:
        assert postgres.pid != os.getpid()
        assert fetchval(postgres.dsn, "select 1") == 1


@on_linux
def test_a_backend_that_outlived_its_postmaster_is_no_obstacle(tmp_path: Path) -> None:
    """A backend deep in a computation does not notice the crash and holds the shared memory; it is ended."""
    postgres = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    postgres.start()
    psql = find_binaries().folder / "psql"
    client = subprocess.Popen([psql, postgres.dsn, "-c", "do 'begin loop end loop; end'"], stderr=subprocess.DEVNULL)
    while not fetchval(postgres.dsn, "select count(*) from pg_stat_activity where query like 'do %'"):
        assert client.poll() is None

    postgres.kill()
    with postgres:
        assert fetchval(postgres.dsn, "select 1") == 1
    client.wait()


def test_the_password_is_ours_alone(durable_postgres: EmbeddedPostgres) -> None:
    """The password file, the data folder and the socket are closed to other users."""
    socket_dir = Path((durable_postgres.data_dir / "postmaster.pid").read_text().splitlines()[4])
    private = [durable_postgres.data_dir.with_name("postgres.password"), durable_postgres.data_dir, socket_dir]

    assert [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in private] == [0, 0, 0]


def test_a_wrong_password_is_refused(durable_postgres: EmbeddedPostgres) -> None:
    """Being on the machine is not enough."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        fetchval(re.sub(":[0-9a-f]+@", ":guess@", durable_postgres.dsn), "select 1")


def test_a_long_or_odd_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    """The system's limit on socket paths is no limit on data folders; the other folder is gone after the stop."""
    with EmbeddedPostgres(tmp_path / ("long" * 30) / "it's, 100% odd" / "postgres", durable=False) as postgres:
        socket_dir = Path((postgres.data_dir / "postmaster.pid").read_text().splitlines()[4])
        second = other_process(postgres.data_dir)

        assert said(second)[1:] == (True, postgres.dsn)
        assert fetchval(postgres.dsn, "select 1") == 1
        end(second)
    assert not socket_dir.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error carries the end of the server's own log, and the next step."""
    with pytest.raises(EmbeddedPostgresError, match=r"shared_buffers[\s\S]*Next step") as refused:
        EmbeddedPostgres(tmp_path / "postgres", durable=False, settings={"shared_buffers": "nonsense"}).start()

    assert refused.value.fix


def test_somebodys_files_are_left_alone(tmp_path: Path) -> None:
    """A folder with other things in it is refused, not emptied."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "thesis.txt").write_text("the only copy")

    with pytest.raises(EmbeddedPostgresError, match="not empty"):
        EmbeddedPostgres(tmp_path / "postgres").start()
    assert (tmp_path / "postgres" / "thesis.txt").read_text() == "the only copy"


def test_the_data_of_another_major_version_is_refused(tmp_path: Path) -> None:
    """The error names both versions."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("14\n")

    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 14, but .* is \d\d"):
        EmbeddedPostgres(tmp_path / "postgres").start()


def test_a_folder_without_binaries_is_refused(tmp_path: Path) -> None:
    """A wrong `bin_dir` is an error, not a reason to take another PostgreSQL."""
    with pytest.raises(EmbeddedPostgresError, match="no initdb"):
        find_binaries(tmp_path)


def test_runs_an_installed_postgres_too(tmp_path: Path) -> None:
    """Any PostgreSQL from 15 on will do."""
    installed = sorted(Path("/usr/lib/postgresql").glob("1[5-9]/bin"))
    if not installed:
        pytest.skip("no PostgreSQL is installed on this system")
    with EmbeddedPostgres(tmp_path / "postgres", bin_dir=installed[0], durable=False) as postgres:
        assert fetchval(postgres.dsn, "select current_setting('server_version_num')::int >= 150000")


@as_root
def test_root_becomes_nobody_where_nobody_gets_to(public_folder: Path) -> None:
    """The ordinary case for root; a folder made by nobody's server stays so."""
    with EmbeddedPostgres(public_folder / "postgres", durable=False) as postgres:
        assert fetchval(postgres.dsn, "select 1") == 1
        assert postgres.footing is not None
        assert postgres.footing.way.name == "user"
        assert postgres.data_dir.owner() == "nobody"
        assert Path(f"/proc/{postgres.pid}").owner() == "nobody"


@as_root
def test_root_runs_as_the_owner_of_the_data(public_folder: Path) -> None:
    """`sudo` does not take the data away from the user who made it."""
    (public_folder / "postgres").mkdir()
    shutil.chown(public_folder / "postgres", "games", "games")

    with EmbeddedPostgres(public_folder / "postgres", durable=False) as postgres:
        assert fetchval(postgres.dsn, "select 1") == 1
        assert Path(f"/proc/{postgres.pid}").owner() == "games"


@as_root
@on_linux
def test_root_uses_a_namespace_where_nobody_gets_no_further(public_folder: Path) -> None:
    """A clone, with its binaries, in a 0700 folder of root's: no mode changes, nothing moves."""
    public_folder.chmod(0o700)
    binaries = copied_binaries(public_folder / "venv")

    with EmbeddedPostgres(public_folder / "postgres", bin_dir=binaries, durable=False) as postgres:
        assert fetchval(postgres.dsn, "select 1") == 1
        assert postgres.footing is not None
        assert postgres.footing.way.name == "namespace"
        assert postgres.data_dir.owner() == "root"
    assert stat.S_IMODE(public_folder.stat().st_mode) == 0o700


@as_root
def test_root_moves_what_no_way_leads_to(public_folder: Path) -> None:
    """A 0700 folder of another user's: both ways are refused, so binaries and data get a place that can be reached."""
    clone = public_folder / "clone"
    binaries = copied_binaries(clone / "venv")
    shutil.chown(clone, "games", "games")
    clone.chmod(0o700)
    system = public_folder / "system"

    for _ in range(2):
        with EmbeddedPostgres(clone / "postgres", bin_dir=binaries, system_dir=system, durable=False) as postgres:
            fetchval(postgres.dsn, "create table if not exists t as select 1 n")
            assert fetchval(postgres.dsn, "select n from t") == 1
        assert (clone / "postgres").readlink().parent == system
    assert stat.S_IMODE(clone.stat().st_mode) == 0o700


@as_root
def test_root_moves_no_more_than_it_has_to(public_folder: Path) -> None:
    """Where only the data cannot be reached the binaries stay where they are."""
    home = public_folder / "home"
    home.mkdir()
    shutil.chown(home, "games", "games")
    home.chmod(0o700)
    installed = copied_binaries(public_folder / "venv")

    with EmbeddedPostgres(home / "postgres", bin_dir=installed, system_dir=public_folder / "system") as postgres:
        assert fetchval(postgres.dsn, "select 1") == 1
    assert [path.name.partition("-")[0] for path in (public_folder / "system").iterdir()] == ["postgres"]


@as_root
def test_an_ordinary_user_needs_nothing_special(public_folder: Path) -> None:
    """Without root the server runs as the user itself."""
    public_folder.chmod(0o777)
    python = python_for("games")

    process = other_process(
        public_folder / "home" / "postgres",
        python,
        user="games",
        group="games",
        extra_groups=[],
        env={"HOME": str(public_folder), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd="/",
    )
    pid, attached, _ = said(process)
    owner = Path(f"/proc/{pid}").owner()
    end(process)

    assert (attached, owner) == (False, "games")
    assert (public_folder / "home" / "postgres").owner() == "games"


def copied_binaries(venv: Path) -> Path:
    """The bin folder of a copy of the wheel, below a folder of its own."""
    home = find_binaries().folder.parent
    shutil.copytree(home, venv / home.parent.name / home.name)
    libraries = home.parent.with_name(home.parent.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, venv / libraries.name)
    return venv / home.parent.name / home.name / "bin"


def python_for(user: str) -> str:
    """An interpreter of our version that this user may run."""
    version = "{}.{}".format(*sys.version_info)
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            subprocess.run([python, "-c", ""], user=user, group=user, extra_groups=[], cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no interpreter that other users may run")


def test_restart_keeps_the_dsn_of_a_deep_folder(tmp_path: Path) -> None:
    """A pool that was open when the server crashed finds it again, wherever its socket had to go."""
    with EmbeddedPostgres(tmp_path / ("deep" * 30) / "postgres", durable=False) as postgres:
        before = postgres.dsn
        postgres.kill()
        postgres.start()

        assert postgres.dsn == before
