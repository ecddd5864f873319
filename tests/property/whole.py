"""The whole machine: each layer adds what else may happen."""

from __future__ import annotations

from tests.property.together import Together


class Whole(Together):
    """What is run."""
