"""Payloads on a page: every letter of them, on lines."""

from __future__ import annotations

import json

import pytest

from controlplane.ui.asking import read
from controlplane.ui.payload import SHOWN_BYTES_MAX, Payload
from tests.integration.api.corpus import FIT


def text(raw: bytes) -> str:
    return "".join(piece.letters for piece in Payload(raw).pieces)


@pytest.mark.parametrize("value", FIT, ids=lambda value: value.name)
def test_every_number_and_text_is_as_it_came(value) -> None:
    """Nothing is read as a number of Python or of a browser on its way to a page."""
    raw = b'{"a":' + value.raw + b',"b":[]}'

    said = "".join(raw[:SHOWN_BYTES_MAX].decode("utf-8", "replace").split())
    assert "".join(text(raw).split()) == said


def test_one_member_stands_on_a_line() -> None:
    """As people write it."""
    assert text(b'{"a":[1,{"b":null}],"c":{}}') == (
        '{\n  "a": [\n    1,\n    {\n      "b": null\n    }\n  ],\n  "c": {}\n}'
    )


def test_colours_know_names_from_texts() -> None:
    """A name is no value, although both are texts."""
    kinds = {piece.letters: piece.kind for piece in Payload(b'{"a":"b","c":7,"d":true}').pieces}

    assert (kinds['"a"'], kinds['"b"'], kinds["7"], kinds["true"]) == ("name", "text", "number", "word")


def test_what_is_broken_is_shown_all_the_same() -> None:
    """A payload that was cut has an open end."""
    assert text(b'{"a":"b') == '{\n  "a": "b'


def test_an_answer_keeps_its_payloads_as_bytes() -> None:
    """And everything else is what it is."""
    found = read(b'{"status":"ok","items":[{"result":{"n":12345678901234567890123,"n":1.0}}],"attempt":2}')

    assert found["attempt"] == 2
    assert found["items"][0]["result"].raw == b'{"n":12345678901234567890123,"n":1.0}'


def test_deep_payloads_are_laid_out() -> None:
    """As deep as they may be."""
    assert json.loads(text(b"[" * 200 + b"]" * 200)) is not None
