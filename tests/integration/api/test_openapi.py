"""The OpenAPI document: everything that can be asked, as it can be asked."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
    """Parameters of the path, the form of the body, and a problem for every refusal."""
    paths = (await document(shared))["paths"]

    for one in OPERATIONS:
        said = paths[one.path][one.method.lower()]
        in_path = {each["name"] for each in said["parameters"] if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", one.path)), one.path
        assert ("requestBody" in said) == (one.takes is not None), one.path
        assert said["summary"], one.path
        assert said["responses"].keys() - {"401"} == {str(status) for status in one.answers} - {"401"}, one.path
        assert ("401" in said["responses"]) == (one.tag != "health" or one.path == "/metrics"), one.path
        for status, answer in said["responses"].items():
            assert ("application/problem+json" in answer.get("content", {})) == (int(status) >= 400), one.path


async def test_forms_name_their_fields(shared: Api) -> None:
    """What a submit takes can be read there, unknown fields excluded."""
    schemas = (await document(shared))["components"]["schemas"]

    assert {"input", "context", "webhook", "retries", "timeout_seconds"} <= schemas["SubmitForm"]["properties"].keys()
    assert schemas["SubmitForm"]["additionalProperties"] is False
    assert schemas["WebhookForm"]["required"] == ["url"]
