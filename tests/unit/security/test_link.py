"""Links: whoever has one may decide one question; nobody makes one up, and nobody turns one into another."""

from __future__ import annotations

import pytest

from controlplane.security.link import read_link, sign_link
from controlplane.security.secrets import KeyRing
from tests.make import new_execution_id

RING = KeyRing.from_text(KeyRing.generate())
ID = new_execution_id()


@pytest.mark.parametrize("request_id", ["ask", "ask#2", "größe ✓", "r" * 255])
def test_a_link_leads_to_its_question(request_id: str) -> None:
    """Execution and request, whatever the name."""
    assert read_link(RING, sign_link(RING, ID, request_id)) == (ID, request_id)


def test_a_link_stands_in_an_address() -> None:
    """Without anything that would have to be escaped, and always the same."""
    token = sign_link(RING, ID, "größe/../?#✓")

    assert token == sign_link(RING, ID, "größe/../?#✓")
    assert token.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("token", ["", "a", "hostile", "é", "=" * 8, "A" * 64, "A" * 100, "x" * 5_000])
def test_nobody_makes_one_up(token: str) -> None:
    """And whatever is tried is no error."""
    assert read_link(RING, token) is None


def test_a_changed_link_leads_nowhere() -> None:
    """Each of its characters counts."""
    token = sign_link(RING, ID, "ask")
    changed = [token[:n] + ("A" if token[n] != "A" else "B") + token[n + 1 :] for n in range(len(token) - 1)]

    assert {read_link(RING, one) for one in changed} == {None}


def test_another_server_signs_otherwise() -> None:
    """With another secret."""
    assert read_link(KeyRing.from_text(KeyRing.generate()), sign_link(RING, ID, "ask")) is None


def test_an_old_key_still_opens() -> None:
    """Links outlive a change of keys, as long as the old one stays on the ring."""
    old, new = KeyRing.generate(), KeyRing.generate()
    token = sign_link(KeyRing.from_text(old), ID, "ask")

    assert read_link(KeyRing.from_text(f"{new},{old}"), token) == (ID, "ask")
    assert read_link(KeyRing.from_text(new), token) is None


def test_a_signature_for_something_else() -> None:
    """The same words for another purpose are signed otherwise."""
    message = b"m"

    assert not RING.verify(message, RING.sign(message, purpose=b"one"), purpose=b"two")
