"""`controlplane generate-secret-key`."""

from __future__ import annotations

import orjson

from controlplane.cli import output
from controlplane.security.secrets import KeyRing


def generate(*, as_json: bool) -> None:
    """Print a new key ring."""
    text = KeyRing.generate()
    output.data(orjson.dumps({"secret_key": text}) if as_json else text)
