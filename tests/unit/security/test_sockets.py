"""There is one way out of the house: nobody but `outbound/dial.py` opens a connection to somebody else's server."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.unit.test_rooms import MODULES, imports, tree


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CLIENTS = words(
    "aiohttp aiohappyeyeballs httpx httpcore requests urllib3 websockets urllib.request http.client ftplib smtplib "
    "imaplib poplib nntplib telnetlib xmlrpc.client"
)
"""Libraries that speak to others."""
OPENS = words(
    "create_connection open_connection open_unix_connection create_datagram_endpoint create_unix_connection "
    "sock_connect connect connect_ex sendto urlopen getaddrinfo gethostbyname"
)
"""What opens a connection, or resolves a name to do so."""
STARTS = words("create_subprocess_exec create_subprocess_shell Popen check_call check_output os.system")
"""What starts a program, which could do it in our place."""

# Who may, and why.
CLIENTS_ALLOWED = {
    "outbound.dial": "aiohttp aiohappyeyeballs",  # the guard itself
    "outbound.exchange": "aiohttp",  # the one client, on the guarded connector
}
OPENS_ALLOWED = {
    "outbound.dial": "getaddrinfo connect",  # `connect`: its super()'s, which dials only what `_socket` has checked
    "postgres.listen": "connect",  # the database of the settings
    "postgres.embedded": "connect",
}
AT_HOME = ("cli.", "server", "postgres.")
"""The command line is a client of this server for whoever types it; `server` listens; `postgres` starts its own."""


def mentions(name: str) -> Iterator[str]:
    """Every name and every attribute, called or handed on; those of `os` with its name."""
    yield from imports(name)
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute):
            yield node.attr
            yield f"os.{node.attr}" if isinstance(node.value, ast.Name) and node.value.id == "os" else ""
        elif isinstance(node, ast.Name):
            yield node.id


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli.")])
def test_only_the_guarded_client_speaks_to_others(name: str) -> None:
    """Whatever a library could do past the guard, nobody has it in hand."""
    found = {one for one in CLIENTS for path in imports(name) if path == one or path.startswith(one + ".")}

    assert found - words(CLIENTS_ALLOWED.get(name, "")) == set()


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli.")])
def test_nobody_else_opens_a_connection(name: str) -> None:
    """Not with the standard library either, nor by a program that is started for it."""
    found = set(mentions(name))

    assert found & OPENS - words(OPENS_ALLOWED.get(name, "")) == set()
    if not name.startswith(AT_HOME):
        assert found & STARTS == set()


def test_the_one_client_follows_nothing_and_believes_no_environment() -> None:
    """Every request of the house is this call: no redirects, no proxies of the environment, the guarded connector."""
    text = ast.unparse(tree("outbound.exchange"))

    assert text.count("session.request(") == 1
    assert "allow_redirects=False" in text
    assert "trust_env=False" in text
    assert text.count("ClientSession(") == text.count("connector=Connector(self._policy") == 1
    for other in ("outbound.node", "outbound.webhook"):
        assert "ClientSession(" not in ast.unparse(tree(other))


def test_the_eyes_are_open() -> None:
    """Each exception above is one that is needed."""
    unused = {name: words(allowed) - set(mentions(name)) for name, allowed in OPENS_ALLOWED.items()}

    assert {name: left for name, left in unused.items() if left} == {}
