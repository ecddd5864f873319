"""Trigger: what may be asked for, which events it wants, and what its address says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.domain.trigger import (
    ARGUMENTS_MAX,
    PRESETS,
    TYPES_MAX,
    Definition,
    Preset,
    check,
    kept_headers,
    read_slug,
    slug_of,
)
from controlplane.errors import Invalid

GITHUB = Definition(target="n.f", scheme=PRESETS[Preset.GITHUB])
HMAC = Definition(target="n.f", scheme=PRESETS[Preset.HMAC])


@pytest.mark.parametrize("preset", Preset)
def test_every_preset_is_valid(preset: Preset) -> None:
    """As it stands, with nothing said beside it."""
    check(Definition(target="n.f", scheme=PRESETS[preset]))


@pytest.mark.parametrize(
    ("where", "over"),
    [
        ("header", {"header": ""}),
        ("header", {"header": "a b"}),
        ("header", {"header": "a\r\nb"}),
        ("timestamp_header", {"timestamp_header": "é", "signed": "{timestamp}{body}"}),
        ("prefix", {"prefix": "\n"}),
        ("signed", {"signed": "{timestamp}"}),
        ("signed", {"signed": "{body}{body}"}),
        ("signed", {"signed": "{timestamp}{body}"}),
        ("signed", {"timestamp_header": "X-At"}),
        ("id_from", {"signed": "{id}{body}"}),
        ("id_from", {"id_from": "id"}),
        ("id_from", {"id_from": "/a~2"}),
        ("type_from", {"type_from": "header:"}),
        ("type_from", {"type_from": "/a" * 33}),
        ("tolerance_seconds", {"tolerance_seconds": 0.0}),
        ("tolerance_seconds", {"tolerance_seconds": float("nan")}),
    ],
)
def test_a_scheme_that_can_mean_nothing(where: str, over: dict[str, str]) -> None:
    """Is refused, and it is said where."""
    with pytest.raises(Invalid) as refused:
        check(replace(HMAC, scheme=replace(HMAC.scheme, **over)))
    assert refused.value.where == f"body.{where}"


@pytest.mark.parametrize(
    "arguments",
    [
        {"": "/a"},
        {"a": "b"},
        {"a\n": "/b"},
        {"a": "header:authorization"},
        {"a": "header:Cookie"},
        {"a": "header:X-API-Key"},
        {"a": "header:x-hub-signature-256"},
        {str(n): "" for n in range(ARGUMENTS_MAX + 1)},
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, str]) -> None:
    """Neither what finds nothing nor what lets somebody in is handed on."""
    with pytest.raises(Invalid):
        check(replace(GITHUB, arguments=arguments))


@pytest.mark.parametrize("types", [("",), ("a\n",), tuple(map(str, range(TYPES_MAX + 1)))])
def test_types_that_cannot_be(types: tuple[str, ...]) -> None:
    """And none where nothing says which it is."""
    with pytest.raises(Invalid):
        check(replace(GITHUB, event_types=types))
    with pytest.raises(Invalid):
        check(replace(HMAC, event_types=("push",)))


def test_which_events_are_wanted() -> None:
    """All, or those that are named; a ping of GitHub only by its name."""
    push = replace(GITHUB, event_types=("push",))

    assert [GITHUB.wants(one) for one in ("push", None, "ping")] == [True, True, False]
    assert [push.wants(one) for one in ("push", None, "issues")] == [True, False, False]
    assert replace(GITHUB, event_types=("ping",)).wants("ping")


@pytest.mark.parametrize("slug", ["", "a/b", "a.b", "0.a", "01.a", "99999.a", "2.", "2.a b", "x" * 129, "2.a.b"])
def test_slugs_that_name_nothing(slug: str) -> None:
    """There can be no such trigger."""
    assert read_slug(slug) is None


@pytest.mark.parametrize(("namespace", "slug"), [(1, "github"), (2, "2.github"), (32_767, "32767.github")])
def test_a_slug_says_whose_it_is(namespace: int, slug: str) -> None:
    """So that two namespaces may use one name, and neither learns of the other."""
    assert slug_of(namespace, "github") == slug
    assert read_slug(slug) == (namespace, "github")


def test_the_headers_that_are_kept() -> None:
    """Those that say something, and nothing that lets anybody in."""
    asked = replace(GITHUB, arguments={"who": "header:X-Who"})

    assert kept_headers(asked) == {"content-type", "user-agent", "x-github-delivery", "x-github-event", "x-who"}
