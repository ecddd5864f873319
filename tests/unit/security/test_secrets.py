"""Sealing at rest: what opens, what must not, and one key for all processes that start at once."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from controlplane.security.secrets import KeyRing, SealBroken

OLD = "old:" + "A" * 43 + "="
NEW = "new:" + "B" * 42 + "A="
PLACE = b"webhooks/secret/1/42"


def test_sealed_opens_in_its_place() -> None:
    """What was sealed comes back, the empty secret included."""
    ring = KeyRing.from_text(NEW)

    assert ring.open(ring.seal(b"whsec_x", bound_to=PLACE), bound_to=PLACE) == b"whsec_x"
    assert ring.open(ring.seal(b"", bound_to=PLACE), bound_to=PLACE) == b""


def test_seal_hides_and_never_repeats() -> None:
    """Two seals of one secret share nothing but the head."""
    ring = KeyRing.from_text(NEW)
    one, two = (ring.seal(b"whsec_canary", bound_to=PLACE) for _ in range(2))

    assert one != two
    assert b"canary" not in one


def test_moved_to_another_place_does_not_open() -> None:
    """Two rows whose sealed values were swapped both fail."""
    ring = KeyRing.from_text(NEW)

    with pytest.raises(SealBroken, match="another place"):
        ring.open(ring.seal(b"x", bound_to=PLACE), bound_to=PLACE + b"3")


def test_old_key_opens_and_new_key_seals() -> None:
    """After a key is put in front, earlier secrets stay readable."""
    sealed = KeyRing.from_text(OLD).seal(b"x", bound_to=PLACE)
    ring = KeyRing.from_text(f" {NEW} ,\n{OLD}\n")

    assert ring.current == "new"
    assert ring.open(sealed, bound_to=PLACE) == b"x"
    assert b"new" in ring.seal(b"x", bound_to=PLACE)


def test_key_that_is_gone_does_not_open() -> None:
    """A seal names its key, so the error can say which one is missing."""
    sealed = KeyRing.from_text(OLD).seal(b"x", bound_to=PLACE)

    with pytest.raises(SealBroken, match="'old'"):
        KeyRing.from_text(NEW).open(sealed, bound_to=PLACE)


def test_renamed_key_does_not_open() -> None:
    """The key's id is authenticated as well as the place."""
    sealed = KeyRing.from_text(OLD).seal(b"x", bound_to=PLACE)
    ring = KeyRing.from_text(OLD.replace("old", "OLD"))

    with pytest.raises(SealBroken):
        ring.open(sealed.replace(b"old", b"OLD"), bound_to=PLACE)


def test_every_changed_byte_and_every_cut_is_noticed() -> None:
    """No single flipped bit and no shortened value opens or raises anything but SealBroken."""
    ring = KeyRing.from_text(NEW)
    sealed = ring.seal(b"whsec_x", bound_to=PLACE)
    flipped = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]
    cut = [sealed[:i] for i in range(len(sealed))]

    for broken in (*flipped, *cut, sealed + b"\0", b"plain text", b"\x01\xff\xff"):
        with pytest.raises(SealBroken):
            ring.open(broken, bound_to=PLACE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "nocolon",
        "k:",
        "k:AAAA",
        "k:" + "A" * 43,
        "k:not base64",
        "k:" + "é" * 44,
        ":" + "A" * 43 + "=",
        "a b:" + "A" * 43 + "=",
        "k" * 33 + ":" + "A" * 43 + "=",
        f"{OLD},{OLD}",
        f"{OLD},",
    ],
)
def test_malformed_ring_is_refused(text: str) -> None:
    """A typing error is found at start, not at the first secret."""
    with pytest.raises(ValueError, match="key"):
        KeyRing.from_text(text)


def test_keys_never_show() -> None:
    """Neither repr nor an error quotes key material."""
    material = NEW.partition(":")[2]
    with pytest.raises(ValueError, match="key 2") as refused:
        KeyRing.from_text(f"{OLD},{material}")

    assert material not in str(refused.value)
    assert repr(KeyRing.from_text(f"{NEW},{OLD}")) == "KeyRing(current='new', keys=2)"


def test_generated_ring_is_usable_and_new() -> None:
    """Each generated text is a ring of its own."""
    texts = {KeyRing.generate() for _ in range(10)}

    assert len(texts) == 10
    assert all(KeyRing.from_text(text) for text in texts)


def test_file_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    """The second start reads what the first one wrote; nobody else can."""
    path = tmp_path / "new" / "keys"
    sealed = KeyRing.load_or_create(path).seal(b"x", bound_to=PLACE)

    assert KeyRing.load_or_create(path).open(sealed, bound_to=PLACE) == b"x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """However many race, all hold the key that is in the file."""
    path = tmp_path / "keys"
    spawn = multiprocessing.get_context("spawn")
    gate, answers = spawn.Barrier(4), spawn.SimpleQueue()
    racers = [spawn.Process(target=_race, args=(path, gate, answers)) for _ in range(4)]
    for racer in racers:
        racer.start()
    sealed = [answers.get() for _ in racers]
    for racer in racers:
        racer.join()

    ring = KeyRing.load_or_create(path)
    assert [ring.open(value, bound_to=PLACE) for value in sealed] == [b"x"] * 4
    assert list(tmp_path.iterdir()) == [path]


def _race(path: Path, gate: object, answers: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    answers.put(KeyRing.load_or_create(path).seal(b"x", bound_to=PLACE))  # type: ignore[attr-defined]
