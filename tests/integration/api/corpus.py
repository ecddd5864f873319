"""Hostile input: values, bodies, ids, query words and headers, each with what is known of it beforehand."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

CANARY = "kanarie7f3a"
"""Stands in many of these: no refusal may say it back."""

_CANARY = CANARY.encode()


@dataclass(frozen=True, slots=True)
class Value:
    """A piece of text where JSON wants a value. `fit`: it is strict JSON, so it is taken and comes back as it was."""

    name: str
    raw: bytes
    fit: bool
    big: bool = False


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]", core: bytes = b"") -> bytes:
    return opening * depth + core + closing * depth


# A payload is at most 200 deep with what it is wrapped in, which is one level here.
FIT = [
    Value(name, raw, fit=True)
    for name, raw in {
        "null": b"null",
        "true": b"true",
        "false": b"false",
        "zero": b"0",
        "one": b"1",
        "minus zero": b"-0",
        "float minus zero": b"-0.0",
        "trailing zeros": b"1.000",
        "0.10": b"0.10",
        "exponent": b"1e2",
        "capital exponent": b"1E+2",
        "2^53+1": b"9007199254740993",
        "2^31": b"2147483648",
        "-2^31-1": b"-2147483649",
        "2^63": b"9223372036854775808",
        "2^64": b"18446744073709551616",
        "-2^63-1": b"-9223372036854775809",
        "1e22 in digits": b"1" + b"0" * 22,
        "300 digits": b"9" * 300,
        "many decimals": b"3." + b"14159" * 100,
        "largest double": b"1.7976931348623157e308",
        "smallest double": b"4.9e-324",
        "underflow": b"1e-400",
        "empty string": b'""',
        "space": b'" "',
        "escaped NUL": rb'"\u0000"',
        "escaped NUL inside": rb'"kanarie7f3a\u0000b"',
        "escaped controls": rb'"\b\f\n\r\t\u001f"',
        "escaped letters": rb'"\u006b\u0061"',
        "escaped slash": rb'"\/"',
        "escaped emoji": rb'"\ud83d\ude00"',
        "raw DEL": b'"\x7f"',
        "C1 controls": '"\u0080\u009f"'.encode(),
        "line separators": '"\u2028\u2029"'.encode(),
        "RTL override": '"\u202ekanarie7f3a"'.encode(),
        "BOM inside": '"\ufeff"'.encode(),
        "noncharacters": '"\uffff\ufdd0"'.encode(),
        "private use": '"\ue000"'.encode(),
        "last code point": '"\U0010ffff"'.encode(),
        "emoji family": '"👩\u200d👩\u200d👧"'.encode(),
        "zalgo": ('"' + "k\u0301\u0302\u0303" * 50 + '"').encode(),
        "composed and not": '["é","e\u0301"]'.encode(),
        "homoglyph": '"pаypal"'.encode(),
        "html": b'"<script>alert(`kanarie7f3a`)</script>"',
        "sql": b'"\'; drop table queue; -- kanarie7f3a"',
        "format": b'"%s %n {0} {kanarie7f3a} ${jndi:ldap://kanarie7f3a}"',
        "path": b'"../../etc/kanarie7f3a"',
        "header split": rb'"kanarie7f3a\r\nX-Evil: 1"',
        "event split": rb'"kanarie7f3a\n\ndata: {}\n\n"',
        "number as text": b'"12"',
        "true as text": b'"true"',
        "nan as text": b'"NaN"',
        "empty list": b"[]",
        "empty object": b"{}",
        "list of null": b"[null]",
        "duplicate keys": b'{"a":1,"a":2}',
        "keys out of order": b'{"z":1,"a":2,"m":3}',
        "empty key": b'{"":1}',
        "NUL key": rb'{"\u0000":1}',
        "proto": b'{"__proto__":{"admin":true},"constructor":{"prototype":1}}',
        "dunder": b'{"__class__":"kanarie7f3a","self":1,"ctx":2}',
        "whitespace": b" [ 1 ,\t2 ,\r\n 3 ] ",
        "lines": b'{\n  "a": [\n    1\n  ],\n\n  "data": "x"\n}',
        "depth 190": nested(190),
        "depth 190 of objects": nested(190, b'{"a":', b"}", b"1"),
        "brackets in strings": b'"' + b"[{" * 500 + b'"',
        "quotes and brackets": rb'["\"[[[\\", "\\\"]]"]',
        "id of ours": b'"exec_00000000000000000000000000~1"',
    }.items()
] + [
    Value("long string", b'"' + b"kanarie7f3a" * 20_000 + b'"', fit=True, big=True),
    Value("long key", b'{"' + b"k" * 100_000 + b'":1}', fit=True, big=True),
    Value("many keys", b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(100_000)) + b"}", fit=True, big=True),
    Value("many elements", b"[" + b"0," * 200_000 + b"0]", fit=True, big=True),
    Value("many brackets, not deep", b"[" + b"[]," * 50_000 + b"[]]", fit=True, big=True),
]

UNFIT = [
    Value(name, raw, fit=False)
    for name, raw in {
        "nothing": b"",
        "NaN": b"NaN",
        "-NaN": b"-NaN",
        "Infinity": b"Infinity",
        "-Infinity": b"-Infinity",
        "1e400": b"1e400",
        "-1e400": b"-1e400",
        "1e131071": b"1e131071",
        "a list of 1e131071": b"[" + b"1e131071," * 999 + b"1e131071]",
        "5,000 digits": b"9" * 5_000,
        "leading zero": b"01",
        "plus": b"+1",
        "hex": b"0x10",
        "bare point": b".5",
        "trailing point": b"5.",
        "bare exponent": b"1e",
        "two minus": b"--1",
        "underscore": b"1_000",
        "fullwidth digit": "１".encode(),
        "Python's words": b"None",
        "JavaScript's words": b"undefined",
        "capital true": b"True",
        "single quotes": b"'kanarie7f3a'",
        "no quotes": b"kanarie7f3a",
        "unclosed string": b'"kanarie7f3a',
        "unclosed list": b"[1",
        "unclosed object": b'{"a":1',
        "closing too much": b"1]",
        "closing the body": b"1}}",
        "trailing comma": b"[1,]",
        "leading comma": b"[,1]",
        "missing colon": b'{"a" 1}',
        "missing value": b'{"a":}',
        "number as key": b"{1:2}",
        "comment": b"1 /* kanarie7f3a */",
        "line comment": b"1 // kanarie7f3a",
        "two values": b"1 2",
        "high surrogate": rb'"\ud800"',
        "high surrogate and text": rb'"\ud800kanarie7f3a"',
        "low surrogate": rb'"\udc00"',
        "surrogates the wrong way": rb'"\udc00\ud800"',
        "surrogate and letter": rb'"\ud800\u0041"',
        "surrogate key": rb'{"\ud800":1}',
        "short escape": rb'"\u12"',
        "no escape": rb'"\x41"',
        "backslash at the end": b'"kanarie7f3a\\',
        "raw NUL": b'"kanarie7f3a\x00"',
        "NUL outside": b"\x001",
        "raw newline": b'"kanarie7f3a\n"',
        "raw escape": b'"\x1b[31mkanarie7f3a"',
        "bad UTF-8": b'"kanarie7f3a\xff"',
        "bad UTF-8 key": b'{"\xff":1}',
        "cut off UTF-8": b'"\xf0\x9f\x98"',
        "lone continuation": b'"\x80"',
        "overlong slash": b'"\xc0\xaf"',
        "overlong NUL": b'"\xc0\x80"',
        "CESU-8": b'"\xed\xa0\xbd\xed\xb8\x80"',
        "surrogate in UTF-8": b'"\xed\xa0\x80"',
        "beyond Unicode": b'"\xf4\x90\x80\x80"',
        "five bytes": b'"\xf8\x88\x80\x80\x80"',
        "Latin-1": '"é"'.encode("latin-1"),
        "open 1,000": b"[" * 1_000,
    }.items()
] + [
    Value("depth 100,000", nested(100_000), fit=False, big=True),
    Value("open 100,000", b"[" * 100_000, fit=False, big=True),
    Value("depth 100,000 of objects", nested(100_000, b'{"":', b"}", b"1"), fit=False, big=True),
    Value("a million digits", b"7" * 1_000_000, fit=False, big=True),
]

# Strict JSON, and yet refused as a payload.
TOO_DEEP = [
    Value("depth 201", nested(201), fit=False),
    Value("depth 201 of objects", nested(201, b'{"a":', b"}", b"1"), fit=False),
    Value("depth 1,000", nested(1_000), fit=False),
]

VALUES = FIT + UNFIT + TOO_DEEP

# Whole bodies, whatever the route wants.
BODIES = {
    "empty": b"",
    "space": b" ",
    "newlines": b"\r\n\r\n",
    "NUL": b"\x00",
    "zeros": b"\x00" * 1_000,
    "garbage": bytes(range(256)) * 4,
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "string": b'"kanarie7f3a"',
    "list": b"[]",
    "list of objects": b"[{}]",
    "object": b"{}",
    "object and space": b" {} \n",
    "trailing brace": b"{}}",
    "two objects": b"{}{}",
    "two lines": b"{}\n{}",
    "trailing NUL": b"{}\x00",
    "trailing text": b"{} kanarie7f3a",
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16 with BOM": "{}".encode("utf-16"),
    "UTF-16LE": '{"input":{}}'.encode("utf-16-le"),
    "UTF-32": "{}".encode("utf-32"),
    "unclosed": b'{"input":',
    "form": b"input=kanarie7f3a&key=1",
    "multipart": b"--x\r\nContent-Disposition: form-data; name=input\r\n\r\nkanarie7f3a\r\n--x--\r\n",
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
    "YAML": b"input: !!python/object/apply:os.system [kanarie7f3a]",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07kanarie\x94.",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00",
    "unknown field": b'{"kanarie7f3a":1}',
    "many unknown fields": b"{" + b",".join(b'"kanarie7f3a%d":%d' % (n, n) for n in range(1_000)) + b"}",
    "surrogate field": rb'{"\ud800":1}',
    "bad UTF-8 field": b'{"\xff":1}',
    "NUL field": rb'{"\u0000":1}',
    "proto field": b'{"__proto__":{"kanarie7f3a":1}}',
    "empty field": b'{"":1}',
    "long field": b'{"' + b"kanarie7f3a" * 10_000 + b'":1}',
    "depth 100,000": nested(100_000),
    "depth 100,000 in a field": b'{"kanarie7f3a":' + nested(100_000) + b"}",
    "open 100,000": b"[" * 100_000,
    "objects without end": b'{"a":' * 50_000,
    "NaN": b"NaN",
    "NaN in a field": b'{"kanarie7f3a":NaN}',
    "many digits": b"1" * 100_000,
    "spaces": b" " * 1_000_000,
}
OVERSIZED_BYTES = 10_485_760 + 1

SHOWN_ID = "exec_00000000000000000000000000"

# Segments of a path, as they go over the wire. None of them is a row that exists.
IDS = {
    "nothing": "",
    "space": "%20",
    "NUL": "%00",
    "newline": "%0a",
    "carriage return": "%0d%0aX-Evil:%201",
    "bad UTF-8": "%ff",
    "cut off UTF-8": "%f0%9f",
    "overlong": "%c0%af",
    "CESU-8": "%ed%a0%80",
    "raw bad UTF-8": "\udcff\udcfe",
    "raw UTF-8": "\udcc3\udca9",
    "RTL": "%d7%90%d7%91",
    "RTL override": "%e2%80%ae",
    "zero width": "%e2%80%8b",
    "emoji": "%f0%9f%98%80",
    "combining": "e%cc%81",
    "fullwidth": "%ef%bd%85%ef%bd%98%ef%bd%85%ef%bd%83",
    "homoglyph": "%d0%b5x%d0%b5c_00000000000000000000000000",
    "dot": ".",
    "dots": "..",
    "encoded dots": "%2e%2e",
    "up": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "slash": "%2f",
    "backslash": "%5c",
    "percent": "%",
    "bad percent": "%zz",
    "double encoded": "%252e%252e",
    "star": "*",
    "quote": "%27%20or%201=1--",
    "double quote": "%22",
    "angle": "%3Cscript%3Ekanarie7f3a%3C%2fscript%3E",
    "braces": "{}",
    "brackets": "[]",
    "semicolon": ";a=b",
    "ampersand": "a&b",
    "plus": "a+b",
    "tilde": "~",
    "canary": CANARY,
    "long": "a" * 10_000,
    "129 letters": "a" * 129,
    "129 letters each": "a" * 129 + "." + "b" * 129,
    "number": "0",
    "negative": "-1",
    "large number": "9" * 40,
    "exponent": "1e400",
    "null": "null",
    "undefined": "undefined",
    "one dot": "n.",
    "dot first": ".echo",
    "two dots": "n.echo.x",
    "dots in a row": "n..echo",
    "other case": "N.ECHO",
    "trailing space": "n.echo%20",
    "trailing newline": "n.echo%0a",
    "trailing NUL": "n.echo%00",
    "fullwidth dot": "n%ef%bc%8eecho",
    "unknown target": f"n.{CANARY}",
    "unknown node": f"{CANARY}.echo",
    "first letter": "-n.echo",
    "prefix only": "exec_",
    "no prefix": SHOWN_ID.removeprefix("exec_"),
    "wrong prefix": SHOWN_ID.replace("exec", "run"),
    "capital prefix": SHOWN_ID.replace("exec", "EXEC"),
    "digit too few": SHOWN_ID[:-1],
    "digit too many": SHOWN_ID + "0",
    "digits that are none": SHOWN_ID[:-4] + "ilou",
    "too large": "exec_8" + "0" * 25,
    "largest": "exec_7" + "z" * 25,
    "unknown": SHOWN_ID,
    "unknown session": SHOWN_ID.replace("exec", "ses"),
    "unknown delivery": SHOWN_ID.replace("exec", "dlv"),
    "largest session": "ses_7" + "z" * 25,
    "largest delivery": "dlv_7" + "z" * 25,
    "attempt": SHOWN_ID + "~1",
    "attempt 0": SHOWN_ID + "~0",
    "attempt -1": SHOWN_ID + "~-1",
    "attempt of many digits": SHOWN_ID + "~" + "9" * 5_000,
    "attempt that is none": SHOWN_ID + "~a",
    "no attempt": SHOWN_ID + "~",
    "two attempts": SHOWN_ID + "~1~2",
    "fullwidth attempt": SHOWN_ID + "~%ef%bc%91",
    "UUID": "018f2f9e-7b7a-7cc3-98c4-dc0c0c07398f",
    "AgentField's": "exec_20260101_000000_abcdefgh",
}

WORDS = [
    "",
    "%00",
    "%ff",
    "%0d%0a",
    "%20",
    "0",
    "1",
    "-1",
    "00001",
    "+1",
    "1.5",
    "1e2",
    "1e400",
    "-0",
    "NaN",
    "Infinity",
    "9" * 19,
    "9" * 20,
    "9" * 5_000,
    "9223372036854775807",
    "18446744073709551616",
    "%EF%BC%91",
    "%C2%B2",
    "1_0",
    "0x10",
    "true",
    "null",
    "[]",
    "{}",
    CANARY,
    f"%22{CANARY}%22",
    f"%27%20or%201=1--{CANARY}",
    f"%E2%80%AE{CANARY}",
    "queued,succeeded",
    "queued,,succeeded",
    "paused",
    "QUEUED",
    "global",
    "run",
    "workflow",
    SHOWN_ID,
    SHOWN_ID + "~1",
    "exec_7" + "z" * 25,
    "0.0.0",
    "0.9223372036854775807.9223372036854775807",
    "0.9223372036854775808.0",
    "32767.1.1_0.1.1",
    "0.1",
    "0.1.1_",
    "_",
    "..",
    "a" * 10_000,
]

# What stands behind the colon, as bytes: HTTP forbids some of them, and then no route sees the request.
HEADER_VALUES = [
    b"",
    b" ",
    b"\t",
    b"0",
    b"-1",
    b"1e400",
    b"null",
    _CANARY,
    b'"' + _CANARY + b'"',
    b"a, b, c",
    b"\x00",
    b"\x01",
    b"\x7f",
    b"a\tb",
    b"\xff\xfe",
    b"\x80\x9f",
    b"\xa0",
    "é".encode(),
    "é".encode("latin-1"),
    "\u202e".encode(),
    "😀".encode(),
    b"\xed\xa0\x80",
    b"%00",
    b"%0d%0aX-Evil: 1",
    b"=?utf-8?B?AAAA?=",
    b"' or 1=1--",
    b"${jndi:ldap://x}",
    b"../../etc/passwd",
    b"a" * 200,
    b"a" * 201,
    b"a" * 513,
    b"a" * 10_000,
    SHOWN_ID.encode(),
    SHOWN_ID.encode() + b"~1",
    SHOWN_ID.encode() + b"~0",
    SHOWN_ID.encode() + b"~" + b"9" * 30,
    SHOWN_ID.upper().encode(),
    b"exec_7" + b"z" * 25,
    b"exec_7" + b"z" * 25 + b"~1",
    b"run_7" + b"z" * 25,
    b"run_" + b"0" * 26,
    b"0.1.1",
    b"0.0",
]

# Whole header lines that any request may carry.
HEADER_LINES: dict[str, list[bytes]] = {
    "no content type": [b"Content-Type:"],
    "text": [b"Content-Type: text/plain"],
    "UTF-16": [b"Content-Type: application/json; charset=utf-16"],
    "garbage type": [b"Content-Type: \xff\xff; charset=\x80"],
    "gzip": [b"Content-Encoding: gzip"],
    "accepts nothing": [b"Accept: */*;q=0", b"Accept-Encoding: identity;q=0", b"Accept-Charset: \xff"],
    "cookies": [b"Cookie: a=b; \xff=\x80; " + b"c" * 4_000],
    "conditions": [b"If-None-Match: *", b"If-Match: *", b"If-Modified-Since: garbage", b"Range: bytes=0-0,-1"],
    "another method": [b"X-HTTP-Method-Override: DELETE", b"X-Method-Override: PUT"],
    "another path": [b"X-Original-URL: /admin", b"X-Rewrite-URL: /admin", b"X-Forwarded-Prefix: /evil"],
    "another client": [b"X-Forwarded-For: 127.0.0.1, \xff", b'Forwarded: for="[::1]"', b"X-Real-IP: garbage"],
    "another scheme": [b"X-Forwarded-Proto: javascript", b"X-Forwarded-Host: " + _CANARY],
    "a key nobody asked for": [b"X-API-Key: " + _CANARY, b"Authorization: Bearer " + _CANARY],
    "broken authorization": [b"Authorization: " + b"\xff" * 100],
    "the same twice": [b"X-Run-ID: a", b"X-Run-ID: b", b"x-run-id: c", b"X-RUN-ID:d"],
    "a hundred": [b"X-H%d: %d" % (n, n) for n in range(100)],
    "a thousand": [b"X-H%d: %d" % (n, n) for n in range(1_000)],
    "a large one": [b"X-Large: " + b"a" * 60_000],
    "no name": [b": 1"],
    "space in a name": [b"X Evil: 1"],
    "space before the colon": [b"X-Evil : 1"],
    "bytes in a name": [b"X-\xff: 1"],
    "folded": [b"X-Folded: a", b" b"],
    "upgrade": [b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"],
    "upgrade to a socket": [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"],
    "expects": [b"Expect: 100-continue"],
    "expects more": [b"Expect: 200-ok"],
    "trailers": [b"TE: trailers", b"Trailer: X-Evil"],
    "traced": [b"traceparent: 00-garbage", b"tracestate: \xff"],
}


@dataclass(frozen=True, slots=True)
class Spot:
    """One field of a form, and the body around it."""

    name: str
    before: bytes
    after: bytes
    payload: bool

    def body(self, value: bytes) -> bytes:
        return self.before + value + self.after


MARK = "@spot@"
ITEM = "*"
Known = Mapping[str, object]


def spots(form: type, known: Known) -> Iterator[Spot]:
    """Every field of a form, once those of each form inside it too, each in a body that is otherwise in order.

    `known`: values by the name of the field, for those that must say something in particular.
    """
    for path, kind in _paths(form, set()):
        body = _example(form, known, path)
        before, after = msgspec.json.encode(body).split(b'"' + MARK.encode() + b'"')
        yield Spot(".".join(path), before, after, payload=kind is msgspec.Raw)


def example(form: type, known: Known) -> bytes:
    """A body in order, with every field."""
    return msgspec.json.encode(_example(form, known, ()))


def _paths(form: type, seen: set[object]) -> Iterator[tuple[tuple[str, ...], object]]:
    for field in msgspec.structs.fields(form):
        kind = _core(field.type)
        yield (field.encode_name,), kind
        for path, inner in _paths_in(kind, seen):
            yield (field.encode_name, *path), inner


def _paths_in(kind: object, seen: set[object]) -> Iterator[tuple[tuple[str, ...], object]]:
    if _is_form(kind):
        if kind not in seen:
            yield from _paths(typing.cast("type", kind), seen | {kind})
            seen.add(kind)
    elif typing.get_origin(kind) in (list, dict):
        inner = _core(typing.get_args(kind)[-1])
        if not _is_form(inner):
            yield (ITEM,), inner
        for path, deeper in _paths_in(inner, seen):
            yield (ITEM, *path), deeper


def _example(form: type, known: Known, mark: tuple[str, ...]) -> dict[str, object]:
    """A body with a mark at this path. What leads there is filled in, what lies aside is left as it is known to be."""
    body: dict[str, object] = {}
    for field in msgspec.structs.fields(form):
        name = field.encode_name
        if mark[:1] == (name,):
            body[name] = _marked(_core(field.type), known, mark[1:])
        elif name in known:
            body[name] = known[name]
        elif type(None) not in typing.get_args(field.type):
            body[name] = _value(field.type, known)
    return body


def _marked(kind: object, known: Known, mark: tuple[str, ...]) -> object:
    if not mark:
        return MARK
    if _is_form(kind):
        return _example(typing.cast("type", kind), known, mark)
    one = _marked(_core(typing.get_args(kind)[-1]), known, mark[1:])
    return [one] if typing.get_origin(kind) is list else {"X-Name": one}


def _value(kind: object, known: Known) -> object:
    if _is_form(kind):
        return _example(typing.cast("type", kind), known, ())
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    if typing.get_origin(kind) is list:
        return [_value(_core(typing.get_args(kind)[0]), known)]
    plain: dict[object, object] = {str: "k", int: 1, float: 1.0, bool: True}
    return plain.get(kind, {})


def _core(kind: object) -> object:
    """A type without its `| None`."""
    if isinstance(kind, types.UnionType):
        return next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


def _is_form(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
