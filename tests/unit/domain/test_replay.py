"""When two calls ask the same."""

from __future__ import annotations

import pytest

from controlplane.domain.replay import question


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":2}', b'{ "b" : 2, "a" : 1 }'),
        (b"1", b"1.0"),
        (b"100", b"1e2"),
        (b"0", b"-0.0"),
        (b"0.5", b"5e-1"),
        (b'"\\u00e9\\/"', b'"\xc3\xa9/"'),
        (b'{"a":{"x":1,"y":[1.0]}}', b'{"a":{"y":[1],"x":1}}'),
    ],
)
def test_the_same_said_otherwise(one: bytes, other: bytes) -> None:
    """Order of keys, blanks, escapes and the form of a number do not matter."""
    assert question(one, None) == question(other, None) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"true"),
        (b"0", b"false"),
        (b"1", b'"1"'),
        (b"[1,2]", b"[2,1]"),
        (b"null", b"{}"),
        (b'{"a":null}', b"{}"),
        (b"18446744073709551616", b"18446744073709551617"),
        (b"9007199254740993", b"9007199254740993.0"),
        (b"1", b"1.0000000000000002"),
    ],
)
def test_something_else(one: bytes, other: bytes) -> None:
    """Types, the order of a list and every digit of a whole number matter."""
    assert question(one, None) != question(other, None)


def test_the_context_is_part_of_the_question() -> None:
    """Input and context do not run into each other; no context is another than an empty one."""
    asked = [question(b"{}", None), question(b"{}", b"{}"), question(b'{"a":1}', b"{}"), question(b"{}", b'{"a":1}')]

    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("raw", [b"9" * 5_000, b"[" * 100_000 + b"]" * 100_000])
def test_what_python_cannot_read_is_equal_to_nothing(raw: bytes) -> None:
    """Such a payload is compared by its bytes alone."""
    assert question(raw, None) is None
