"""Hostile input: whatever comes in is answered, and what has no right to leaves no trace: `make fuzz`.

    make fuzz ARGS="--only reversals --examples 1000 --seed 7"

Requests drawn by Hypothesis go to the functions, with the stack of template.yaml on moto and a Kopo Kopo that accepts
whatever it is asked. Of each is checked: there is an answer, it is one that docs/openapi.yaml describes, and none is a
5xx. What is unsigned or unusable leads to no item and no call. What was stored can be read, listed and published. No
signature and no phone number is in the log, in an answer or in the table.

Then schemathesis holds the laptop cloud against docs/openapi.yaml over HTTP: statuses, headers, media types, schemas,
what is refused and what is taken; once as anybody, and once as somebody who signs as Kopo Kopo does.
"""

import argparse
import copy
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from moto.dynamodb.models import dynamodb_backends
from reversals.observability import logger

from local.cloud import LaptopCloud
from local.settings import ACCOUNT_ID
from tests import kopokopo
from tests.conftest import REGION, ROOT, Cloud, FakeClock, Line, Peer, Reply, account, deployment, response
from tests.openapi import description
from tests.proof import hostile
from tests.proof.hostile import SIGNATURE, Document, Post
from tests.proof.report import Report

CHUNK = 1000  # examples that share a stack and a seed: what has to be run again to see one of them again
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
MOST_SHOWN = 2000  # characters of a note, which may hold a body
HTTP_SHARE = 100  # for each example of an operation over HTTP, so many at a door
KOPOKOPO_ID = "67b1bb87-b89b-4366-93c9-a2bb6944ec99"
TOKEN = "a-token-that-nobody-may-see"

# What DynamoDB and SQS take, by their documentation; moto takes more.
_NOT_FOR_SQS = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LARGEST_MESSAGE = 256 * 1024
_PHONE_NUMBER = re.compile(r"(?<!\d)(254|0)[ -]?700[ -]?000[ -]?000(?!\d)")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


# ------------------------------------------------------------------------------------------------------ the system


@dataclass
class Target:
    """The stack, and what can be seen of it.

    Attributes:
        output: What the functions logged and measured since the last look.
        tally: How many requests were answered in which way.
    """

    cloud: Cloud
    kopokopo: Peer
    output: io.StringIO
    tally: Counter[str]
    _begun: int = field(default=0, init=False)

    @property
    def calls(self) -> list[str]:
        """What the functions called since the last request came in."""
        return self.cloud.calls[self._begun :]

    @property
    def wrote(self) -> bool:
        return any(call.startswith("dynamodb:") for call in self.calls)

    def send(self, function: str, post: Post) -> Reply:
        """Hand over a request, and check what holds for every answer."""
        self._begun = len(self.cloud.calls)
        self.kopokopo.requests.clear()
        self.output.seek(0)
        self.output.truncate()
        answer = self.cloud.invoke(function, post.event)
        reply = Reply(answer["statusCode"], answer["headers"], answer["body"])
        assert reply.status < 500, f"{reply.status}: {self.output.getvalue()}"
        assert list(description().violations("POST", post.path, reply)) == []
        self.keeps_secrets(post, self.output.getvalue() + reply.body)
        self.tally[f"answered {reply.status}"] += 1
        return reply

    def keeps_secrets(self, post: Post, said: str) -> None:
        secrets = [kopokopo.API_KEY, "local-client-secret", TOKEN, *_DIGEST.findall(post.header(SIGNATURE) or "")]
        assert not any(secret in said for secret in secrets), said
        assert not _PHONE_NUMBER.search(said), said

    def items(self) -> list[Document]:
        return self.cloud.items()

    def can_be_told(self, item: Document) -> Document:
        """That a stored reversal can be read, listed and published, and is the same each time; returns it."""
        path = f"/reversals/{item['transaction_reference']['S']}"
        shown, listed = self.cloud.get(path), self.cloud.get("/reversals", status=item["status"]["S"])
        assert (shown.status, listed.status) == (200, 200), (shown, listed)
        assert [*description().violations("GET", path, shown)] == []
        assert [*description().violations("GET", "/reversals", listed)] == []
        reversal: Document = shown.json
        without_history = {name: value for name, value in reversal.items() if name != "history"}
        assert without_history in listed.json["items"]
        assert "" not in set(names(item)), f"DynamoDB takes no attribute without a name: {item}"
        self.is_published(item, without_history)
        return reversal

    def is_published(self, item: Document, reversal: Document) -> None:
        record = {"eventName": "INSERT", "dynamodb": {"SequenceNumber": "1", "NewImage": item}}
        assert self.cloud.invoke("publish", {"Records": [record]}) == {"batchItemFailures": []}
        (message,) = (told["Message"] for told in self.cloud.told())
        assert json.loads(message)["data"] == reversal
        assert len(message.encode()) <= _LARGEST_MESSAGE
        assert not (odd := _NOT_FOR_SQS.search(message)), f"SQS takes no {odd[0]!a}: {message!a}"

    def clear(self) -> None:
        """Begin anew, for the next request. Not through the API: the item may be what cannot be read."""
        if self.cloud.calls:
            dynamodb_backends[ACCOUNT_ID][REGION].tables[self.cloud.table].items.clear()
        self.cloud.calls.clear()
        self._begun = 0


def names(value: Any) -> Iterator[str]:
    """Every name in an item."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield from value if isinstance(value, dict) else ()
    for part in parts:
        yield from names(part)


def accepts_everything(line: Line) -> None:
    """Kopo Kopo, at its friendliest."""
    token = json.dumps({"access_token": TOKEN, "expires_in": 3600}).encode()
    while request := line.read_request():
        if request.startswith(b"POST /oauth/token"):
            line.socket.sendall(response("200 OK", body=token))
        else:
            line.socket.sendall(response("201 Created", f"Location: /api/v2/reversals/{KOPOKOPO_ID}"))


@contextmanager
def target(tally: Counter[str]) -> Iterator[Target]:
    """A stack of its own in this process."""
    peer, output = Peer(accepts_everything), io.StringIO()
    handler = logger.registered_handler
    assert isinstance(handler, logging.StreamHandler)
    before = handler.setStream(output)
    try:
        with pytest.MonkeyPatch.context() as patch, account(patch), deployment(FakeClock(), patch) as deploy:
            yield Target(deploy(KopoKopoApiUrl=peer.url, KopoKopoAuthUrl=peer.url), peer, output, tally)
    finally:
        handler.setStream(before)
        peer.stop()


# ------------------------------------------------------------------------------------------------------ what holds


def a_notification(target: Target, case: tuple[Post, Sequence[Document]]) -> None:
    """What Kopo Kopo did not sign is refused and changes nothing; what it signed is taken, or refused as unusable."""
    post, history = case
    for document in history if post.is_signed else ():
        target.cloud.notify(post.path if "data" in document else "/kopokopo/webhooks", document)
    before = target.items() if target.wrote else []
    answer = target.send("callback", post)
    assert target.kopokopo.requests == []
    if post.content is None:
        expected = {400}
    elif len(post.content) > hostile.LIMITS["callback"]:
        expected = {413}
    else:
        expected = {200, 400} if post.is_signed else {401}
    assert answer.status in expected
    if not post.is_signed:
        assert set(target.calls) <= {"secretsmanager:GetSecretValue"}
    receipt = answer.json["status"] if answer.status == 200 else None
    if receipt == "recorded":
        for item in target.items():
            target.can_be_told(item)
            assert not _PHONE_NUMBER.search(json.dumps(item)), item
    else:
        assert receipt in (None, "known", "ignored")
        assert not target.wrote or target.items() == before


def a_request(target: Target, post: Post) -> None:
    """What can be used is sent once and kept; what cannot leads to no call at all."""
    wanted, answer = usable(post), target.send("initiate", post)
    if wanted is None:
        too_large = post.content is not None and len(post.content) > hostile.LIMITS["initiate"]
        assert answer.status == (413 if too_large else 400)
        assert (target.calls, target.kopokopo.requests) == ([], [])
        return
    assert answer.status == 201
    (sent,) = posted(target)
    assert {name: sent[name] for name in wanted} == wanted
    (item,) = target.items()
    reversal = target.can_be_told(item)
    assert {name: reversal[name] for name in wanted} == wanted
    assert target.send("initiate", post).status == 200
    assert target.kopokopo.requests == []


def usable(post: Post) -> Document | None:
    """The request as it should be understood; None if it should be refused. The rules once more, in other words."""
    content = post.content
    if content is None or len(content) > hostile.LIMITS["initiate"]:
        return None
    if (key := post.header("Idempotency-Key")) is not None and not (1 <= len(key) <= 255 and _is_text(key)):
        return None
    if not re.fullmatch(r"\s*application/json\s*(;.*)?", post.header("Content-Type") or "", re.IGNORECASE | re.DOTALL):
        return None
    try:
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return None
    match document:
        case {"transaction_reference": str(reference), "reason": str(reason), **rest}:
            metadata = rest.pop("metadata", {})
            is_right = (
                not rest
                and re.fullmatch("[A-Za-z0-9-]{1,64}", reference)
                and 1 <= len(reason) <= 255
                and isinstance(metadata, dict)
                and len(metadata) <= 5
                and all(name and isinstance(value, str) for name, value in metadata.items())
            )
            return {"transaction_reference": reference, "reason": reason, "metadata": metadata} if is_right else None
    return None


def _is_text(value: str) -> bool:
    return not re.search("[\ud800-\udfff]", value)


def _once(pairs: list[tuple[str, Any]]) -> Document:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def posted(target: Target) -> list[Document]:
    """The bodies of the reversals that Kopo Kopo was asked for."""
    heads = [request.partition(b"\r\n\r\n") for request in target.kopokopo.requests]
    return [json.loads(body) for head, _, body in heads if head.startswith(b"POST /api/v2/reversals ")]


@dataclass(frozen=True)
class Door:
    """Where requests come in."""

    cases: st.SearchStrategy[Any]
    check: Callable[[Target, Any], None]


DOORS = {
    "results": Door(st.tuples(hostile.results(), st.sampled_from(hostile.HISTORIES)), a_notification),
    "webhooks": Door(st.tuples(hostile.webhooks(), st.sampled_from(hostile.HISTORIES)), a_notification),
    "reversals": Door(hostile.requests(), a_request),
}


def explore(door: str, examples: int, chance: int | None, tally: Counter[str]) -> None:
    """Try so many requests at a door.

    Args:
        door: Of DOORS.
        examples: How many.
        chance: The seed; None draws the same ones each time.
        tally: Counts how they were answered.

    Raises:
        AssertionError: something did not hold; its notes show the smallest request of which it does not.
    """
    with target(tally) as system:

        @settings(
            max_examples=examples,
            derandomize=chance is None,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(DOORS[door].cases)
        def holds(case: Any) -> None:
            with redirect_stdout(system.output):
                try:
                    DOORS[door].check(system, case)
                finally:
                    system.clear()

        (holds if chance is None else seed(chance)(holds))()


# ------------------------------------------------------------------------------------------------------ over HTTP


def over_http(examples: int, chance: int) -> tuple[int, list[str]]:
    """Let schemathesis hold the laptop cloud against docs/openapi.yaml; returns how much it tried, and what it found.

    Args:
        examples: At the most so many of each kind for an operation.
        chance: The seed.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        LaptopCloud(parameters={"ReconcileSchedule": "rate(1 day)"}, state_dir=Path(folder)) as cloud,
    ):
        usual = ["--url", cloud.outputs["ApiUrl"], "--seed", str(chance), "--max-examples", str(examples)]
        kopokopo = ["--include-path-regex", "^/kopokopo/", "--phases", "examples,coverage,fuzzing"]
        # A laptop checks no IAM; and whoever signs as Kopo Kopo does needs nothing else.
        runs = [
            schemathesis(Path(folder), {"iam"}, usual),
            schemathesis(Path(folder), {"iam", "signature"}, [*usual, *kopokopo], hooks="tests.proof.signing"),
        ]
    return sum(tried for tried, _ in runs), [found for _, found in runs if found]


def schemathesis(folder: Path, without: set[str], arguments: list[str], hooks: str = "") -> tuple[int, str | None]:
    """One run; returns how many requests it made, and its words if it found something.

    Args:
        folder: Takes whatever it writes.
        without: The security schemes that it is told nothing of.
        arguments: Of its command.
        hooks: A module.
    """
    described, report = folder / "openapi.json", folder / "report.json"
    described.write_text(json.dumps(without_security(description().document, without)))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run", str(described)]
    command += ["--no-color", "--report", "json", "--report-json-path", str(report), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": hooks}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    tried: int = json.loads(report.read_text())["test_cases"]["generated"] if report.exists() else 0
    return tried, ended.stdout + ended.stderr if ended.returncode else None


def without_security(document: Document, schemes: set[str]) -> Document:
    """The same description, with nothing said of these schemes."""
    stripped = copy.deepcopy(document)
    for part in [stripped, *(operation for item in stripped["paths"].values() for operation in item.values())]:
        if isinstance(part, dict) and "security" in part:
            part["security"] = [it for it in part["security"] if not schemes & it.keys()]
    return stripped


# ------------------------------------------------------------------------------------------------------ the command


def chunk(door: str, examples: int, chance: int) -> tuple[Counter[str], str | None]:
    """Explore in a process of its own; returns what was tried, and what did not hold."""
    tally = Counter[str]()
    try:
        explore(door, examples, chance, tally)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a violation
        return tally, "\n".join(_words(error))
    return tally, None


def _words(error: BaseException) -> Iterator[str]:
    yield f"{type(error).__name__}: {error}"
    yield from (note[:MOST_SHOWN] for note in getattr(error, "__notes__", []))
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _words(part)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Hostile input.")
    parser.add_argument("--examples", type=int, default=12_000, help="requests at each door (default: 12000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first thousand of them (default: 1)")
    parser.add_argument("--only", choices=[*DOORS, "http"], help="one door alone, or what goes over HTTP")
    options = parser.parse_args(arguments)
    doors = [door for door in DOORS if options.only in (None, door)]
    report, tally = Report("fuzz", "requests"), Counter[str]()

    def replay(door: str, examples: int, chance: int) -> str:
        return f'make fuzz ARGS="--only {door} --examples {examples} --seed {chance}"'

    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        chunks = {}
        for begun in range(0, options.examples, CHUNK):
            for door in doors:
                task = door, min(CHUNK, options.examples - begun), options.seed + begun // CHUNK
                chunks[pool.submit(chunk, *task)] = task
        for done in as_completed(chunks):
            answers, violation = done.result()
            tally += answers
            report.add(answers.total())
            if violation:
                report.violation(f"{chunks[done][0]}: {violation}", replay(*chunks[done]))
    if options.only in (None, "http"):
        tried, found = over_http(max(options.examples // HTTP_SHARE, 1), options.seed)
        tally["over HTTP"] = tried
        report.add(tried)
        for violation in found:
            report.violation(f"http: {violation}", replay("http", options.examples, options.seed))
    return report.close(dict(sorted(tally.items())))


if __name__ == "__main__":
    sys.exit(main())
