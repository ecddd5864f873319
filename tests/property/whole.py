"""The whole machine: each layer adds what else may happen."""

from __future__ import annotations

from tests.property.control import Control


class Whole(Control):
    """What is run."""
