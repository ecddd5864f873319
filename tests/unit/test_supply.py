"""What this is made of: every part by its hash, under a licence that lets us, and named where it is explained."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs import parts
from tests.docs.generated import ROOT

TEXT = parts.LOCK.read_text(encoding="utf-8")
FOUND = parts.parts(TEXT)
ALLOWED = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",  # of files that we use and do not change
    "PSF-2.0",
}
PYPROJECTS = ("pyproject.toml", "sdk/python/pyproject.toml")


def test_every_part_is_known_by_its_hash() -> None:
    """Whoever answers for the index cannot put another file in its place."""
    assert len(FOUND) > 50
    assert list(parts.unhashed(FOUND)) == []


def test_a_pin_without_a_hash_is_seen() -> None:
    """The test above can fail: a line without any is no pin, and one whose hashes were taken away has none."""
    with pytest.raises(ValueError, match="aiohttp"):
        parts.parts("aiohttp==3.14.5\n")

    assert list(parts.unhashed(parts.parts("aiohttp==3.14.5 \\\n    # via controlplane\n"))) == ["aiohttp"]


def test_only_what_is_locked_is_installed() -> None:
    """pip is told to want hashes, wheels alone, and to build ours with what the lock brought."""
    installs = re.findall(r"pip install .*(?:requirements\.lock|-e \.).*", (ROOT / "Makefile").read_text())

    assert "--require-hashes --only-binary :all:" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_the_lock_names_no_index() -> None:
    """Where parts come from is for whoever installs to say."""
    assert not re.search(r"https?://|--index|--find-links|--extra-index", TEXT)


@pytest.mark.parametrize("part", [one for one in FOUND if one.where is None or one.licence], ids=lambda part: part.name)
def test_its_licence_is_one_that_we_may_use(part: parts.Part) -> None:
    """Every word of it; what is locked for other machines alone is not there to be asked."""
    licence = part.licence
    assert licence is not None, f"{part.name} is locked for this machine and not installed"
    assert set(re.split(r" AND | OR |[()]", licence)) - {""} <= ALLOWED, licence


def test_every_direct_dependency_is_explained() -> None:
    """Why it is there, what was passed over and who keeps it: docs/decisions/dependencies.md."""
    page = (ROOT / "docs" / "decisions" / "dependencies.md").read_text(encoding="utf-8")
    named = {
        re.match(r"[\w-]+", one)[0]  # type: ignore[index]
        for file in PYPROJECTS
        for one in tomllib.loads((ROOT / file).read_text())["project"]["dependencies"]
    }

    assert {one for one in named if not re.search(rf"\b{one}\b", page)} == set()


def test_the_bill_lists_every_part() -> None:
    """With its hashes; the same lock makes the same bill."""
    bill = parts.bill(FOUND, of=TEXT)

    assert bill == parts.bill(parts.parts(TEXT), of=TEXT)
    assert {one["name"] for one in bill["components"]} == {part.name for part in FOUND}
    assert all(one["externalReferences"][0]["hashes"] for one in bill["components"])


def test_the_bill_knows_who_needs_what() -> None:
    """Every part is needed by somebody, and from ours a way leads to each."""
    needs = {one["ref"]: one["dependsOn"] for one in parts.bill(FOUND, of=TEXT)["dependencies"]}
    reached, todo = set(), [next(ref for ref in needs if ref.startswith("pkg:pypi/controlplane@"))]
    while todo:
        ref = todo.pop()
        reached.add(ref)
        todo += set(needs[ref]) - reached

    assert reached == needs.keys()
