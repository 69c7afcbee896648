"""docs/openapi.yaml says what the functions do: the same routes, schemas, limits and words, and every answer they give.

Nothing is stated here that the document or the code state: one is held against the other.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import reversals
from openapi_spec_validator import OpenAPIV31SpecValidator
from reversals import assembly, payloads, schemas
from reversals.model import Source, Status
from reversals.notifications import Receipt
from reversals.rules import TABLE, Fact

from functions.callback import app as callback
from functions.initiate import app as initiate
from functions.resolve import app as resolve
from local.simulator import Simulator
from tests import kopokopo
from tests.conftest import Cloud, Output, Reply
from tests.kopokopo import CANCELLED, REFERENCE, result, webhook
from tests.openapi import Description, description

CREATE = "POST /reversals"
LIST = "GET /reversals"
GET = "GET /reversals/{transaction_reference}"
RESOLVE = "POST /reversals/{transaction_reference}/resolution"
RESULT = "POST /kopokopo/results/{transaction_reference}/{attempt}"
WEBHOOK = "POST /kopokopo/webhooks"

BY_API_GATEWAY = {403, 429}  # answered before any function is asked


@pytest.fixture
def api() -> Description:
    return description()


def component(api: Description, kind: str, name: str) -> Any:
    return api.document["components"][kind][name]


# ------------------------------------------------------------------------------------------------ the document


def test_it_is_openapi_3_1(api: Description) -> None:
    assert api.document["openapi"].startswith("3.1.")
    assert [str(error) for error in OpenAPIV31SpecValidator(api.document).iter_errors()] == []


def test_it_is_of_this_version(api: Description) -> None:
    assert api.document["info"]["version"] == reversals.__version__


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("ReversalRequest", schemas.REVERSAL_REQUEST),
        ("Resolution", schemas.RESOLUTION),
        ("Result", schemas.RESULT),
        ("ReversedWebhook", schemas.REVERSED_WEBHOOK),
    ],
)
def test_the_schemas_are_those_that_the_functions_check_with(api: Description, name: str, schema: Any) -> None:
    assert component(api, "schemas", name) == schema


def test_its_routes_are_those_of_the_template(api: Description, cloudformation: dict[str, Any]) -> None:
    (found,) = [it for it in cloudformation["Resources"].values() if it["Type"] == "AWS::ApiGatewayV2::Api"]
    deployed = {
        f"{method.upper()} {path}": next(iter(operation["security"][0]))
        for path, operations in found["Properties"]["Body"]["paths"].items()
        for method, operation in operations.items()
        if path != "$default"
    }
    authorizer = {"iam": "AWS_IAM", "signature": "NONE"}
    described = {
        route: authorizer[next(iter((operation.get("security") or api.document["security"])[0]))]
        for route, operation in api.operations.items()
    }
    assert described == deployed


def examples(api: Description) -> Iterator[tuple[Any, Any]]:
    """Every example of the document, with the schema beside it."""
    waiting: list[Any] = [api.document["paths"], api.document["components"]]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and "example" in part:
            yield part["example"], part["schema"]
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []


def test_its_examples_are_as_its_schemas_have_it(api: Description) -> None:
    found = list(examples(api))
    assert len(found) >= 8
    assert [error for example, schema in found for error in api.errors(example, schema)] == []


def test_its_references_lead_somewhere_and_nothing_is_without_a_reference(api: Description) -> None:
    text = json.dumps(api.document)
    used = {tuple(it.split("/")) for it in re.findall(r'"#/components/([^"]+)"', text)}
    schemes = {("securitySchemes", name) for name in ("iam", "signature")}
    assert used | schemes == {(kind, name) for kind, it in api.document["components"].items() for name in it}


# ------------------------------------------------------------------------------------------------ its words and limits


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("Status", set(Status)),
        ("HistoryEntry/properties/source", set(Source)),
        ("HistoryEntry/properties/evidence", set(Fact)),
        ("ReversalWithoutHistory/properties/failure/oneOf/1/properties/code", {it.failure for it in TABLE.values()}),
        ("ResultDocument/properties/data/allOf/1/properties/type", set(payloads.RESULT_TYPES)),
    ],
)
def test_its_words_are_those_of_the_code(api: Description, where: str, words: set[str | None]) -> None:
    schema = api.document["components"]["schemas"]
    for step in where.split("/"):
        schema = schema[int(step) if step.isdigit() else step]
    assert set(schema["enum"]) == words - {None}


def test_its_topics_and_receipts_are_those_of_the_code(api: Description) -> None:
    body = api.operations[WEBHOOK]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["allOf"][1]["properties"]["topic"]["enum"]) == payloads.REVERSED_TOPICS
    received = component(api, "responses", "Received")["content"]["application/json"]["schema"]
    assert set(received["properties"]["status"]["enum"]) == set(Receipt)


def test_a_reversal_has_just_the_members_that_are_described(api: Description, cloud: Cloud) -> None:
    cloud.deliver(result())
    described = set(component(api, "schemas", "ReversalWithoutHistory")["properties"])
    assert set(component(api, "schemas", "ReversalWithoutHistory")["required"]) == described
    assert set(cloud.get("/reversals").json["items"][0]) == described
    assert set(cloud.get(f"/reversals/{REFERENCE}").json) == described | {"history"}


@pytest.mark.parametrize("limit", ["minimum", "maximum"])
def test_the_limit_of_a_list(api: Description, cloud: Cloud, limit: str) -> None:
    schema = api.parameter(LIST, "limit")
    outside = {"minimum": -1, "maximum": 1}[limit]
    assert cloud.get("/reversals", limit=str(schema[limit])).status == 200
    assert cloud.get("/reversals", limit=str(schema[limit] + outside)).status == 400


def test_a_list_has_as_many_as_is_said_unless_it_is_told_otherwise(api: Description, cloud: Cloud) -> None:
    default = api.parameter(LIST, "limit")["default"]
    for number in range(default + 1):
        cloud.deliver(result(f"TQ{number}"), f"TQ{number}")
    answer = cloud.get("/reversals").json
    assert (len(answer["items"]), answer["cursor"] is None) == (default, False)
    assert component(api, "schemas", "ReversalList")["properties"]["items"]["maxItems"] > default


def test_the_length_of_an_idempotency_key(api: Description, cloud: Cloud) -> None:
    schema = api.parameter(CREATE, "Idempotency-Key")
    body = {"transaction_reference": REFERENCE, "reason": "x"}
    for length in (schema["minLength"] - 1, schema["maxLength"] + 1):
        answer = cloud.post("/reversals", body, headers={"Idempotency-Key": "k" * length})
        assert (answer.status, answer.json["errors"][0]["field"]) == (400, "Idempotency-Key")
    for length in (schema["minLength"], schema["maxLength"]):
        assert cloud.post("/reversals", body, headers={"Idempotency-Key": "k" * length}).status == 503  # not sent


def test_the_attempts_that_a_path_may_name(api: Description, cloud: Cloud) -> None:
    schema = api.parameter(RESULT, "attempt")
    for attempt, status in (
        (schema["minimum"] - 1, 400),
        (schema["minimum"], 200),
        (schema["maximum"], 200),
        (schema["maximum"] + 1, 400),
    ):
        assert cloud.deliver(result(attempt=attempt, bulk=None), attempt=attempt).status == status


@pytest.mark.parametrize(
    ("route", "limit"),
    [
        (CREATE, initiate.BODY_LIMIT),
        (RESOLVE, resolve.BODY_LIMIT),
        (RESULT, callback.BODY_LIMIT),
        (WEBHOOK, callback.BODY_LIMIT),
    ],
)
def test_the_size_of_a_body(api: Description, route: str, limit: int) -> None:
    assert f"At most {limit // 1024} KB" in api.operations[route]["requestBody"]["description"]


def test_the_examples_of_kopo_kopos_documents_are_taken(api: Description, cloud: Cloud) -> None:
    for route, path in ((RESULT, f"/kopokopo/results/{REFERENCE}/1"), (WEBHOOK, "/kopokopo/webhooks")):
        example = api.operations[route]["requestBody"]["content"]["application/json"]["example"]
        assert cloud.notify(path, example).status == 200
    assert cloud.get(f"/reversals/{REFERENCE}").json["status"] == "reversed"


# ------------------------------------------------------------------------------------------------ its answers


@dataclass
class Stage:
    """A stack whose Kopo Kopo is the simulator, and of whose every answer is noted how it differs from the document."""

    cloud: Cloud
    breaks: pytest.MonkeyPatch
    statuses: dict[str, set[int]] = field(default_factory=dict)
    problems: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        return self._noted(method, path, self.cloud.request(method, path, body, **options))

    def notify(self, path: str, document: Any, **options: Any) -> Reply:
        return self._noted("POST", path, self.cloud.notify(path, document, **options))

    def unset(self, function: str, setting: str) -> None:
        """Take a setting from a function, which has to start again."""
        self.cloud.cold_start(function)
        self.breaks.delenv(setting)

    def _noted(self, method: str, path: str, answer: Reply) -> Reply:
        self.statuses.setdefault(description().route(method, path) or "elsewhere", set()).add(answer.status)
        self.violations += description().violations(method, path, answer)
        if answer.headers["content-type"] == "application/problem+json":
            self.problems.add(answer.json["type"])
        return answer


def body(reference: str = "TQ1", **changes: Any) -> dict[str, Any]:
    return {"transaction_reference": reference, "reason": "Paid twice", **changes}


def ways_to_create(stage: Stage) -> None:
    for request in (body(), body(), body(reason="Another"), body("BROKEN1"), body("REJECT1"), {}):
        stage.ask("POST", "/reversals", request)
    stage.ask("POST", "/reversals", b" " * (64 * 1024 + 1))
    stage.cloud.put_secret("CredentialsSecret", {"client_id": "somebody", "client_secret": "wrong"})
    stage.cloud.put_secret("TokenSecret", {})
    stage.cloud.cold_start("initiate")
    stage.ask("POST", "/reversals", body("TQ2"))
    stage.unset("initiate", "TABLE_NAME")
    stage.ask("POST", "/reversals", body("TQ3"))


def ways_to_look(stage: Stage) -> None:
    for bulk in (None, kopokopo.TRANSFERRED, CANCELLED):
        stage.notify("/kopokopo/results/TQ1/1", result("TQ1", bulk=bulk))
    stage.ask("POST", "/reversals", body("LOST1", metadata={"ticket": "T-1"}))
    for path in ("/reversals/TQ1", "/reversals/LOST1", "/reversals/TQ0", "/reversals/%20"):
        stage.ask("GET", path)
    for query in ({}, {"limit": "1"}, {"status": "reversed"}, {"limit": "0"}, {"cursor": "x"}, {"what": "else"}):
        stage.ask("GET", "/reversals", query=query)
    stage.unset("lookup", "TABLE_NAME")
    stage.ask("GET", "/reversals")
    stage.ask("GET", "/reversals/TQ1")


def ways_to_resolve(stage: Stage) -> None:
    path, found = "/reversals/BROKEN1/resolution", {"status": "failed", "note": "Seen in the statement"}
    stage.ask("POST", "/reversals", body("BROKEN1"))
    for request in (found, found, {**found, "status": "reversed"}, {}, b" " * (64 * 1024 + 1)):
        stage.ask("POST", path, request)
    stage.ask("POST", "/reversals/TQ0/resolution", found)
    stage.unset("resolve", "TABLE_NAME")
    stage.ask("POST", path, found)


def ways_to_notify(stage: Stage) -> None:
    for path in ("/kopokopo/results/TQ1/1", "/kopokopo/webhooks"):
        for document in (webhook("TQ1"), webhook("TQ1"), webhook("TQ1", topic="customer_created"), b"no JSON"):
            stage.notify(path, document)
        stage.notify(path, b" " * (256 * 1024 + 1))
        stage.notify(path, result("TQ1"), signature="0" * 64)
        stage.unset("callback", "SIGNATURE_SECRET")
        stage.notify(path, result("TQ1"))
        stage.cloud.cold_start("callback")
    stage.notify("/kopokopo/results/TQ1/1", result("TQ2"))


def ways_to_go_wrong(stage: Stage) -> None:
    """Without its table, and in the end without its queue, nothing can be kept."""
    stage.cloud.dynamodb.delete_table(TableName=stage.cloud.table)
    for method, path in (("POST", "/reversals"), ("GET", "/reversals"), ("GET", "/reversals/TQ1")):
        stage.ask(method, path, body())
    stage.ask("POST", "/reversals/TQ1/resolution", {"status": "failed", "note": "x"})
    stage.notify("/kopokopo/webhooks", webhook("TQ1"))
    stage.cloud.sqs.delete_queue(QueueUrl=stage.cloud.ref("EvidenceQueue"))
    stage.notify("/kopokopo/webhooks", webhook("TQ1"))
    stage.notify("/kopokopo/results/TQ1/1", result("TQ1"))
    stage.breaks.setattr(assembly, "store", lambda: 1 / 0)
    stage.ask("GET", "/reversals")


def ways_to_miss(stage: Stage) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/reversals/TQ1/2"),
        ("DELETE", "/reversals/TQ1"),
        ("HEAD", "/reversals"),
        ("PUT", "/reversals/TQ1/resolution"),
        ("GET", "/kopokopo/webhooks"),
        ("OPTIONS", "/kopokopo/results/TQ1/1"),
    ):
        stage.ask(method, path)


WAYS: tuple[Callable[[Stage], None], ...] = (
    ways_to_create,
    ways_to_look,
    ways_to_resolve,
    ways_to_notify,
    ways_to_miss,
    ways_to_go_wrong,  # the last: nothing comes after it
)


def test_every_answer_is_described_and_every_answer_described_is_given(
    deploy: Callable[..., Cloud], output: Output, monkeypatch: pytest.MonkeyPatch, api: Description
) -> None:
    with Simulator(delay=60) as simulator:
        cloud = deploy(
            KopoKopoApiUrl=simulator.url, KopoKopoAuthUrl=simulator.url, CallbackBaseUrl="http://127.0.0.1:9"
        )
        stage = Stage(cloud, monkeypatch)
        for ways in WAYS:
            ways(stage)
    assert stage.violations == []
    described = {route: api.responses(route).keys() - BY_API_GATEWAY for route in api.operations}
    assert stage.statuses == {**described, "elsewhere": {404, 405}}
    assert stage.problems == set(component(api, "schemas", "Problem")["properties"]["type"]["enum"])


@pytest.mark.parametrize(
    ("reply", "violation"),
    [
        (Reply(418, {"content-type": "application/json"}, "{}"), "answered 418, which is not described"),
        (Reply(200, {"content-type": "text/html"}, "{}"), "with the Content-Type 'text/html'"),
        (Reply(200, {"content-type": "application/json"}, '{"items": []}'), "'cursor' is a required property"),
        (Reply(200, {"content-type": "application/json", "x-y": "z"}, '{"items": [], "cursor": null}'), "header x-y"),
        (Reply(503, {"content-type": "application/json", "retry-after": "soon"}, '{"message": ""}'), "'soon'"),
    ],
)
def test_another_answer_would_be_noticed(api: Description, reply: Reply, violation: str) -> None:
    assert violation in "\n".join(api.violations("GET", "/reversals", reply))
