"""Sends run on both event loops: asyncio's own, and uvloop where it is installed; they differ in how a socket fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping

import pytest

if sys.platform != "win32":
    import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that every test of this folder is run on."""
    if sys.platform == "win32":
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
