"""No token, secret, key, signature or phone number in anything that is logged, measured, stored or answered."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from reversals.observability import logger

from local.simulator import Simulator
from tests import kopokopo
from tests.conftest import Cloud, Line, Output, Peer, response
from tests.kopokopo import CANCELLED, PHONE_NUMBER, encode, result, sign, webhook

NAME = "Wanjiku"
TOKEN = "a-token-that-nobody-may-see"


class Witness:
    """Everything that came out of the functions, and what must not be in it."""

    def __init__(self, cloud: Cloud, output: Output, caplog: pytest.LogCaptureFixture) -> None:
        self.cloud = cloud
        self._output, self._caplog = output, caplog
        self.secrets = {
            "the client's secret": "local-client-secret",
            "the API key": kopokopo.API_KEY,
            "a phone number": PHONE_NUMBER.removeprefix("+"),
            "a hashed phone number": webhook()["event"]["resource"]["hashed_sender_phone"],
            "a name": NAME,
            "the token": TOKEN,
        }
        self.answers: list[str] = []

    def post(self, path: str, body: Any, **options: Any) -> None:
        self.answers.append(repr(self.cloud.post(path, body, **options)))

    def notify(self, path: str, document: Any, **options: Any) -> None:
        body = document if isinstance(document, bytes) else encode(document)
        self.secrets[f"signature {len(self.secrets)}"] = options.get("signature") or sign(body)
        self.answers.append(repr(self.cloud.notify(path, body, **options)))

    def testify(self) -> None:
        if token := self._shared_token():
            self.secrets["the shared token"] = token
        logged = [record.getMessage() + str(record.exc_text) for record in self._caplog.records]
        spoken = {
            "the log and the metrics": self._output.text,
            "the log, before it is formatted": "\n".join(logged),
            "the answers": "\n".join(self.answers),
            "the table": json.dumps(self.cloud.items()),
            "the topic": json.dumps(self.cloud.told()),
        }
        assert spoken["the log and the metrics"]
        found = [(what, where) for what, it in self.secrets.items() for where, text in spoken.items() if it in text]
        assert found == []

    def _shared_token(self) -> str | None:
        try:
            token: str | None = self.cloud.secret("TokenSecret").get("access_token")
        except self.cloud.secretsmanager.exceptions.ResourceNotFoundException:
            return None
        return token


@pytest.fixture
def witness(output: Output, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[Cloud], Witness]]:
    before = logger.log_level
    logger.setLevel(logging.DEBUG)
    yield lambda cloud: Witness(cloud, output, caplog)
    logger.setLevel(before)


def body(reference: str) -> dict[str, str]:
    return {"transaction_reference": reference, "reason": "x"}


def test_whatever_kopo_kopo_does_nothing_is_said(
    deploy: Callable[..., Cloud], witness: Callable[[Cloud], Witness]
) -> None:
    with Simulator(delay=60) as simulator:
        cloud = deploy(
            KopoKopoApiUrl=simulator.url,
            KopoKopoAuthUrl=simulator.url,
            KopoKopoTimeout="0.2",
            CallbackBaseUrl="http://127.0.0.1:9",
            LogLevel="DEBUG",
        )
        seen = witness(cloud)
        behaviours = ("TQ", "REJECT", "OLD", "SILENT", "DOWN", "BROKEN", "DROP", "EXPIRED", "NOLOC", "MOVED", "EVIL")
        for reference in behaviours:
            seen.post("/reversals", body(reference))
            seen.post("/reversals", {**body(reference), "reason": "Another"})
        cloud.clock.advance(120)
        cloud.seconds_left = 55
        cloud.invoke("reconcile", {})
        cloud.put_secret("CredentialsSecret", {"client_id": "local-client-id", "client_secret": "wrong-secret"})
        seen.secrets["the wrong secret"] = "wrong-secret"
        seen.secrets["the token that was shared"] = cloud.secret("TokenSecret")["access_token"]
        cloud.put_secret("TokenSecret", {})
        cloud.cold_start("initiate")
        seen.post("/reversals", body("TQ9"))
    seen.testify()


HOSTILE = {
    "an echo of the token": response("401 No", body=json.dumps({"error_message": f"Bearer {TOKEN}"}).encode()),
    "words that repeat the token": response(
        "400 Bad", body=json.dumps({"error_message": f"Bearer {TOKEN} is no good"}).encode()
    ),
    "a token in the page": response("500 Oops", body=f"<html>{TOKEN}</html>".encode()),
    "a token in the status line": response(f"500 {TOKEN}"),
    "a token in the Location": response("201 Created", f"Location: https://evil.example/{TOKEN}"),
    "a token in a redirect": response("302 Found", f"Location: http://[{TOKEN}"),
    "a token for an answer": f"{TOKEN}\r\n\r\n".encode(),
    "a phone number in words": response("400 Bad", body=json.dumps({"error_message": [PHONE_NUMBER]}).encode()),
}


@pytest.mark.parametrize("answer", [pytest.param(answer, id=name) for name, answer in HOSTILE.items()])
def test_an_answer_that_repeats_what_it_was_sent_is_not_repeated(
    deploy: Callable[..., Cloud], peer: Callable[..., Peer], witness: Callable[[Cloud], Witness], answer: bytes
) -> None:
    def script(line: Line) -> None:
        line.read_request()
        line.socket.sendall(answer)

    oauth = peer(token_of(TOKEN))
    api = peer(script)
    cloud = deploy(KopoKopoApiUrl=api.url, KopoKopoAuthUrl=oauth.url, KopoKopoTimeout="0.3", LogLevel="DEBUG")
    seen = witness(cloud)
    seen.post("/reversals", body("TQ1"))
    seen.testify()


OAUTH = {
    "an echo of the secret": response("401 No", body=b'{"error_description":"local-client-secret is wrong"}'),
    "a token without a life": response("200 OK", body=json.dumps({"access_token": TOKEN}).encode()),
    "a token of odd characters": response("200 OK", body=json.dumps({"access_token": f"{TOKEN}\r\nX: y"}).encode()),
    "a page": response("500 Oops", body=b"<html>local-client-secret</html>"),
}


@pytest.mark.parametrize("answer", [pytest.param(answer, id=name) for name, answer in OAUTH.items()])
def test_an_oauth_server_that_repeats_what_it_was_sent_is_not_repeated(
    deploy: Callable[..., Cloud], peer: Callable[..., Peer], witness: Callable[[Cloud], Witness], answer: bytes
) -> None:
    def script(line: Line) -> None:
        line.read_request()
        line.socket.sendall(answer)

    oauth = peer(script)
    cloud = deploy(KopoKopoApiUrl=oauth.url, KopoKopoAuthUrl=oauth.url, LogLevel="DEBUG")
    seen = witness(cloud)
    seen.post("/reversals", body("TQ1"))
    seen.testify()


def test_whatever_kopo_kopo_sends_nothing_is_said(cloud: Cloud, witness: Callable[[Cloud], Witness]) -> None:
    seen = witness(cloud)
    path = "/kopokopo/results/TQ1/1"
    seen.notify(path, result("TQ1"))
    seen.notify(path, result("TQ1"), signature=sign(b"another"))
    seen.notify(path, result("TQ2"))
    seen.notify(path, result("TQ1", bulk=CANCELLED, errors=[f"{PHONE_NUMBER} has no money"]))
    seen.notify(path, b"no JSON, but " + PHONE_NUMBER.encode())
    seen.notify("/kopokopo/webhooks", webhook("TQ3", sender_last_name=NAME))
    seen.notify("/kopokopo/webhooks", webhook(PHONE_NUMBER, sender_last_name=NAME))
    seen.notify("/kopokopo/webhooks", webhook("TQ3", topic="customer_created", sender_last_name=NAME))
    cloud.dynamodb.delete_table(TableName=cloud.table)
    seen.notify("/kopokopo/webhooks", webhook("TQ4", sender_last_name=NAME))
    waiting = cloud.sqs.receive_message(QueueUrl=cloud.ref("EvidenceQueue"))["Messages"]
    seen.answers.append(json.dumps([message["Body"] for message in waiting]))
    cloud.put_secret("SignatureSecret", {"api_key": ["local-api-key"]})
    cloud.cold_start("callback")
    seen.notify(path, result("TQ1"))
    cloud.items = list  # type: ignore[method-assign]  # the table is gone
    seen.testify()


def token_of(value: str) -> Callable[[Line], None]:
    document = {"access_token": value, "expires_in": 3600}

    def script(line: Line) -> None:
        while line.read_request():
            line.socket.sendall(response("200 OK", body=json.dumps(document).encode()))

    return script
