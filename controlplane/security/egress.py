"""Which addresses, URLs and headers a webhook may use. Nothing here resolves a name or opens a socket.

A URL comes from a stranger and is called from inside the house, so everything that is not plainly the public internet
is refused unless the operator lists it. The standard library's `is_global` is not asked: it calls several spellings of
loopback and of the metadata service global (`::ffff:100.100.100.200`, `64:ff9b::a9fe:a9fe`, `2002:7f00:1::`).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

from controlplane.errors import EgressRefused, Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

URL_CHARS_MAX = 2048
HEADERS_MAX = 20
HEADER_NAME_CHARS_MAX = 128
HEADER_VALUE_CHARS_MAX = 1024

DENIED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "a private network"),
        ("100.64.0.0/10", "shared carrier addresses"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "a private network"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112 sinks"),
        ("192.52.193.0/24", "multicast tunnels"),
        ("192.88.99.0/24", "6to4 relays"),
        ("192.168.0.0/16", "a private network"),
        ("192.175.48.0/24", "AS112 sinks"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::1/128", "loopback"),
        ("::/96", "unspecified or IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard-only"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112 sinks"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "a private network"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
        # Only 2000::/3 has been given out as public; these three are all the rest.
        ("::/3", "not public"),
        ("4000::/2", "not public"),
        ("8000::/1", "not public"),
    )
)

METADATA: frozenset[Address] = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",  # AWS, Google, Azure, OpenStack, DigitalOcean, Oracle …
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure's wire server, in otherwise public space
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fe80::a9fe:a9fe",  # OpenStack
    )
)
"""They hand out credentials: allowed only when the operator lists exactly that address, never as part of a range."""

LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_IPV4_COMPATIBLE = IPv6Network("::/96")
_IPV4_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_ISATAP = frozenset((0x0000_5EFE, 0x0200_5EFE))  # the third quarter of an address that a tunnel router unwraps

_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?]+)(?P<rest>.*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]+)(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")  # what a resolver takes for an address, not a name
_AMBIGUOUS = frozenset("ßς")  # IDNA 2003 and 2008 give them different hosts
_DEFAULT_PORTS = {"http": 80, "https": 443}

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_HEADERS_DENIED = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    )
)
_HEADER_PREFIXES_DENIED = ("webhook-", "x-agentfield-", "proxy-")

_FIX_ADDRESS = "use a public address, or ask the operator to allow this network for outgoing calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A URL that may be called as far as can be told without resolving its host.

    `url` is the one to call: ASCII only, host in lower case, path and query otherwise as given. `host` has no brackets.
    """

    scheme: str
    host: str
    port: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """What may be called: the public internet, and what the operator allows beyond it."""

    allow: tuple[Network, ...] = ()
    allow_loopback: bool = False
    allow_http: bool = True

    def check_address(self, ip_text: str, *, where: str = "/webhook/url") -> None:
        """Return if this address may be dialled. IPv4 hidden in IPv6 is taken out and must pass as well.

        Raises: EgressRefused. It names the range, not the address: who may not call a host need not learn where it is.
        """
        if "%" in ip_text:
            raise EgressRefused("An address with a zone may not be called.", where=where, fix=_FIX_ADDRESS)
        try:
            address = ip_address(ip_text)
        except ValueError:
            raise EgressRefused("This is not an IP address.", where=where, fix=_FIX_ADDRESS) from None
        for reading in _readings(address):
            refused = self._refusal(reading)
            if refused is not None:
                raise EgressRefused(f"This address may not be called: {refused}.", where=where, fix=_FIX_ADDRESS)

    def check_url(self, url: str, *, where: str = "/webhook/url") -> Origin:
        """Take a URL apart and refuse what may never be called. Its host's addresses are checked again when dialled.

        Literal addresses are checked here, in every spelling a resolver understands (`127.1`, `0x7f.1`, `2130706433`).
        Raises: Invalid for what is no usable URL, EgressRefused for what is one but may not be called.
        """
        if len(url) > URL_CHARS_MAX:
            raise Invalid(f"The URL is longer than {URL_CHARS_MAX} characters.", where=where, fix="use a shorter URL")
        if " " in url or "\\" in url or not url.isprintable():
            fix = "percent-encode it"
            raise Invalid("The URL holds a space, a backslash or a control character.", where=where, fix=fix)
        if "#" in url:
            raise Invalid("The URL has a fragment.", where=where, fix="leave out '#' and what follows")
        parts = _URL.fullmatch(url)
        if parts is None:
            raise Invalid("This is not an http or https URL.", where=where, fix="write https://host/path")
        scheme = parts["scheme"].lower()
        if scheme == "http" and not self.allow_http:
            raise EgressRefused("Plain http is not allowed here.", where=where, fix="use https")
        host, port = self._authority(parts["authority"], scheme, where)
        netloc = f"[{host}]" if ":" in host else host
        netloc += "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
        rest = quote(parts["rest"], safe="/?:@!$&'()*+,;=-._~%[]")
        path = rest if rest.startswith("/") else "/" + rest
        return Origin(scheme=scheme, host=host, port=port, url=f"{scheme}://{netloc}{path}")

    def _authority(self, authority: str, scheme: str, where: str) -> tuple[str, int]:
        if "@" in authority:
            raise Invalid("The URL holds a user name.", where=where, fix="send credentials in webhook.headers")
        parts = _AUTHORITY.fullmatch(authority)
        if parts is None:
            raise Invalid("The URL's host or port is not valid.", where=where, fix="write https://host:port/path")
        port = int(parts["port"]) if parts["port"] else _DEFAULT_PORTS[scheme]
        if port not in (80, 443) and not 1024 <= port <= 65535:
            raise EgressRefused("This port may not be called.", where=where, fix="use 80, 443 or 1024 to 65535")
        host = _host(parts["host"], where)
        if ":" in host or _NUMERIC.fullmatch(host):
            self.check_address(host, where=where)
        return host, port

    def _refusal(self, address: Address) -> str | None:
        if address in METADATA:
            exact = any(network.num_addresses == 1 and address in network for network in self.allow)
            return None if exact else "a metadata service"
        if any(address in network for network in self.allow):
            return None
        if self.allow_loopback and any(address in network for network in LOOPBACK):
            return None
        return next((f"{what} ({network})" for network, what in DENIED if address in network), None)


def check_headers(headers: Mapping[str, object], *, where: str = "/webhook/headers") -> dict[str, str]:
    """The custom headers of a webhook, safe to send: a few, plain ASCII, and none that we or the protocol set.

    Values are ASCII, because the client would send others as UTF-8 and receivers would read them as Latin-1.
    Raises: Invalid.
    """
    if len(headers) > HEADERS_MAX:
        raise Invalid(f"There are more than {HEADERS_MAX} headers.", where=where, fix="send fewer")
    safe: dict[str, str] = {}
    for name, value in headers.items():
        if len(name) > HEADER_NAME_CHARS_MAX or not _HEADER_NAME.fullmatch(name):
            raise Invalid("A header's name is not valid.", where=where, fix="use letters, digits and '-'")
        here = f"{where}/{name.replace('~', '~0')}"
        if name.lower() in _HEADERS_DENIED or name.lower().startswith(_HEADER_PREFIXES_DENIED):
            raise Invalid("This header is set by the sender.", where=here, fix="choose another name, such as X-…")
        if name.lower() in {other.lower() for other in safe}:
            raise Invalid("This header is given twice.", where=here, fix="give it once")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise Invalid("A header's value must be printable ASCII.", where=here, fix="encode it, as base64 or so")
        if len(value) > HEADER_VALUE_CHARS_MAX:
            raise Invalid(
                f"The value is longer than {HEADER_VALUE_CHARS_MAX} characters.", where=here, fix="shorten it"
            )
        safe[name] = value
    return safe


def _readings(address: Address) -> Iterator[Address]:
    """Every address that a packet to this one might end up at."""
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:  # the kernel dials the IPv4 address itself
        yield address.ipv4_mapped
        return
    yield address
    if (
        any(address in network for network in (*_NAT64, _IPV4_TRANSLATED))
        or (address in _IPV4_COMPATIBLE and int(address) > 1)
        or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP
    ):
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    yield from address.teredo or ()  # its server and its client


def _host(text: str, where: str) -> str:
    """The host in the one spelling that is used from here on."""
    if text.startswith("["):
        return _ipv6(text[1:-1], where)
    host = text.lower()
    if not host.isascii():
        if _AMBIGUOUS & set(host):
            raise Invalid("The host has more than one ASCII form.", where=where, fix="write its xn-- form")
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise Invalid("The host is not a valid name.", where=where, fix="write its xn-- form") from None
    if _NUMERIC.fullmatch(host):
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            raise Invalid("The host is neither a name nor an IPv4 address.", where=where, fix="check it") from None
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise Invalid("The host is not a valid name.", where=where, fix="write it without a dot at its end")
    return host


def _ipv6(text: str, where: str) -> str:
    if "%" in text:
        raise EgressRefused("An address with a zone may not be called.", where=where, fix=_FIX_ADDRESS)
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise Invalid("This is not an IPv6 address.", where=where, fix="write http://[address]:port/") from None
