"""The text of an API key: its form, its checksum, and what is kept of it."""

from __future__ import annotations

import random
from uuid import UUID

import pytest

from controlplane.domain.ids import IdMaker, bucket_of
from controlplane.domain.key import Caller, KeyId, KeyScope, covers, is_pattern, wanting
from controlplane.security.keys import DIGITS, FORM, digest, id_in, make, prefix_of

ID = KeyId(IdMaker(lambda: 1_800_000_000_000, lambda bits: 7).new(5))
KEY = make(ID)


def test_a_key_knows_its_id() -> None:
    """And with it the bucket that it lies in; a scanner knows it by its form."""
    assert FORM.fullmatch(KEY)
    assert KEY.startswith(prefix_of(ID) + "_")
    assert id_in(KEY) == ID
    assert bucket_of(ID) == 5


def test_no_two_keys_are_alike() -> None:
    """Of one id, too: the rest is random, all of it."""
    assert len({make(ID) for _ in range(1_000)}) == 1_000
    assert {digit for _ in range(200) for digit in make(ID)[30:73]} == set(DIGITS)


@pytest.mark.parametrize("place", range(len(KEY)))
def test_one_wrong_letter_is_seen(place: int) -> None:
    """Wherever it stands, without a look-up."""
    for wrong in random.Random(place).sample(DIGITS, 8):
        if wrong != KEY[place]:
            assert id_in(KEY[:place] + wrong + KEY[place + 1 :]) is None


@pytest.mark.parametrize(
    "text",
    ["", "k", KEY[:-1], KEY + "0", KEY.lower(), f" {KEY}", f"{KEY}\n", "cp_" * 30, "é" * 79],
    ids=["nothing", "a letter", "shorter", "longer", "lower", "a space", "a line", "beginnings", "accents"],
)
def test_what_is_no_key(text: str) -> None:
    """Nothing else has the form."""
    assert id_in(text) is None


def test_of_a_key_its_hash_is_kept() -> None:
    """Which does not hold any part of it."""
    assert len(digest(KEY.encode())) == 32
    assert digest(KEY.encode()) != digest(make(ID).encode())


@pytest.mark.parametrize(
    ("patterns", "node", "covered"),
    [
        (("w",), "w", True),
        (("w",), "w2", False),
        (("w*",), "w2", True),
        (("w*",), "v", False),
        (("*",), "any", True),
        (("a", "b*"), "bc", True),
        ((), "w", False),
    ],
)
def test_nodes_by_name_or_beginning(patterns: tuple[str, ...], node: str, covered: bool) -> None:
    """Exactly, or with `*` at the end all that begin so."""
    assert covers(patterns, node) is covered


@pytest.mark.parametrize(
    ("text", "fit"), [("n", True), ("n*", True), ("*", True), ("", False), ("**", False), ("a*b", False)]
)
def test_patterns(text: str, fit: bool) -> None:
    """One `*`, and only at the end."""
    assert is_pattern(text) is fit


def test_a_scope_contains_no_other() -> None:
    """Also `admin` does what it is called, and nothing else."""
    admin = Caller(name="a", namespace=1, scopes=frozenset({KeyScope.ADMIN}), key_id=KeyId(UUID(int=1)))

    assert admin.may({KeyScope.ADMIN, KeyScope.READ})
    assert not any(admin.may({scope}) for scope in KeyScope if scope is not KeyScope.ADMIN)
    assert wanting({KeyScope.NODE, KeyScope.READ}) == "read or node"
