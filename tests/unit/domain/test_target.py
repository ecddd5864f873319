"""A target is `node.reasoner`, with exactly one dot."""

from __future__ import annotations

import pytest

from controlplane.domain import target
from controlplane.errors import TargetMalformed


@pytest.mark.parametrize(("text", "node", "reasoner"), [("a.b", "a", "b"), ("_n-1.ns:f_2", "_n-1", "ns:f_2")])
def test_parses(text: str, node: str, reasoner: str) -> None:
    """The two halves, and the whole again."""
    parsed = target.parse(text)

    assert (parsed.node_id, parsed.reasoner_id, str(parsed)) == (node, reasoner, text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "a", "a.", ".b", "a.b.c", "a..b", "a b.c", "a.b\n", "-a.b", "a.:b", "ä.b", "a.b/c", "a." + "x" * 129],
)
def test_what_is_not_a_target_is_refused(text: str) -> None:
    """Halves missing, dots too many, letters that a name may not have, or a name too long."""
    with pytest.raises(TargetMalformed):
        target.parse(text)


@pytest.mark.parametrize(("text", "good"), [("x" * 128, True), ("x" * 129, False), ("", False), ("a.b", False)])
def test_names_have_bounds(text: str, good: bool) -> None:
    """1 to 128 characters, no dot."""
    assert target.is_name(text) is good


def test_suggests_what_may_have_been_meant() -> None:
    """At most three, the nearest first, and nothing that is far off."""
    known = ["shop.summarise", "shop.summarize", "shop.sum", "mail.send"]

    assert target.nearest("shop.sumarize", known)[0] == "shop.summarize"
    assert target.nearest("zzz.qqq", known) == []
    assert len(target.nearest("shop.summ", known)) <= 3
