"""The pages as a browser asks for them: the servers of the API's tests."""

from tests.integration.api.conftest import api, house, receiver, settings, shared

__all__ = ["api", "house", "receiver", "settings", "shared"]
