"""Schedules: merchants, results, reconcilers, operators and crashes, interleaved at every step: `make simulate`.

A seed decides everything: who takes part, what Kopo Kopo does, how bad the weather is, and who goes on at each step.
When all has come to rest, the invariants are judged. A seed that fails prints the command that plays it again.
"""

import argparse
import base64
import json
import multiprocessing
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from local.events import QueueSource, StreamSource
from local.lambdas import FunctionError, ImpatientError
from local.simulator import (
    B2B_REVERSED,
    BEHAVIOURS,
    BUYGOODS_REVERSED,
    Behaviour,
    Reversal,
    Simulator,
    compact,
    result_document,
    sign,
    webhook_document,
)
from tests.proof import faults
from tests.proof.judge import Books, accepted_posts, attempt_of, token_requests, violations
from tests.proof.report import Report
from tests.proof.world import (
    AWS_TROUBLES,
    CALM,
    EPOCH,
    KOPOKOPO_TROUBLES,
    NEVER,
    Task,
    Weather,
    World,
    silence,
    system,
)

Document = dict[str, Any]

API_KEY = "local-api-key"
MONTH = 30 * 24 * 3600
SETTLED = 32 * 60.0  # seconds after which an operator takes `unknown` for lasting
QUIET = 7 * 3600.0  # seconds: longer than reconcile ever waits
SCHEDULES = 100_000

DASHBOARD = "ELSEWHERE0001"  # is reversed in Kopo Kopo's own dashboard


@dataclass
class Answer:
    """What a merchant was answered to a request with this Idempotency-Key, and by which invocation."""

    reference: str
    key: str | None
    status: int
    task: Task | None


@dataclass(frozen=True)
class Word:
    """What Kopo Kopo signed of the end of a reversal.

    Attributes:
        fact: `transferred` or `cancelled`.
        attempt: Of which attempt; None where it names none.
    """

    reference: str
    fact: str
    attempt: int | None

    @classmethod
    def of(cls, reference: str, document: Document) -> "Word | None":
        """What a result or a webhook says; None if it is not decided."""
        if "topic" in document:
            return cls(reference, "transferred", None)
        attributes = document["data"]["attributes"]
        attempt = int(attributes["_links"]["callback_url"].rpartition("/")[2])
        bulk = attributes["reversal_bulk_payment"]
        return cls(reference, bulk["status"].lower(), attempt) if bulk else None

    def is_in(self, history: Sequence[Document]) -> bool:
        """Whether a history, as the table has it, says so, or an operator had said so before."""
        resolved = {"transferred": "resolved_reversed", "cancelled": "resolved_failed"}[self.fact]
        return any(
            entry.get("evidence", {}).get("S") in (self.fact, resolved)
            and self.attempt in (None, int(entry["attempt"]["N"]))
            for entry in history
        )


class Schedule:
    """One schedule, from its first request until everything has come to rest."""

    def __init__(self, seed: int) -> None:
        self.lifetime = MONTH
        self._plays: dict[str, list[Behaviour]] = {}
        self.world = World(seed, CALM, self._simulator)
        self._random = self.world.random
        self._disturbed: set[str] = set()  # transactions about which Kopo Kopo signed two contrary things
        self._revocations = 0
        self._api_key = API_KEY
        self.answers: list[Answer] = []
        self._taken: list[Word] = []  # of which Kopo Kopo was told that it is kept
        self._stop = SimpleNamespace(is_set=lambda: False, wait=self._pause)
        self._draw()

    def _simulator(self, world: World) -> Simulator:
        self.lifetime = world.random.choice((MONTH, MONTH, MONTH, 3600))
        clock = SimpleNamespace(time=lambda: world.now, monotonic=lambda: world.now)
        delay = world.random.choice((0.0, 0.3, 20.0, 400.0))
        return Simulator(delay=delay, token_lifetime=self.lifetime, clock=clock, behaviour_of=self._behaviour)

    def _behaviour(self, reference: str) -> Behaviour:
        """Each POST of a transaction plays the next of what was drawn for it, the last one again and again."""
        plays = self._plays[reference]
        return plays.pop(0) if len(plays) > 1 else plays[0]

    # ------------------------------------------------------------------------------------------- who takes part

    def _draw(self) -> None:
        world, chance = self.world, self._random
        world.secrets.put_secret_value(
            SecretId="CredentialsSecret",
            SecretString=json.dumps({"client_id": "local-client-id", "client_secret": "local-client-secret"}),
        )
        world.secrets.put_secret_value(SecretId="SignatureSecret", SecretString=json.dumps({"api_key": API_KEY}))
        world.now += 60  # since the secrets were put in
        world.weather = self._weather()
        world.on_accepted = self._tell
        for name, mapping in system().mappings.items():
            kind = StreamSource if ":dynamodb:" in mapping["EventSourceArn"] else QueueSource
            function = world.functions["PublishFunction" if kind is StreamSource else "CallbackFunction"]
            source = kind(cast(Any, self._aws()), name, mapping, cast(Any, function))
            world.spawn(name, partial(self._poll, source))
        for number in range(chance.choice((1, 1, 2, 3))):
            reference = f"TQ{number}"
            prefixes = chance.choices(list(BEHAVIOURS), k=chance.choice((1, 1, 2)))
            self._plays[reference] = [BEHAVIOURS[prefix] for prefix in prefixes]
            for merchant in range(chance.choice((1, 1, 2, 3))):
                world.spawn(f"merchant {number}.{merchant}", self._merchant(reference), after=self._soon())
        for number in range(chance.choice((0, 1, 2, 4))):
            world.spawn(f"schedule {number}", self._reconciler, after=chance.random() * 900)
        if chance.random() < 0.3:
            world.spawn("operator", self._operator, after=chance.random() * 4000)
        if chance.random() < 0.2:
            world.spawn("forger", self._forger, after=self._soon())
        if chance.random() < 0.1:
            world.spawn("dashboard", self._dashboard, after=self._soon())
        if chance.random() < 0.1:
            world.spawn("revoker", self._revoker, after=chance.random() * 60)
        if chance.random() < 0.1:
            world.spawn("rotator", self._rotator, after=chance.random() * 60)

    def _weather(self) -> Weather:
        chance = self._random
        if chance.random() < 0.2:
            return Weather(stall=chance.choice((0.0, 0.02)), lag=chance.choice((0.0, 0.5)))
        kinds = sorted({*AWS_TROUBLES, *KOPOKOPO_TROUBLES})
        weather = Weather(
            trouble=chance.choice((0.02, 0.06, 0.15, 0.3)),
            kinds=frozenset(kinds if chance.random() < 0.6 else chance.sample(kinds, 3)),
            stall=chance.choice((0.0, 0.0, 0.01, 0.05)),
            lag=chance.choice((0.0, 0.3)),
            refusal=chance.choice((0.0, 0.1)),
            refusal_for_good=chance.choice((0.0, 0.0, 0.05)),
            skew=chance.choice((0.0, 0.0, 0.0, 600.0)),
        )
        if chance.random() < 0.2:
            service = chance.choice(("dynamodb", "sns", "secretsmanager", "sqs"))
            begin = self.world.now + chance.random() * 30
            weather.outages[service] = (begin, begin + chance.choice((10.0, 100.0, 4000.0)))
        return weather

    def _soon(self) -> float:
        return self._random.choice((0.0, self._random.random() * 0.1, self._random.random() * 60))

    def _aws(self) -> SimpleNamespace:
        clients = {**self.world.clients, "dynamodbstreams": self.world.stream}
        return SimpleNamespace(client=lambda service: clients[service])

    def _pause(self, seconds: float) -> bool:
        self.world.sleep(seconds)
        return False

    def _poll(self, source: StreamSource | QueueSource) -> None:
        """An event source: it looks when there may be something."""
        world, seen = self.world, 0

        def has_more() -> bool:
            return len(world.table.stream) > seen

        while True:
            if isinstance(source, StreamSource):
                world.wait_until(has_more)
                seen = len(world.table.stream)
            else:
                world.wait_until(lambda: world.queue.next_at() <= world.now, world.queue.next_at())
            while source.look(cast(Any, self._stop)):
                pass

    def _merchant(self, reference: str) -> Callable[[], None]:
        chance = self._random
        body = {"transaction_reference": reference, "reason": chance.choice(("Paid twice", "Paid twice", "Wrong"))}
        key = chance.choice((None, None, "key-1", "key-2"))

        def run() -> None:
            attempts = chance.choice((1, 1, 2, 3))
            for number in range(attempts):
                for _ in range(4):
                    own = f"{key}.{number}" if key else None
                    headers = {"idempotency-key": own} if own else {}
                    answer = self._request("InitiateFunction", "POST /reversals", body, headers)
                    self.answers.append(Answer(reference, own, *answer))
                    if 0 < answer[0] < 500:
                        break
                    self.world.sleep(chance.choice((0.0, 1.0, 10.0, 40.0)))
                # Whoever waits for it to fail tries again at the same moment as the others.
                waits = partial(self._has_failed, reference) if chance.random() < 0.5 else None
                self.world.wait_until(waits, self.world.now + chance.choice((0.0, 1.0, 100.0, 1000.0)))

        return run

    def _has_failed(self, reference: str) -> bool:
        item = self.world.table.items.get(reference)
        return item is not None and item["status"]["S"] == "failed"

    def _reconciler(self) -> None:
        for _ in range(self._random.choice((1, 3, 6))):
            self._invoke("ReconcileFunction", {})
            self.world.sleep(self._random.choice((0.0, 60.0, 600.0)))

    def _revoker(self) -> None:
        """Somebody revokes the token that is in use."""
        with suppress(Exception):
            secret = json.loads(self.world.secrets.get_secret_value(SecretId="TokenSecret")["SecretString"])
            self._revocations += 1
            self.world.kopokopo.revoke(secret["access_token"])

    def _rotator(self) -> None:
        """The API key is rotated: first with us, and a while later with Kopo Kopo."""
        secret = json.dumps({"api_key": "rotated-api-key"})
        self.world.secrets.put_secret_value(SecretId="SignatureSecret", SecretString=secret)
        self.world.sleep(self._random.choice((30.0, 300.0)))
        self._api_key = "rotated-api-key"

    # ------------------------------------------------------------------------------------------- Kopo Kopo tells

    def _tell(self, reversal: Reversal) -> None:
        """What Kopo Kopo sends of a reversal, in any order and any number."""
        chance, world, behaviour = self._random, self.world, reversal.behaviour
        reference = reversal.transaction_reference
        wait = max(0.0, reversal.decided_at - world.now)

        def later(what: str, document: Document, path: str, after: float, *, stubborn: bool = False) -> None:
            url = path or reversal.callback_url.removeprefix("https://merchant.example")
            body = self._encoded(document)
            word = Word.of(reference, document)
            world.spawn(what, lambda: self._deliver(reference, url, body, word, stubborn=stubborn), after=after)

        def some_time() -> float:
            return wait + chance.choice((0.0, chance.random() * 0.1, chance.random() * 40, chance.random() * 3000))

        result = result_document(reversal)
        for _ in range(behaviour.results + (chance.random() < 0.1)):
            later("result", result, "", some_time())
        if chance.random() < 0.15:
            later("older result", result_document(reversal, decided=False), "", some_time())
        if behaviour.topic:
            webhook = webhook_document(reversal, behaviour.topic)
            # If nothing else will ever tell, it comes until it is taken.
            later("webhook", webhook, "/kopokopo/webhooks", some_time(), stubborn=behaviour.bulk is None)
        if behaviour.bulk and chance.random() < 0.05:
            self._disturbed.add(reference)
            contrary = BEHAVIOURS["CANCEL" if behaviour.bulk == "Transferred" else ""]
            later("contrary result", result_document(replace(reversal, plays=contrary)), "", some_time())

    def _deliver(self, reference: str, path: str, body: bytes, word: Word | None, *, stubborn: bool) -> None:
        """Deliver what is truly signed; it has to be taken, or honestly not."""
        while True:
            status = self._notify(path, body, self._signed(body))
            if status not in (200, 503, 0):
                self.world.wrongs.append(f"G: {reference}: a signed notification was answered {status}")
            if status == 200 and word:
                self._taken.append(word)
            if status == 200 or not (stubborn or self._random.random() < 0.5):
                return
            self.world.sleep(self._random.choice((1.0, 60.0)))

    def _notify(self, path: str, body: bytes, signature: str) -> int:
        """Returns the status, 0 if there was no answer."""
        match path.strip("/").split("/"):
            case [_, "results", reference, attempt]:
                route = "POST /kopokopo/results/{transaction_reference}/{attempt}"
                parameters = {"transaction_reference": reference, "attempt": attempt}
            case _:
                route, parameters = "POST /kopokopo/webhooks", {}
        headers = {"x-kopokopo-signature": signature}
        return self._request("CallbackFunction", route, body, headers, parameters)[0]

    def _signed(self, body: bytes) -> str:
        return sign(body, self._api_key)

    def _encoded(self, document: Document) -> bytes:
        """JSON in one of the many ways of writing it."""
        match self._random.choice(("compact", "compact", "pretty", "escaped", "slashes")):
            case "pretty":
                return json.dumps(document, indent=2).encode()
            case "escaped":
                return json.dumps(document, ensure_ascii=True).encode()
            case "slashes":
                return compact(document).replace(b"/", b"\\/")
        return compact(document)

    def _forger(self) -> None:
        """Posts what Kopo Kopo never signed, or signed for another reversal."""
        chance, world = self._random, self.world
        for _ in range(3):
            reversal = Reversal("TQ0", f"https://merchant.example/kopokopo/results/TQ0/{chance.choice((1, 2))}")
            body = self._encoded(result_document(reversal))
            path = reversal.callback_url.removeprefix("https://merchant.example")
            forged = chance.choice(("", "0" * 64, sign(body, "another-key"), self._signed(body).upper(), "sha256="))
            status = self._notify(path, body, forged)
            if status not in (401, 503, 0):
                world.wrongs.append(f"G: a forged result was answered {status}")
            world.sleep(chance.random() * 60)
            # The truth about one reversal, at the door of another.
            other = Reversal("TQ9", "https://merchant.example/kopokopo/results/TQ9/1")
            body = self._encoded(result_document(other))
            status = self._notify(path, body, self._signed(body))
            if status not in (400, 503, 0):
                world.wrongs.append(f"G: another reversal's result was answered {status}")

    def _dashboard(self) -> None:
        """A reversal that somebody made in Kopo Kopo's own dashboard; afterwards a merchant asks for it, too."""
        reversal = Reversal(DASHBOARD, "https://merchant.example/kopokopo/results/none")
        topic = self._random.choice((BUYGOODS_REVERSED, B2B_REVERSED))
        body = self._encoded(webhook_document(reversal, topic))
        self._plays[DASHBOARD] = [BEHAVIOURS[""]]
        while self._notify("/kopokopo/webhooks", body, self._signed(body)) != 200:
            self.world.sleep(60)
        while DASHBOARD not in self.world.table.items:  # it may have gone by the queue
            self.world.sleep(60)
        self._merchant(DASHBOARD)()

    # ------------------------------------------------------------------------------------------- operators

    def _operator(self) -> None:
        for _ in range(3):
            self._resolve_all()
            self.world.sleep(self._random.random() * 4000)

    def _resolve_all(self) -> None:
        for reference in list(self._plays):
            self._resolve(reference)

    def _resolve(self, reference: str) -> None:
        """Resolve what nobody knows, or what the evidence disagrees about, by what Kopo Kopo's books say."""
        shown = self._get(reference)
        if shown is None:
            return
        entry = self.world.table.items[reference]
        age = self.world.now - _epoch(entry["updated_at"]["S"]) - self.world.weather.skew
        if shown["conflict"] or (shown["status"] == "unknown" and age > SETTLED):
            moved = reference == DASHBOARD or "Transferred" in self._outcomes(reference)
            body = {"status": "reversed" if moved else "failed", "note": "Seen in the statement"}
            route = "POST /reversals/{transaction_reference}/resolution"
            self._request("ResolveFunction", route, body, {}, {"transaction_reference": reference})

    def _outcomes(self, reference: str) -> list[str | None]:
        journal = self._journal()
        return [
            self._became(line["id"], reference)
            for line in journal
            if line["accepted"] and line["transaction_reference"] == reference
        ]

    def _became(self, reversal_id: str, reference: str) -> str | None:
        behaviour = self.world.kopokopo.reversal(reversal_id).behaviour
        return behaviour.bulk or ("Transferred" if behaviour.topic else None)

    def _journal(self) -> list[Document]:
        return self.world.kopokopo.journal

    # ------------------------------------------------------------------------------------------- calling functions

    def _request(
        self,
        function: str,
        route: str,
        body: Any,
        headers: Mapping[str, str],
        parameters: Mapping[str, str] | None = None,
    ) -> tuple[int, Task | None]:
        """Call the API; returns the status, or 0 where API Gateway would answer for a dead function."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        as_base64 = self._random.random() < 0.1
        event: Document = {
            "version": "2.0",
            "routeKey": route,
            "rawPath": route.partition(" ")[2].format_map(parameters or {}),
            "headers": {"content-type": "application/json", **headers},
            "pathParameters": parameters,
            "requestContext": {
                "domainName": "api.example",
                "authorizer": {"iam": {"userArn": "arn:aws:iam::123456789012:user/operator"}},
            },
            "isBase64Encoded": as_base64,
            "body": base64.b64encode(raw).decode() if as_base64 else raw.decode(),
        }
        answer, task = self._invoke(function, event, patience=30.0)
        if answer is None:
            return 0, task
        if answer["statusCode"] == 500:
            self.world.wrongs.append(f"500: {event['rawPath']}: {answer['body']}")
        self.world.say(function, f"answers {answer['statusCode']}")
        return answer["statusCode"], task

    def _invoke(self, function: str, event: Document, patience: float = NEVER) -> tuple[Any, Task | None]:
        task: list[Task] = []
        try:
            return self.world.functions[function].invoke(event, patience=patience, begun=task.append), task[0]
        except FunctionError as error:
            # Lambda's own, or ours of whom the next run, or the next try, takes care.
            if error.error_type not in ("Runtime.ExitError", "StorageError", "TokenError"):
                self.world.wrongs.append(f"{function} failed: {error}")
        except ImpatientError:
            pass
        return None, task[0] if task else None

    def _get(self, reference: str) -> Document | None:
        event: Document = {
            "version": "2.0",
            "routeKey": "GET /reversals/{transaction_reference}",
            "rawPath": f"/reversals/{reference}",
            "pathParameters": {"transaction_reference": reference},
            "requestContext": {},
        }
        answer, _ = self._invoke("LookupFunction", event)
        shown: Document | None = json.loads(answer["body"]) if answer and answer["statusCode"] == 200 else None
        return shown

    # ------------------------------------------------------------------------------------------- the end

    def figures(self) -> Counter[str]:
        """What there was to go wrong: a proof that met none of it would prove nothing."""
        items = [item for item in self.world.table.items.values() if "version" in item]
        return Counter(
            {
                "calls in trouble": self.world.troubles,
                "deaths": self.world.deaths,
                "attempts": sum(int(item["attempt"]["N"]) for item in items),
                **Counter(item["status"]["S"] for item in items),
                "conflicts": sum(any("conflict" in it["M"] for it in item["history"]["L"]) for item in items),
                "queued": self.world.queue.sent,
                "archived": len(self.world.bucket.objects),
            }
        )

    def play(self) -> list[str]:
        """Play it, let it come to rest, and judge. Returns every violation."""
        world = self.world
        try:
            world.run()
            skew = world.weather.skew
            world.weather = replace(CALM, skew=skew)
            for _ in range(4):
                if any("due_shard" in item for item in world.table.items.values()):
                    world.spawn("schedule", partial(self._invoke, "ReconcileFunction", {}), after=QUIET)
                    world.run()
            lost = [*self._taken_and_not_kept()]
            world.spawn("operator", self._resolve_all, after=QUIET)
            world.run()
            if world.bucket.objects:
                world.spawn("operator", self._republish)
                world.run()
            reversals: dict[str, Document] = {}
            world.spawn("reader", lambda: reversals.update(self._all()))
            world.run()
            return [*lost, *self._judge(reversals)]
        finally:
            world.abandon()
            for function in world.functions.values():
                function.let_go()

    def _all(self) -> Iterator[tuple[str, Document]]:
        for reference in list(self.world.table.items):
            if not reference.startswith("#") and (shown := self._get(reference)):
                yield reference, shown

    def _republish(self) -> None:
        self._invoke("PublishFunction", {"republish": {"updated_since": "2020-01-01T00:00:00Z"}})

    def _judge(self, reversals: Mapping[str, Document]) -> Iterator[str]:
        world, journal = self.world, self._journal()
        yield from world.wrongs
        elsewhere = frozenset({DASHBOARD} & reversals.keys())
        books = Books(journal, self._became, reversals, world.topic.messages, self._kept(), elsewhere)
        for violation in violations(books):
            letter, reference, _ = violation.split(": ", 2)
            # Where Kopo Kopo itself signed two contrary things, what is true is not ours to know.
            if not (reference in self._disturbed and letter in ("A", "D", "truth")):
                yield violation
        yield from self._details_that_are_untrue(reversals)
        yield from self._answers_that_are_untrue()
        yield from self._keys_that_were_used_again()
        yield from self._histories_that_were_rewritten()
        lifetimes = (world.now - EPOCH) // (self.lifetime * 0.9 - 1)
        expired = sum(line["status"] == 401 and line["path"].startswith("/api") for line in journal)
        allowed = 1 + lifetimes + expired + self._revocations + world.token_troubles
        if not world.weather.skew and (asked := token_requests(journal)) > allowed:
            yield f"F: {asked} requests for a token, and {allowed:.0f} are explained"

    def _kept(self) -> frozenset[str]:
        """The events that lie in the bucket, by what the records there say."""
        kept = set()
        for stored in self.world.bucket.objects:
            records = json.loads(stored["payload"])["Records"] if "payload" in stored else [stored]
            images = [record["dynamodb"]["NewImage"] for record in records]
            kept |= {f"{image['transaction_reference']['S']}:{image['version']['N']}" for image in images}
        return frozenset(kept)

    def _details_that_are_untrue(self, reversals: Mapping[str, Document]) -> Iterator[str]:
        """What Kopo Kopo told of a transfer is shown as it told it."""
        reversal = self.world.kopokopo.reversal
        for reference, posts in accepted_posts(self._journal()).items():
            if (shown := reversals.get(reference)) is None or reference in self._disturbed:
                continue
            latest = reversal(posts[-1]["id"])
            for entry in shown["history"]:
                is_latest = entry["attempt"] == shown["attempt"] == attempt_of(posts[-1]) and not entry.get("conflict")
                if is_latest and entry.get("evidence") == "transferred" and entry["source"] in ("callback", "poll"):
                    told = (latest.id, "400.0", latest.reversal_reference)
                    if told != (it := (shown["kopokopo_id"], shown["amount"], shown["reversal_reference"])):
                        yield f"truth: {reference}: Kopo Kopo told {told}, and it is {it}"

    def _answers_that_are_untrue(self) -> Iterator[str]:
        for answer in self.answers:
            sent = self.world.posts.get(answer.task, []) if answer.task else []
            accepted = any(line["accepted"] for line in sent)
            # A webhook names no attempt: one that is contrary may decide what Kopo Kopo has not even accepted.
            if answer.status == 201 and not accepted and answer.reference not in self._disturbed:
                yield f"answer: {answer.reference}: 201, and Kopo Kopo accepted nothing"
            if answer.status == 200 and any(line["status"] != 401 for line in sent):
                yield f"answer: {answer.reference}: 200, and it was sent"
            if answer.status == 422 and accepted:
                yield f"answer: {answer.reference}: 422, and Kopo Kopo accepted it"
            if answer.status == 503 and any(line["status"] != 401 for line in sent):
                yield f"answer: {answer.reference}: 503, and it was sent"
            if answer.status not in (0, 200, 201, 202, 409, 422, 503):
                yield f"answer: {answer.reference}: {answer.status}"

    def _keys_that_were_used_again(self) -> Iterator[str]:
        """The key of the latest attempt starts no other."""
        used: dict[tuple[str, int], str | None] = {}
        for answer in self.answers:
            for line in self.world.posts.get(answer.task, []) if answer.task else []:
                used[answer.reference, attempt_of(line)] = answer.key
        for (reference, attempt), key in used.items():
            if key and used.get((reference, attempt + 1)) == key:
                yield f"key: {reference}: {key} started attempt {attempt}, and the next one, too"

    def _taken_and_not_kept(self) -> Iterator[str]:
        """What was answered 200 has to be in the history by itself: an operator who looks it up would hide the loss."""
        for word in self._taken:
            item = self.world.table.items.get(word.reference)
            if item is None or not word.is_in([entry["M"] for entry in item["history"]["L"]]):
                yield f"G: {word.reference}: 200 was said to {word.fact} of attempt {word.attempt}, and it is not kept"

    def _histories_that_were_rewritten(self) -> Iterator[str]:
        """What was written stays: each version adds one entry to the history of the one before."""
        for record in self.world.table.stream:
            before, after = record["dynamodb"].get("OldImage"), record["dynamodb"]["NewImage"]
            if before is None or "version" not in after:
                continue
            changes = int(after["version"]["N"]) - int(before["version"]["N"])
            old, new = before["history"]["L"], after["history"]["L"]
            if changes not in (0, 1) or len(new) - len(old) != changes or new[: len(old)] != old:
                yield f"history: {after['transaction_reference']['S']}: version {after['version']['N']} rewrote it"


def _epoch(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def play(seed: int, fault: str = "", trace: list[str] | None = None) -> tuple[list[str], Counter[str]]:
    """Play one seed; returns its violations, and its figures."""
    with silence(), faults.planted(fault):
        random.seed(seed)  # what the functions draw
        schedule = Schedule(seed)
        schedule.world.trace = trace
        return schedule.play(), schedule.figures()


# ------------------------------------------------------------------------------------------------------ the command


def _play_some(work: tuple[range, str]) -> list[tuple[int, list[str], Counter[str]]]:
    seeds, fault = work
    return [(seed, *play(seed, fault)) for seed in seeds]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=SCHEDULES, help="how many seeds are played")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one alone, and show what happens")
    parser.add_argument(
        "--fault", default="", choices=["", *faults.FAULTS], help="plant this fault, and stop when it is found"
    )
    options = parser.parse_args()
    if options.seed is not None:
        trace: list[str] = []
        found, _ = play(options.seed, options.fault, trace)
        print("\n".join([*trace, *(f"VIOLATION: {it}" for it in found)]))
        print(f"simulate: seed {options.seed}, {len(trace)} steps, {len(found)} violations")
        return 1 if found else 0
    report = Report("simulate", "schedules", options.schedules)
    last = options.first + options.schedules
    work = [(range(it, min(it + 50, last)), options.fault) for it in range(options.first, last, 50)]
    replay = f'make simulate ARGS="--seed {{}}{f" --fault {options.fault}" if options.fault else ""}"'
    figures: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for played in pool.imap(_play_some, work):
            for seed, found, seen in played:
                report.add()
                figures += seen
                for violation in found:
                    report.violation(f"seed {seed}: {violation}", replay.format(seed))
                if options.fault and any(it.startswith(faults.FAULTS[options.fault].breaks + ":") for it in found):
                    pool.terminate()
                    return report.close(figures)
    return report.close(figures)


if __name__ == "__main__":
    sys.exit(main())
