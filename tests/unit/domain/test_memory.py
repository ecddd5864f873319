"""Lists in memory: what is put together, and when an append may be a repeat."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.memory import SCOPE_WORDS, SEARCH_ORDER, Scope, appended_before, assemble

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
