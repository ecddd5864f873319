"""The whole machine: each layer adds what else may happen."""

from __future__ import annotations

from tests.property.crashes import Crashes


class Whole(Crashes):
    """What is run."""
