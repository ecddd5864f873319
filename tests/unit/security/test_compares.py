"""Secrets are compared in a time that does not tell how much of them was right."""

from __future__ import annotations

import ast
import re

import pytest

from tests.unit.test_rooms import MODULES, tree

SECRET = re.compile(r"(^|_)(sig|signature|token|secret|api_key|password|digest|mac)$")


def named(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=called):
            return named(called)
    return ""


@pytest.mark.parametrize("name", MODULES)
def test_no_secret_is_compared_by_its_letters(name: str) -> None:
    """`hmac.compare_digest` instead of `==`; what is compared with a constant or with None is no secret."""
    odd = []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            if not any(isinstance(side, ast.Constant) for side in sides) and any(
                SECRET.search(named(s)) for s in sides
            ):
                odd.append(ast.unparse(node))

    assert odd == []


def test_the_eyes_are_open() -> None:
    """The two places that compare a secret are found by what they call."""
    found = [name for name in MODULES if "hmac.compare_digest" in ast.unparse(tree(name))]

    assert {"security.keys", "security.signature"} <= set(found)
    assert SECRET.search("api_key")
    assert SECRET.search("signature")
    assert not SECRET.search("idempotency_key")
