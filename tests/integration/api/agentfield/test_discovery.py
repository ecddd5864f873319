"""Discovery over HTTP: every parameter, the three formats, and the client of AgentField's SDK in shape."""

from __future__ import annotations

import time
from datetime import datetime
from xml.etree import ElementTree

import httpx
import pytest

from tests.integration.api.serving import Api, Json, the_problem

PATH = "/discovery/capabilities"
SCHEMA = {"type": "object", "properties": {"x": {"type": "number"}}}


@pytest.fixture
async def staff(api: Api) -> Api:
    """`alpha` is connected and searches, `beta` is away and adds and sums up."""
    custom = {"examples": {"deep_search": [{"q": "a"}, "skip"]}, "descriptions": {"search": "finds"}}
    alpha = {
        "id": "alpha",
        "version": "2.1.0",
        "reasoners": [
            {"id": "search", "tags": ["ml", "web"], "input_schema": SCHEMA, "output_schema": {"type": "string"}},
            {"id": "deep_search", "description": "digs <deeper> \x0b & further", "tags": ["research"]},
        ],
        "metadata": {"custom": custom},
    }
    beta = {"id": "beta", "reasoners": [{"id": "sum_up"}], "skills": [{"id": "add", "tags": ["maths"]}]}
    for node in (alpha, beta, {"id": "idle"}):
        assert (await api.post("/nodes/register", node)).status_code == 201
    await api.open_session("alpha")
    return api


async def discover(api: Api, **params: Json) -> dict[str, Json]:
    found: dict[str, Json] = await api.get(PATH, **params)
    return found


def names(found: dict[str, Json]) -> dict[str, list[str]]:
    """What of each node was found."""
    return {one["agent_id"]: [each["id"] for each in one["reasoners"] + one["skills"]] for one in found["capabilities"]}


async def test_everybody_is_found(staff: Api) -> None:
    """Nodes by name, each with what it serves, in the shape that the SDK reads."""
    found = await discover(staff)
    alpha, beta, _ = found["capabilities"]

    assert names(found) == {"alpha": ["deep_search", "search"], "beta": ["sum_up", "add"], "idle": []}
    assert [found[name] for name in ("total_agents", "total_reasoners", "total_skills")] == [3, 3, 1]
    assert found["pagination"] == {"limit": 100, "offset": 0, "has_more": False}
    assert (alpha["version"], alpha["health_status"], alpha["deployment_type"]) == ("2.1.0", "active", "long_running")
    assert (beta["health_status"], beta["base_url"], beta["group_id"]) == ("inactive", "", "beta")
    assert [one["invocation_target"] for one in alpha["reasoners"]] == ["alpha.deep_search", "alpha.search"]
    assert all(datetime.fromisoformat(one["last_heartbeat"]) for one in found["capabilities"])
    assert datetime.fromisoformat(found["discovered_at"])


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"agent": "alpha"}, ["alpha"]),
        ({"node_id": "beta"}, ["beta"]),
        ({"agent_ids": "alpha, beta,alpha"}, ["alpha", "beta"]),
        ({"node_ids": "idle", "agent": "alpha"}, ["alpha", "idle"]),
        ({"agent": "nobody"}, []),
        ({"reasoner": "search"}, ["alpha"]),
        ({"reasoner": "*search*"}, ["alpha"]),
        ({"reasoner": "s*"}, ["alpha", "beta"]),
        ({"reasoner": "s*m*p"}, ["beta"]),
        ({"reasoner": "*"}, ["alpha", "beta", "idle"]),
        ({"reasoner": "sear"}, []),
        ({"skill": "a*"}, ["beta"]),
        ({"tags": "maths,web"}, ["alpha", "beta"]),
        ({"tags": "re*"}, ["alpha"]),
        ({"health_status": "active"}, ["alpha"]),
        ({"health_status": "HEALTHY"}, ["alpha"]),
        ({"health_status": "inactive"}, ["beta", "idle"]),
        ({"agent": "", "reasoner": "", "tags": "", "health_status": "", "format": "", "limit": ""}, None),
    ],
    ids=str,
)
async def test_nodes_are_chosen(staff: Api, params: Json, expected: list[str] | None) -> None:
    """By id, name, tag and health; `*` stands for anything, and what is empty for everything."""
    assert list(names(await discover(staff, **params))) == (
        expected or (["alpha", "beta", "idle"] * (expected is None))
    )


async def test_a_pattern_leaves_the_other_kind_out(staff: Api) -> None:
    """Asked for a reasoner, a node shows no skills, and the reverse; asked for both it shows both."""
    assert names(await discover(staff, reasoner="sum*")) == {"beta": ["sum_up"]}
    assert names(await discover(staff, skill="add")) == {"beta": ["add"]}
    assert names(await discover(staff, reasoner="sum*", skill="add")) == {"beta": ["sum_up", "add"]}


async def test_details_are_asked_for(staff: Api) -> None:
    """Descriptions come by themselves, schemas and examples when they are wanted."""
    plain = (await discover(staff, agent="alpha", include_descriptions="false"))["capabilities"][0]["reasoners"]
    full = await discover(
        staff, include_input_schema="true", include_output_schema="1", include_examples="yes", agent="alpha"
    )
    deep, search = full["capabilities"][0]["reasoners"]

    assert [one.keys() for one in plain] == [{"id", "tags", "invocation_target"}] * 2
    assert (search["description"], search["input_schema"], search["output_schema"]) == (
        "finds",
        SCHEMA,
        {"type": "string"},
    )
    assert (deep["description"], deep["examples"]) == ("digs <deeper> \x0b & further", [{"q": "a"}])
    assert "input_schema" not in deep


async def test_schemas_of_several_nodes(staff: Api) -> None:
    """Read together where a page holds more than one node."""
    found = await discover(staff, include_input_schema="true")

    assert found["capabilities"][0]["reasoners"][1]["input_schema"] == SCHEMA


async def test_pages_count_nodes(staff: Api) -> None:
    """The totals are those of all that match; none fits on a page of nothing."""
    second = await discover(staff, limit=1, offset=1)
    last = await discover(staff, limit=1, offset=2)
    nothing = await discover(staff, limit=0)
    beyond = await discover(staff, offset=1_000_000)

    assert (list(names(second)), second["total_agents"], second["pagination"]["has_more"]) == (["beta"], 3, True)
    assert (list(names(last)), last["pagination"]["has_more"]) == (["idle"], False)
    assert (names(nothing), nothing["pagination"]) == ({}, {"limit": 0, "offset": 0, "has_more": True})
    assert (names(beyond), beyond["total_agents"]) == ({}, 3)


async def test_compact(staff: Api) -> None:
    """Targets and nothing more."""
    found = await discover(staff, format="compact", agent="beta")

    assert found.keys() == {"discovered_at", "reasoners", "skills"}
    assert found["reasoners"] == [{"id": "sum_up", "agent_id": "beta", "target": "beta.sum_up", "tags": []}]
    assert found["skills"] == [{"id": "add", "agent_id": "beta", "target": "beta.add", "tags": ["maths"]}]


async def test_xml(staff: Api) -> None:
    """Well-formed whatever a description holds, and saying the same."""
    answer = await staff.client.get(f"/api/v1{PATH}", params={"format": "xml", "include_input_schema": "true"})
    root = ElementTree.fromstring(answer.content)
    deep, search = root.findall("./capabilities/agent[@agent_id='alpha']/reasoners/reasoner")

    assert answer.headers["content-type"].startswith("application/xml")
    assert (root.tag, root.attrib["total_agents"]) == ("discovery", "3")
    assert root.find("pagination") is not None
    assert deep.findtext("description") == "digs <deeper> \ufffd & further"
    assert search.attrib["invocation_target"] == "alpha.search"
    assert [tag.text for tag in search.findall("tags/tag")] == ["ml", "web"]
    assert search.findtext("input_schema") == '{"type":"object","properties":{"x":{"type":"number"}}}'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "501"),
        ("limit", "-1"),
        ("limit", "x"),
        ("limit", "1e2"),
        ("offset", "1000001"),
        ("offset", "9" * 30),
        ("format", "yaml"),
        ("health_status", "broken"),
        ("include_input_schema", "maybe"),
        ("include_output_schema", "2"),
        ("include_descriptions", "ja"),
        ("include_examples", "none"),
        ("reasoner", "a" * 201),
        ("tags", ",".join("a" * 201)),
    ],
)
async def test_what_cannot_be_asked(shared: Api, name: str, value: str) -> None:
    """400, and the parameter is named."""
    problem = the_problem(await shared.client.get(f"/api/v1{PATH}", params={name: value}), 400, "invalid_parameter")

    assert (problem["parameter"], problem["where"]) == (name, f"query/{name}")


async def test_many_stars_are_not_slow(api: Api) -> None:
    """A pattern costs what its letters cost, however many ways there are to read it."""
    await api.register("n", "a" * 128)

    started = time.monotonic()
    found = await discover(api, reasoner="a*" * 99 + "b")

    assert found["total_agents"] == 0
    assert time.monotonic() - started < 2


async def test_head_is_answered(shared: Api) -> None:
    """As of every read."""
    answer: httpx.Response = await shared.client.head(f"/api/v1{PATH}")

    assert answer.status_code == 200
