"""The OpenAPI document: everything that can be asked, as it can be asked."""

from __future__ import annotations

import re
from collections.abc import Iterator

from controlplane.api.contract import CONTRACT
from controlplane.app import OPERATIONS
from tests.integration.api.serving import Api, Json


async def document(shared: Api) -> Json:
    answer = await shared.client.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def references(node: Json) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_every_operation_is_there_and_nothing_else(shared: Api) -> None:
    """By path and method, each with a name of its own."""
    paths = (await document(shared))["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    names = [one["operationId"] for methods in paths.values() for one in methods.values()]

    assert there == {(one.method, one.path) for one in OPERATIONS}
    assert len(names) == len(set(names))


async def test_every_reference_leads_somewhere(shared: Api) -> None:
    """Forms stand among the components."""
    said = await document(shared)

    for reference in set(references(said)):
        node = said
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


async def test_every_operation_says_what_it_takes_and_answers(shared: Api) -> None:
    """Parameters of the path, the form of the body, and a problem for every refusal; any may meet the guard."""
    whole = await document(shared)
    paths, shared_answers = whole["paths"], whole["components"]["responses"]

    for one in OPERATIONS:
        said = paths[one.path][one.method.lower()]
        in_path = {each["name"] for each in said["parameters"] if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", one.path)), one.path
        assert "requestBody" in said or one.takes is None, one.path
        assert said["summary"], one.path
        gate = {"401", "403"} if one.scope else set()
        guard = {"408", "429", "431", "503", "4XX"}
        assert said["responses"].keys() - guard == {str(status) for status in one.answers} - guard | gate, one.path
        for status, given in said["responses"].items():
            answer = shared_answers[given["$ref"].rsplit("/", 1)[1]] if "$ref" in given else given
            assert answer.get("content") or status == "204", (one.path, status)


async def test_forms_name_their_fields(shared: Api) -> None:
    """What a submit takes can be read there, unknown fields excluded."""
    schemas = (await document(shared))["components"]["schemas"]

    assert {"input", "context", "webhook", "retries", "timeout_seconds"} <= schemas["SubmitForm"]["properties"].keys()
    assert schemas["SubmitForm"]["additionalProperties"] is False
    assert schemas["WebhookForm"]["required"] == ["url"]


async def test_every_handler_says_what_it_promises() -> None:
    """A route without a contract is a route whose answers nobody checks."""
    missing = {one.handler for one in OPERATIONS if one.handler not in CONTRACT}
    unsaid = [
        (one.path, status)
        for one in OPERATIONS
        for status in one.answers
        if status < 400 and status not in CONTRACT[one.handler].answers
    ]

    assert not missing, "add them to controlplane/api/contract/"
    assert not unsaid


async def test_every_link_leads_to_an_operation(shared: Api) -> None:
    """By its name, with parameters that the operation takes."""
    paths = (await document(shared))["paths"]
    known = {
        one["operationId"]: {each["name"] for each in one["parameters"]}
        for methods in paths.values()
        for one in methods.values()
    }
    links = [
        link
        for methods in paths.values()
        for one in methods.values()
        for answer in one["responses"].values()
        for link in answer.get("links", {}).values()
    ]

    assert links
    for link in links:
        assert link.get("parameters", {}).keys() <= known[link["operationId"]], link


async def test_a_key_opens_what_its_scope_says(shared: Api) -> None:
    """Each alternative is one scheme with one scope; only streams take a key or a ticket in their query."""
    paths = (await document(shared))["paths"]

    for one in OPERATIONS:
        said = paths[one.path][one.method.lower()]["security"]
        assert {scope for each in said for scopes in each.values() for scope in scopes} == set(one.scope), one.path
        in_query = {scheme for each in said for scheme in each if scheme.startswith("query_")}
        assert in_query == ({"query_key", "query_ticket"} if one.streams else set()), one.path
