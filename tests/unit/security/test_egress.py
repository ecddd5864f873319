"""The guard against calls into the house: every range, every spelling, every URL and header trick we know."""

from __future__ import annotations

from ipaddress import IPv6Network, collapse_addresses, ip_network

import pytest

from controlplane.errors import EgressRefused, Invalid
from controlplane.security.egress import DENIED, METADATA, EgressPolicy, Network, Origin, check_headers

PUBLIC = EgressPolicy()


def allowing(*networks: str, loopback: bool = False) -> EgressPolicy:
    return EgressPolicy(allow=tuple(ip_network(network) for network in networks), allow_loopback=loopback)


def refuses(policy: EgressPolicy, address: str) -> bool:
    try:
        policy.check_address(address)
    except EgressRefused:
        return True
    return False


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700:4700::1111", "::ffff:8.8.8.8"],
)
def test_public_address_passes(address: str) -> None:
    """The public internet may be called, in either family."""
    PUBLIC.check_address(address)


@pytest.mark.parametrize("network", [network for network, _ in DENIED], ids=str)
def test_denied_range_is_refused_from_end_to_end(network: Network) -> None:
    """First, middle and last address of every listed range."""
    for address in (network[0], network[network.num_addresses // 2], network[-1]):
        assert refuses(PUBLIC, str(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
        "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1",
        "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.2.3", "240.0.0.1",
        "255.255.255.255", "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "::ffff:100.100.100.200", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1",
        "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:2::1", "2001:db8::1",
        "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00::1", "fe80::1", "fec0::1",
        "ff02::1", "4000::1",
    ],
)  # fmt: skip
def test_inner_address_is_refused(address: str) -> None:
    """Whatever is not plainly public stays uncalled."""
    assert refuses(PUBLIC, address)


@pytest.mark.parametrize("address", ["fe80::1%eth0", "fe80::1%25eth0", "8.8.8.8%lo", "2606:4700::1%1"])
def test_zone_is_refused(address: str) -> None:
    """A zone picks an interface of ours."""
    assert refuses(allowing("fe80::/10", "::/0", "0.0.0.0/0"), address)


@pytest.mark.parametrize(
    "text", ["", " 8.8.8.8", "8.8.8.8 ", "8.8.8", "08.8.8.8", "0x8.8.8.8", "example.com", "\u0668.8.8.8"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Only canonical addresses are read here; nothing is guessed."""
    assert refuses(PUBLIC, text)


def test_allowed_network_passes_in_every_wrapping_that_is_allowed_too() -> None:
    """An allow-list entry opens that network; a tunnel to it stays shut until the tunnel is listed as well."""
    inner, both = allowing("10.0.0.0/8"), allowing("10.0.0.0/8", "64:ff9b::/96")

    assert not refuses(inner, "10.1.2.3")
    assert not refuses(inner, "::ffff:10.1.2.3")
    assert refuses(inner, "192.168.1.1")
    assert refuses(inner, "64:ff9b::10.1.2.3")
    assert not refuses(both, "64:ff9b::10.1.2.3")
    assert not refuses(both, "64:ff9b::8.8.8.8")


@pytest.mark.parametrize(
    ("tunnel", "address"),
    [
        ("64:ff9b::/96", "64:ff9b::10.0.0.1"),
        ("64:ff9b:1::/48", "64:ff9b:1::10.0.0.1"),
        ("::/96", "::10.0.0.1"),
        ("2002::/16", "2002:a00:1::1"),
        ("2001::/32", "2001:0:808:808::f5ff:fffe"),  # client 10.0.0.1
        ("2001::/32", "2001:0:a00:1::f7f7:f7f7"),  # server 10.0.0.1
        ("::/3", "::ffff:0:10.0.0.1"),
        ("2400::/12", "2400::5efe:10.0.0.1"),
        ("2400::/12", "2400::200:5efe:10.0.0.1"),
    ],
)
def test_allowed_tunnel_does_not_open_what_is_behind_it(tunnel: str, address: str) -> None:
    """Listing a translation prefix does not list the private network it could reach."""
    assert refuses(allowing(tunnel), address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_passes_when_allowed(address: str) -> None:
    """For development, and nothing else is opened by it."""
    assert not refuses(allowing(loopback=True), address)
    assert refuses(PUBLIC, address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"])
def test_allowed_loopback_opens_nothing_else(address: str) -> None:
    """Not even the other ways to write loopback that only some systems understand."""
    assert refuses(allowing(loopback=True), address)


@pytest.mark.parametrize("address", sorted(METADATA, key=str), ids=str)
def test_metadata_needs_its_exact_address(address: object) -> None:
    """A range that holds a metadata service does not open it."""
    everything = ("0.0.0.0/0", "::/0")

    assert refuses(PUBLIC, str(address))
    assert refuses(allowing(*everything), str(address))
    assert not refuses(allowing(*everything, str(address)), str(address))


@pytest.mark.parametrize(
    "address",
    ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "::169.254.169.254", "::ffff:100.100.100.200"],
)
def test_metadata_in_disguise_is_refused_even_when_all_is_allowed(address: str) -> None:
    """Unwrapping comes before the allow-list."""
    assert refuses(allowing("0.0.0.0/0", "::/0"), address)


def test_refusal_says_why_and_what_to_do_but_not_where_it_led() -> None:
    """The range is named, the address is not: a name must not become a way to look into our DNS."""
    with pytest.raises(EgressRefused) as refused:
        PUBLIC.check_address("10.11.12.13", where="/webhook/url")

    assert "10.0.0.0/8" in refused.value.detail
    assert "10.11.12.13" not in refused.value.detail
    assert refused.value.where == "/webhook/url"
    assert refused.value.fix


@pytest.mark.parametrize(
    ("url", "host", "port", "called"),
    [
        ("https://example.com", "example.com", 443, "https://example.com/"),
        ("HTTPS://EXAMPLE.com:443/A?b", "example.com", 443, "https://example.com/A?b"),
        ("http://example.com:8080?q=1", "example.com", 8080, "http://example.com:8080/?q=1"),
        ("http://example.com:443/", "example.com", 443, "http://example.com:443/"),
        ("http://a_b.internal/x", "a_b.internal", 80, "http://a_b.internal/x"),
        ("https://bücher.example/ü?ü", "xn--bcher-kva.example", 443, "https://xn--bcher-kva.example/%C3%BC?%C3%BC"),
        ("https://8.8.8.8/", "8.8.8.8", 443, "https://8.8.8.8/"),
        ("https://134744072/", "8.8.8.8", 443, "https://8.8.8.8/"),
        ("https://[2606:4700:0::1]:8443/", "2606:4700::1", 8443, "https://[2606:4700::1]:8443/"),
        ("https://a.b/c/../d//%2e?x=a+b%20c&s=A%2Bb/=~'()*", "a.b", 443, "https://a.b/c/../d//%2e?x=a+b%20c&s=A%2Bb/=~'()*"),
        ("https://a.b/<|>", "a.b", 443, "https://a.b/%3C%7C%3E"),
    ],
)  # fmt: skip
def test_good_url_is_taken_apart(url: str, host: str, port: int, called: str) -> None:
    """Scheme and host are normalised; path and query are called as given."""
    scheme = url.partition(":")[0].lower()

    assert PUBLIC.check_url(url) == Origin(scheme=scheme, host=host, port=port, url=called)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7F000001", "017700000001", "0177.0.0.1", "0",
        "0x0", "0.0.0.0", "00", "10.1", "3232235777", "0xA9FEA9FE", "169.254.43518", "[::1]", "[::]",
        "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]",
        "[fe80::1%25eth0]", "[fe80::1%eth0]", "[fd00:ec2::254]", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021",
        "\u2460\u2461\u2466.0.0.1", "168.63.129.16",
    ],
)  # fmt: skip
@pytest.mark.parametrize("port", ["", ":8080"])
def test_literal_address_is_refused_in_every_spelling(host: str, port: str) -> None:
    """Whatever a resolver would take for an inner address is one."""
    with pytest.raises(EgressRefused):
        PUBLIC.check_url(f"http://{host}{port}/")


@pytest.mark.parametrize("port", ["0", "1", "22", "25", "81", "1023", "65536", "99999"])
def test_port_of_a_system_service_is_refused(port: str) -> None:
    """80, 443 and 1024 upwards; a webhook is no way to speak to a mail server."""
    with pytest.raises(EgressRefused, match="port"):
        PUBLIC.check_url(f"https://example.com:{port}/")


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "//example.com/", "/path", "ftp://example.com/", "file:///etc/passwd", "gopher://x:70/",
        "javascript:alert(1)", "http:example.com", "http:/example.com", "http:///example.com", "http://", "http://?x",
        "http://:80/", "https://user@example.com/", "https://user:secret@example.com/", "https://@example.com/",
        "http://example.com@127.0.0.1/", "http://127.0.0.1\\@example.com/", "http://example.com\\.evil/",
        "https://example.com/#x", "https://example.com#@evil/", "https://example.com/ x", "https://a.b/x\\y", " https://example.com/",
        "https://example.com/\n", "https://exa\tmple.com/", "https://example.com/\r\nX: y", "https://example.com/\0",
        "https://example.com/\x7f", "https://example.com/\x85", "https://example.com/\u2028", "https://example.com/\u202e",
        "https://example.com/\ud800", "https://exam\u200bple.com/", "https://example.com./", "https://.example.com/",
        "https://a..b/", "https://-a.example/", "https://a-.example/", "https://a%2eb/", "https://127.0.0.%31/",
        "https://ex*mple.com/", "https://a,b/", "https://a!b/", "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 127 + "a/", "https://stra\u00dfe.example/", "https://1.2.3.4.5/", "https://256.1.1.1/",
        "https://1.2.3.08/", "https://example.0x/", "https://a.1/", "https://example.com:/", "https://example.com:-1/",
        "https://example.com:\u0661\u0660\u0662\u0664/", "https://example.com:80:80/", "https://[::1/", "https://::1/",
        "https://[::1]x/", "https://[v1.x]/", "https://[1.2.3.4]/", "https://[]/", "https://[::g]/",
        "https://example.com/" + "x" * 2048,
    ],
)  # fmt: skip
def test_what_is_no_usable_url_is_invalid(url: str) -> None:
    """Each trick that makes two parsers disagree is refused, not repaired."""
    with pytest.raises(Invalid) as refused:
        PUBLIC.check_url(url, where="/here")

    assert refused.value.where == "/here"
    assert refused.value.fix


def test_longest_url_passes() -> None:
    """2048 characters are enough and allowed."""
    url = "https://example.com/".ljust(2048, "x")

    assert PUBLIC.check_url(url).url == url


def test_http_is_refused_where_the_operator_wants_tls() -> None:
    """One switch for the whole installation."""
    strict = EgressPolicy(allow_http=False)

    assert strict.check_url("https://example.com/").port == 443
    with pytest.raises(EgressRefused, match="http"):
        strict.check_url("http://example.com/")


def test_allowed_loopback_url_is_canonical() -> None:
    """What is called is the address that was checked, not the spelling it came in."""
    assert allowing(loopback=True).check_url("http://0x7f.1:9000/x").url == "http://127.0.0.1:9000/x"
    assert allowing(loopback=True).check_url("http://[0::1]:9000/x").host == "::1"


def test_good_headers_pass_unchanged() -> None:
    """Credentials of the receiver are what custom headers are for."""
    headers = {"Authorization": "Bearer a.b-c_d~e+f/g==", "X-Tenant": "", "x-cookie": " a=\"b\"; c '{}' "}

    assert check_headers(headers) == headers


@pytest.mark.parametrize(
    "name",
    [
        "host", "Host", "CONTENT-LENGTH", "Transfer-Encoding", "connection", "TE", "trailer", "Upgrade", "Expect",
        "Content-Type", "content-encoding", "accept-encoding", "keep-alive", "User-Agent", "webhook-id",
        "Webhook-Signature", "webhook-", "X-AgentField-Signature", "x-agentfield-", "Proxy-Authorization",
        "proxy-connection",
    ],
)  # fmt: skip
def test_header_that_we_or_the_protocol_set_is_invalid(name: str) -> None:
    """Nobody forges a signature header or the framing of the request."""
    with pytest.raises(Invalid, match="set by the sender"):
        check_headers({name: "x"})


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "a\r\nb", "a\0", "é", "(x)", "a,b", '"a"', "\ud800", "x" * 129])
def test_header_name_outside_the_token_letters_is_invalid(name: str) -> None:
    """And it is not echoed."""
    with pytest.raises(Invalid) as refused:
        check_headers({name: "x"})

    assert refused.value.where == "/webhook/headers"


@pytest.mark.parametrize(
    "value", ["a\r\nX: y", "\n", "\0", "\t", "\x7f", "é", "\u2028", "\ud800", "x" * 1025, 1, None, ["x"]]
)
def test_header_value_that_is_not_short_plain_text_is_invalid(value: object) -> None:
    """No line breaks, no letters that client and receiver decode differently, no megabytes."""
    with pytest.raises(Invalid) as refused:
        check_headers({"X-A~B": value})

    assert refused.value.where == "/webhook/headers/X-A~0B"


def test_header_given_twice_is_invalid() -> None:
    """Names differ by case only: receivers would disagree which one counts."""
    with pytest.raises(Invalid, match="twice"):
        check_headers({"X-A": "1", "x-a": "2"})
    with pytest.raises(Invalid, match="twice"):
        check_headers({"x-a": "1", "X-A": "2"})


def test_twenty_headers_pass_and_one_more_is_invalid() -> None:
    """The limit itself is allowed."""
    check_headers({f"X-{n}": "x" * 1024 for n in range(20)})

    with pytest.raises(Invalid, match="20"):
        check_headers({f"X-{n}": "x" for n in range(21)})


SPECIAL_PURPOSE = [
    "0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/32",
    "192.0.0.171/32", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.88.99.2/32",
    "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
    "255.255.255.255/32", "::1/128", "::/128", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64",
    "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48",
    "2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16",
    "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "224.0.0.0/4", "ff00::/8", "fec0::/10",
]  # fmt: skip
"""IANA's registries of special-purpose addresses; and multicast and site-local, which do not stand there."""


@pytest.mark.parametrize("network", SPECIAL_PURPOSE)
def test_no_special_purpose_range_may_be_called(network: str) -> None:
    """Nor those that IANA calls globally reachable: no webhook is received there."""
    inner = IPv6Network(network) if ":" in network else ip_network(network)
    if network == "::ffff:0:0/96":  # as good as the IPv4 address that it means
        assert not refuses(PUBLIC, "::ffff:8.8.8.8")
        inner = IPv6Network("::ffff:127.0.0.0/104")

    assert refuses(PUBLIC, str(inner[0]))
    assert refuses(PUBLIC, str(inner[-1]))
    assert any(inner.subnet_of(one) for one, _ in DENIED if one.version == inner.version) or network[:4] == "::ff"


def test_table_of_denied_ranges_leaves_only_public_unicast() -> None:
    """Nothing outside 2000::/3 slips between the listed ranges."""
    denied = [network for network, _ in DENIED if isinstance(network, IPv6Network)]

    assert list(collapse_addresses([*denied, IPv6Network("2000::/3")])) == [IPv6Network("::/0")]
