"""Lists in memory: what is put together, and when an append may be a repeat."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.memory import (
    KEY_MAX,
    SCOPE_WORDS,
    SEARCH_ORDER,
    Scope,
    appended_before,
    assemble,
    like,
    matches,
)

FAST = settings(max_examples=50, deadline=None)
values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@pytest.mark.parametrize(
    ("base", "items", "whole"),
    [
        (b"[]", [], b"[]"),
        (b" [ 1 ] ", [], b" [ 1 ] "),
        (b"[]", [b"1"], b"[1]"),
        (b"[ ]", [b"1", b"2"], b"[1,2]"),
        (b"[1]", [b"2"], b"[1,2]"),
        (b" [ 1 , 2 ] \n", [b" 3 "], b"[ 1 , 2, 3 ]"),
        (b'["]"]', [b'"["'], b'["]","["]'),
        (b"[[]]", [b"[]"], b"[[],[]]"),
    ],
)
def test_puts_a_list_together(base: bytes, items: list[bytes], whole: bytes) -> None:
    """The elements of the base, then the appended ones; a list that nothing was appended to keeps its bytes."""
    assert assemble(base, items) == whole


@FAST
@given(st.lists(values), st.lists(values), st.sampled_from([None, 1]))
def test_the_whole_is_the_parts(base: list[object], items: list[object], indent: int | None) -> None:
    """Read as JSON it is the one list followed by the other."""
    whole = assemble(json.dumps(base, indent=indent).encode(), [json.dumps(item).encode() for item in items])

    assert json.loads(whole) == base + items


@pytest.mark.parametrize(
    ("length", "expected_length", "items", "maybe"),
    [(3, 2, 1, True), (5, 2, 1, True), (2, 2, 1, False), (1, 2, 1, False), (3, 2, 2, False), (3, 2, 0, False)],
)
def test_when_an_append_may_be_a_repeat(length: int, expected_length: int, items: int, maybe: bool) -> None:
    """When the list is long enough to hold its elements already, and it has some."""
    assert appended_before(length=length, expected_length=expected_length, items=items) is maybe


def test_every_scope_has_its_word() -> None:
    """Ours, and `workflow` for run; all are searched, the narrowest first."""
    assert SCOPE_WORDS["workflow"] is SCOPE_WORDS["run"] is Scope.RUN
    assert set(SEARCH_ORDER) == set(Scope) == set(SCOPE_WORDS.values())
    assert (SEARCH_ORDER[0], SEARCH_ORDER[-1]) == (Scope.RUN, Scope.GLOBAL)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("done", ["done"], ["done2", "xdone", "Done", ""]),
        ("done*", ["done", "done.1"], ["don", "xdone"]),
        ("*", ["", "anything", "*"], []),
        (
            "user_*.preferences",
            ["user_1.preferences", "user_.preferences"],
            ["user_1.preferences.x", "user.preferences"],
        ),
        ("aa*aa", ["aaaa", "aaxaa"], ["aaa", "aa"]),
        ("*a*b*", ["ab", "xaxbx"], ["ba", "a"]),
        ("a.c%_\\", ["a.c%_\\"], ["abc%_\\", "a.cxx\\"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    """Only `*` stands for something else than itself, for any text, also for none."""
    assert [key for key in yes + no if matches(pattern, key)] == yes


texts = st.text(alphabet="ab*%_\\.[?", max_size=8)


@FAST
@given(pattern=texts, key=texts)
def test_a_pattern_means_what_an_expression_would(pattern: str, key: str) -> None:
    """As if `*` were `.*`, live and in SQL."""
    expression = ".*".join(map(re.escape, pattern.split("*")))
    parts = re.findall(r"(%)|\\(.)|(.)", like(pattern))
    in_sql = "".join(".*" if any_ else re.escape(quoted or plain) for any_, quoted, plain in parts)

    assert matches(pattern, key) == bool(re.fullmatch(expression, key))
    assert bool(re.fullmatch(in_sql, key)) == matches(pattern, key)


def test_no_pattern_takes_long() -> None:
    """What would keep an expression busy for ever is one pass."""
    assert not matches("*a" * (KEY_MAX // 2) + "b", "a" * KEY_MAX)
