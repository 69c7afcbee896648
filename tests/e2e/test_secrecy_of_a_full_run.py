"""Everything once, at the most talkative log level; then all that was said is searched for all that is secret."""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import requests

from local.cloud import LaptopCloud
from tests.e2e.conftest import PARAMETERS, System
from tests.e2e.test_references import CASES
from tests.kopokopo import CANCELLED, encode, result, sign, webhook

CLIENT_SECRET = "the client's secret/+=&\u00e9"
API_KEY = "the application's key/+=&\u00e9"
NAMES = ("Wanjiku", "Otieno", "Achieng")
SENDER = {f"sender_{which}_name": name for which, name in zip(("first", "middle", "last"), NAMES, strict=True)}
PHONE_NUMBERS = ("+254700000000", "254700000000", "0700000000", "+254 700 000 000", "0700-000-000")

# However they are written; a signature and a hashed number look alike, and nothing that is said does.
PHONE_NUMBER = re.compile(r"(?<!\d)(254|0)[ -]?700[ -]?000[ -]?000(?!\d)")
DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE)


class Run(System):
    """A running stack, of which every answer is kept.

    Attributes:
        answers: What anybody was answered, head and body.
        forged: Every signature that was made up.
    """

    def __init__(self, cloud: LaptopCloud) -> None:
        super().__init__(cloud)
        self.answers: list[str] = []
        self.forged: set[str] = set()

    def keep(self, response: requests.Response) -> requests.Response:
        self.answers.append(f"{response.status_code} {response.headers} {response.text}")
        return response

    def notify(self, path: str, document: object, signature: str | None = None) -> int:
        """Post what Kopo Kopo could have sent; a signature that is given is no true one."""
        body = document if isinstance(document, bytes) else encode(document)
        if signature:
            self.forged.add(signature)
        headers = {"Content-Type": "application/json", "X-KopoKopo-Signature": signature or sign(body, API_KEY)}
        return self.keep(requests.post(self.api + path, data=body, headers=headers, timeout=30)).status_code

    def tokens(self) -> set[str]:
        """Every access token that was shared."""
        client = self.cloud.client("secretsmanager")
        (secret,) = [it["ARN"] for it in client.list_secrets()["SecretList"] if "TokenSecret" in it["Name"]]
        versions = client.list_secret_version_ids(SecretId=secret, IncludeDeprecated=True)["Versions"]
        values = [client.get_secret_value(SecretId=secret, VersionId=it["VersionId"]) for it in versions]
        return {json.loads(value["SecretString"])["access_token"] for value in values}

    def said(self) -> dict[str, str]:
        """Whatever was logged, answered, published or stored; not the secrets' own store."""
        logs = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in self.cloud.logs.iterdir()}
        items = self.cloud.client("dynamodb").scan(TableName=self.cloud.outputs["TableName"])["Items"]
        while self.subscriber.receive():
            pass
        return {
            **logs,
            "the answers": "\n".join(self.answers),
            "the events": json.dumps(self.subscriber.events, ensure_ascii=False),
            "the table": json.dumps(items, ensure_ascii=False),
        }


def spellings(secret: str) -> set[str]:
    """The ways in which it may have been written down."""
    written = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    return written | {json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()}


def leaks(said: Mapping[str, str], secrets: Mapping[str, str]) -> Iterator[str]:
    for where, text in said.items():
        yield from (f"{what} in {where}" for what, it in secrets.items() if any(way in text for way in spellings(it)))
        yield from (f"a phone number in {where}: {it[0]}" for it in PHONE_NUMBER.finditer(text))
        yield from (f"a digest in {where}: {it[0]}" for it in DIGEST.finditer(text))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    environ = {**os.environ, "KOPOKOPO_CLIENT_SECRET": CLIENT_SECRET, "KOPOKOPO_API_KEY": API_KEY}
    with LaptopCloud(parameters={**PARAMETERS, "LogLevel": "DEBUG"}, state_dir=tmp_path, environ=environ) as cloud:
        yield Run(cloud)


def test_nothing_secret_is_in_anything_that_was_said(run: Run) -> None:
    whatever_kopo_kopo_does(run)
    whatever_anybody_posts(run)
    whatever_people_do(run)
    issued = sum((entry["path"], entry["status"]) == ("/oauth/token", 200) for entry in run.journal())
    tokens = run.tokens()
    assert len(tokens) == issued >= 2, "every token is known, the one that expired too"

    secrets = {"the client's secret": CLIENT_SECRET, "the API key": API_KEY}
    secrets |= {f"the name {name}": name for name in NAMES}
    secrets |= {f"token {number}": token for number, token in enumerate(tokens)}
    secrets |= {f"forged signature {number}": it for number, it in enumerate(run.forged)}
    said = run.said()
    talkative = {"InitiateFunction.log", "CallbackFunction.log", "ReconcileFunction.log", "PublishFunction.log"}
    assert all(said[name] for name in {*talkative, "the answers", "the events", "the table"})
    assert list(leaks(said, secrets)) == []

    planted = [way for secret in secrets.values() for way in spellings(secret)]
    planted += [*PHONE_NUMBERS, quote(PHONE_NUMBERS[0]), "0123456789abcdef" * 4]
    assert [it for it in planted if not list(leaks({"a line": f'{{"message":"before {it} behind"}}'}, secrets))] == []
    (run.cloud.logs / "planted.log").write_text("\n".join(planted), encoding="utf-8")
    found = list(leaks(run.said(), secrets))
    assert {it.partition(" in ")[0] for it in found} == {*secrets, "a phone number", "a digest"}


def whatever_kopo_kopo_does(run: Run) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda case: run.keep(run.post(case.reference)), CASES))
    for case in CASES:
        run.becomes(case.reference, case.status)
        run.told(case.reference, case.events[0][-1])
        run.keep(run.post(case.reference, reason="Another"))


def whatever_anybody_posts(run: Run) -> None:
    results, webhooks = "/kopokopo/results/TQ1/1", "/kopokopo/webhooks"
    body = encode(webhook("TQ1", **SENDER))
    for forged in (
        *(sign(body, "another key"), sign(body, CLIENT_SECRET), sign(b"{}", API_KEY)),
        *(sign(body, API_KEY).upper(), f"sha256={sign(body, API_KEY)}", f"{sign(body, API_KEY)},{sign(body, API_KEY)}"),
    ):
        assert {run.notify(path, body, forged) for path in (results, webhooks)} == {401}
    assert run.notify(webhooks, body) == 200
    assert run.notify(webhooks, webhook("TQ1", topic="customer_created", **SENDER)) == 200
    assert run.notify(results, result("TQ1", bulk=CANCELLED, errors=[f"{it} has none" for it in PHONE_NUMBERS])) == 200
    assert run.notify(results, result("TQ2", reason=PHONE_NUMBERS[0])) == 400
    assert run.notify(webhooks, webhook(PHONE_NUMBERS[0], **SENDER)) == 400
    assert run.notify(webhooks, {"TransactionType": "Buygoods", "MSISDN": PHONE_NUMBERS[1], **SENDER}) == 200
    assert run.notify(webhooks, b'{"topic": ' + body) == 400
    assert run.notify(results, b"\xff" + body) == 400


def whatever_people_do(run: Run) -> None:
    for reference, status in (("TQ1", "reversed"), ("MUTE0001", "failed"), ("DOWN0001", "failed"), ("TQ3", "failed")):
        run.keep(run.resolve(reference, status))
    for path in ("/reversals", "/reversals/TQ1", "/reversals?status=failed", "/reversals?limit=x", "/elsewhere"):
        run.keep(requests.get(run.api + path, timeout=30))
    run.told("MUTE0001", "reversal.failed")
