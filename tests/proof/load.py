"""Load: thousands of reversals with duplicates, cancellations, lost callbacks and killed functions mixed: `make load`.

Once all has come to rest, Kopo Kopo's journal, the API, the table and a subscriber's queue have to agree on each.
What is asked, and in which order, follows from the seed; what a kill meets does not.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from local.cloud import DEFAULT_CREDENTIALS, LaptopCloud
from local.simulator import Reversal, behaviour_of, compact, sign, webhook_document
from local.subscriber import Subscriber
from local.waiting import until
from tests.proof.judge import Books, Document, accepted_posts, attempt_of, states, token_requests, violations
from tests.proof.report import Report

PARAMETERS = {
    "KopoKopoTimeout": "1",
    "ReconcileSchedule": "rate(2 seconds)",
    "ReconcileFirstDelay": "2",
    # Also of what there is no id to ask by: not so short that looking at it becomes most of the work.
    "ReconcileLongestDelay": "30",
    "WebhookScope": "company",
}
# Of a thousand transaction references, how many begin with what, which tells the simulator how to behave.
MIX = {
    "TQ": 623,
    "CANCEL": 100,
    "LOST": 80,
    "EARLY": 50,
    "THRICE": 50,
    "WEBHOOK": 25,
    "SILENT": 20,
    "EXPIRED": 10,
    "MUTE": 10,
    "OLD": 7,
    "REJECT": 7,
    "DOWN": 6,
    "BROKEN": 2,
    "DROP": 2,
    "EVIL": 2,
    "MOVED": 2,
    "NOLOC": 2,
    "WEBHOOKB2B": 2,
}
REASONS = ("Paid twice", "Wrong amount")

TRIES = 50  # of one request
PAUSE = 0.2  # seconds between two of them, and between two looks at what is waited for
REST = 120.0  # seconds in which everything comes to rest; a claim whose function was killed takes 28
PAGE = 100  # reversals
PHONE_NUMBER = "+254700000000"  # of whoever the simulator's webhooks are about
SECRETS = ("client_secret", "api_key", "access_token")
SHOWN = 50  # violations; the rest are counted


@dataclass(frozen=True)
class Request:
    """What a merchant asks for, again and again until there is an answer.

    Attributes:
        key: The Idempotency-Key.
        after_failure: Meant as another attempt: it waits until the one before has failed.
    """

    reference: str
    reason: str = REASONS[0]
    key: str | None = None
    after_failure: bool = False


@dataclass(frozen=True)
class Answer:
    """What a request was answered with; status 0: nothing."""

    request: Request
    status: int
    document: Document = field(default_factory=dict)

    @property
    def is_gateways(self) -> bool:
        """Whether it is API Gateway's own, which had none of the function."""
        return self.document.keys() == {"message"}

    @property
    def is_for_good(self) -> bool:
        return self.status not in (0, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)

    @property
    def reversal(self) -> Document:
        """The one that it shows; empty if it shows none."""
        shown: Document = self.document.get("reversal") or self.document
        return shown if "attempt" in shown else {}


def plan(chance: random.Random, reversals: int) -> list[Request]:
    """The merchants' requests in order: every behaviour at least once, and one reference in five more than once."""
    prefixes = [*MIX, *chance.choices(list(MIX), list(MIX.values()), k=reversals)][:reversals]
    chance.shuffle(prefixes)
    placed: list[tuple[int, Request]] = []
    for place, prefix in enumerate(prefixes):
        first = Request(f"{prefix}{place:06}", key=chance.choice((None, None, f"order-{place}")))
        placed.append((place, first))
        for _ in range(chance.choice((1, 2)) if chance.random() < 0.2 else 0):
            again = replace(first, reason=chance.choice((REASONS[0], *REASONS)))
            placed.append((place + chance.choice((0, 0, 10)), again))  # at the same time, or soon after
        if prefix == "CANCEL" and chance.random() < 0.5:
            key = chance.choice((None, f"order-{place}-again"))
            placed.append((place + 100, replace(first, key=key, after_failure=True)))
    return [request for _, request in sorted(placed, key=lambda pair: pair[0])]


def became(_: str, reference: str) -> str | None:
    """What becomes of a reversal at Kopo Kopo. Of some its status never tells, but a webhook does."""
    return behaviour_of(reference).bulk or "Transferred"


class Client:
    """Speaks JSON over kept-alive connections, for any number of threads.

    Args:
        connections: How many are kept.
    """

    def __init__(self, connections: int) -> None:
        self._pool = PoolManager(maxsize=connections, retries=False, timeout=35.0)

    def call(self, method: str, url: str, **more: Any) -> tuple[int, Any]:
        """The status and the document of the answer; 0 if there is none."""
        try:
            response = self._pool.request(method, url, **more)
            return response.status, response.json()
        except (HTTPError, ValueError):
            return 0, {}

    def get(self, url: str, **parameters: str) -> Any:
        """What there is at a URL.

        Raises:
            LookupError: nothing, however often it was asked for.
        """
        for _ in range(TRIES):
            status, document = self.call("GET", url, fields=parameters)
            if status == HTTPStatus.OK:
                return document
            time.sleep(PAUSE)
        raise LookupError(f"GET {url} is answered {status}: {document}")


class Merchants:
    """Those who call the API."""

    def __init__(self, api: str, client: Client) -> None:
        self._reversals = f"{api}/reversals"
        self._client = client

    def ask(self, request: Request) -> list[Answer]:
        """Ask until there is an answer; all that came, in order."""
        if request.after_failure:
            url = f"{self._reversals}/{request.reference}"
            until(lambda: self._client.call("GET", url)[1].get("status") == "failed", 5, PAUSE)
        body = {"transaction_reference": request.reference, "reason": request.reason}
        headers = {"Idempotency-Key": request.key} if request.key else {}
        answers: list[Answer] = []
        while len(answers) < TRIES:
            answers.append(Answer(request, *self._client.call("POST", self._reversals, json=body, headers=headers)))
            if answers[-1].is_for_good:
                break
            time.sleep(PAUSE)
        return answers

    def show(self, reference: str) -> Document:
        reversal: Document = self._client.get(f"{self._reversals}/{reference}")
        return reversal

    def reversals(self, **parameters: str) -> Iterator[Document]:
        """What GET /reversals shows, page after page."""
        page = self._client.get(self._reversals, limit=str(PAGE), **parameters)
        yield from page["items"]
        while page["cursor"]:
            page = self._client.get(self._reversals, limit=str(PAGE), cursor=page["cursor"], **parameters)
            yield from page["items"]

    def resolve(self, reference: str, status: str) -> bool:
        body = {"status": status, "note": "Seen in Kopo Kopo's journal"}
        return self._client.call("POST", f"{self._reversals}/{reference}/resolution", json=body)[0] == HTTPStatus.OK


class KopoKopo:
    """What the simulator has seen and done."""

    def __init__(self, url: str, client: Client) -> None:
        self._url, self._client = url, client

    def journal(self) -> list[Document]:
        entries: list[Document] = self._client.get(f"{self._url}/_journal")
        return entries

    def deliveries(self) -> list[Document]:
        entries: list[Document] = self._client.get(f"{self._url}/_deliveries")
        return entries

    def deliver_again(self) -> None:
        """The webhooks that were not taken and of which no status tells: somebody asks Kopo Kopo for them."""
        for sent in self.deliveries():
            reference, behaviour = sent["transaction_reference"], behaviour_of(sent["transaction_reference"])
            if sent["kind"] == "webhook" and sent["status"] != HTTPStatus.OK and behaviour.bulk is None:
                body = compact(webhook_document(Reversal(reference, ""), behaviour.topic or ""))
                headers = {"X-KopoKopo-Signature": sign(body, DEFAULT_CREDENTIALS["KOPOKOPO_API_KEY"])}
                self._client.call("POST", sent["url"], body=body, headers=headers)


class Killer:
    """Ends children of functions, whatever they are about.

    Args:
        a_second: How many; 0 is none.
    """

    def __init__(self, cloud: LaptopCloud, chance: random.Random, a_second: float) -> None:
        self.kills = 0
        self._functions = list(cloud.functions.values())
        self._chance = chance
        self._a_second = a_second

    def work(self, ended: Event) -> None:
        while self._a_second and not ended.wait(1 / self._a_second):
            if running := [pids for function in self._functions if (pids := function.pids)]:
                with suppress(ProcessLookupError):
                    os.kill(self._chance.choice(self._chance.choice(running)), signal.SIGKILL)
                    self.kills += 1


@contextmanager
def meanwhile(work: Callable[[Event], None]) -> Iterator[None]:
    """Work in a thread, which is told when it is enough."""
    ended = Event()
    thread = Thread(target=work, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Load:
    """One run, on a laptop cloud that has just been started with a simulator.

    Args:
        cloud: The cloud.
        report: Told of every reversal.
        clients: How many requests are under way at a time.
    """

    def __init__(self, cloud: LaptopCloud, report: Report, clients: int) -> None:
        self._cloud = cloud
        self._report = report
        self._clients = clients
        client = Client(clients)
        self._merchants = Merchants(cloud.outputs["ApiUrl"], client)
        self._kopokopo = KopoKopo(cloud.outputs["SimulatorUrl"], client)
        self._subscriber = Subscriber(cloud)
        self.figures: dict[str, int] = {}

    def run(self, seed: int, reversals: int, kills_a_second: float) -> Iterator[str]:
        """Ask, kill, wait and compare.

        Yields:
            What does not hold.
        """
        chance = random.Random(seed)
        requests = plan(chance, reversals)
        killer = Killer(self._cloud, chance, kills_a_second)
        with meanwhile(self._listen), ThreadPoolExecutor(self._clients) as pool:
            with meanwhile(killer.work):
                answers = list(self._counted(pool.map(self._merchants.ask, requests)))
            self._come_to_rest()
            listed = Counter(it["transaction_reference"] for it in self._each(self._merchants.reversals()))
            shown = dict(zip(listed, self._each(pool.map(self._merchants.show, listed)), strict=True))
            expected = {f"{name}:{version}" for name, it in shown.items() for version in news(it)}
            until(lambda: expected <= {event["id"] for event in self._subscriber.events}, REST, PAUSE)
        books = Books(self._kopokopo.journal(), became, shown, self._subscriber.events)
        cut_off = {log.stem: cut_off_in(log) for log in self._cloud.logs.glob("*Function.log")}
        self.figures = {
            "requests": len(answers),
            "kills": killer.kills,
            "invocations cut off": sum(cut_off.values()),
            "events": len(books.events),
            "token requests": token_requests(books.journal),
        }
        yield from violations(books)
        yield from unaccounted({it.reference for it in requests} | accepted_posts(books.journal).keys(), listed)
        yield from disagreements(books, self._items())
        yield from untrue_answers(answers, books)
        yield from too_many_errors(answers, cut_off["InitiateFunction"])
        yield from too_many_tokens(books, killer.kills)
        yield from leaks(self._cloud.logs, self._secrets())

    def _listen(self, ended: Event) -> None:
        """Empty the subscriber's queue until it is enough."""
        while not ended.is_set():
            if not self._subscriber.receive():
                ended.wait(PAUSE)

    def _counted(self, asked: Iterator[list[Answer]]) -> Iterator[Answer]:
        """All the answers, while their reversals are counted."""
        seen: set[str] = set()
        for answers in asked:
            reference = answers[0].request.reference
            self._report.add(reference not in seen)
            seen.add(reference)
            yield from answers

    def _each(self, things: Iterator[Document]) -> Iterator[Document]:
        """The same, with a word now and then to whoever waits."""
        for thing in things:
            self._report.add(0)
            yield thing

    def _come_to_rest(self) -> None:
        """Wait for all that will come by itself, and see to the rest, as an operator does."""
        accepted = accepted_posts(self._kopokopo.journal())
        behaviours = [behaviour_of(reference) for reference, posts in accepted.items() for _ in posts]
        deliveries = sum(behaviour.results + (behaviour.topic is not None) for behaviour in behaviours)
        until(lambda: len(self._kopokopo.deliveries()) >= deliveries, REST, PAUSE)
        self._kopokopo.deliver_again()
        until(lambda: not any(self._changing()), REST, PAUSE)
        for reversal in list(self._merchants.reversals(status="unknown")):
            reference = reversal["transaction_reference"]
            money_moved = reference in accepted and became("", reference) == "Transferred"
            until(partial(self._merchants.resolve, reference, "reversed" if money_moved else "failed"), REST, PAUSE)

    def _changing(self) -> Iterator[Document]:
        """The reversals that are not at rest: whose function may be alive, or about which Kopo Kopo can be asked."""
        self._report.add(0)
        yield from self._merchants.reversals(status="initiating")
        yield from self._merchants.reversals(status="pending")
        yield from (reversal for reversal in self._merchants.reversals(status="unknown") if reversal["kopokopo_id"])

    def _items(self) -> dict[str, Document]:
        """The table, without the lease."""
        of = TypeDeserializer().deserialize
        pages = (
            self._cloud.client("dynamodb").get_paginator("scan").paginate(TableName=self._cloud.outputs["TableName"])
        )
        items = [{name: of(value) for name, value in item.items()} for page in pages for item in page["Items"]]
        return {item["transaction_reference"]: item for item in items if "version" in item}

    def _secrets(self) -> dict[str, str]:
        """What must be in no log: every secret that there was, old tokens included; and what each is."""
        client = self._cloud.client("secretsmanager")
        found = {PHONE_NUMBER: "phone number"}
        for secret in client.list_secrets()["SecretList"]:
            versions = client.list_secret_version_ids(SecretId=secret["ARN"], IncludeDeprecated=True)["Versions"]
            for version in versions:
                value = client.get_secret_value(SecretId=secret["ARN"], VersionId=version["VersionId"])["SecretString"]
                found |= {known: name for name, known in json.loads(value).items() if name in SECRETS}
        return found


def news(reversal: Document) -> dict[int, tuple[str, int, bool]]:
    """How it stood after each change that has an event, by version."""
    return {
        version: state
        for version, _, state, is_new in states(reversal)
        if is_new and (state[0] != "initiating" or state[2])
    }


def unaccounted(asked: set[str], listed: Mapping[str, int]) -> Iterator[str]:
    yield from (f"{name}: was asked for, and is in no list" for name in sorted(asked - listed.keys()))
    yield from (f"{name}: is listed, and nobody asked for it" for name in sorted(listed.keys() - asked))
    yield from (f"{name}: is listed {times} times" for name, times in sorted(listed.items()) if times > 1)


def disagreements(books: Books, items: Mapping[str, Document]) -> Iterator[str]:
    """Where item, API, history, events and journal do not say the same, one to one."""
    events: Mapping[str, dict[int, Document]] = defaultdict(dict)
    for event in books.events:
        events[event["subject"]][event["sequence"]] = event
    accepted = accepted_posts(books.journal)
    for reference in sorted(items.keys() ^ books.reversals.keys()):
        yield f"{reference}: is in the table or in the API alone"
    for reference in sorted(items.keys() & books.reversals.keys()):
        reversal, item, told = books.reversals[reference], items[reference], events[reference]
        for name in reversal.keys() - {"currency"}:
            if item.get(name) != reversal[name]:
                yield f"{reference}: {name} is {item.get(name)} in the table, and {reversal[name]} in the API"
        data = {version: event["data"] for version, event in told.items()}
        heard = {version: (it["status"], it["attempt"], it["conflict"]) for version, it in data.items()}
        if heard != news(reversal):
            yield f"{reference}: events tell {heard}, and its history {news(reversal)}"
        last = {name: value for name, value in reversal.items() if name != "history"}
        if data.get(reversal["version"], last) != last:
            yield f"{reference}: its last event tells {data[reversal['version']]}, and it is {last}"
        ids = [post["id"] for post in accepted.get(reference, ()) if attempt_of(post) == reversal["attempt"]]
        if reversal["kopokopo_id"] not in (*ids, None):
            yield f"{reference}: has the id {reversal['kopokopo_id']}, and Kopo Kopo gave it {ids}"
        if reversal["conflict"]:
            yield f"{reference}: is in conflict, and Kopo Kopo never contradicted itself"


def untrue_answers(answers: Sequence[Answer], books: Books) -> Iterator[str]:
    """What merchants were told, and is not so."""
    accepted = {(name, attempt_of(post)) for name, posts in accepted_posts(books.journal).items() for post in posts}
    for answer in answers:
        request, told = answer.request, answer.reversal
        was_accepted = (request.reference, told.get("attempt")) in accepted
        holds: Mapping[int, bool] = {
            HTTPStatus.OK: told.get("reason") == request.reason,
            HTTPStatus.CREATED: was_accepted,
            HTTPStatus.ACCEPTED: told.get("status") in ("initiating", "unknown"),
            HTTPStatus.CONFLICT: told.get("reason") != request.reason,
            HTTPStatus.UNPROCESSABLE_ENTITY: told.get("status") == "failed" and not was_accepted,
            HTTPStatus.INTERNAL_SERVER_ERROR: answer.is_gateways,
            HTTPStatus.SERVICE_UNAVAILABLE: not was_accepted,
        }
        if not holds.get(answer.status):
            yield f"{request.reference}: {request} was answered {answer.status} {dict(answer.document)}"


def too_many_errors(answers: Sequence[Answer], cut_off: int) -> Iterator[str]:
    """Nobody is answered 500, but by API Gateway, where a kill cut the function off."""
    errors = sum(answer.status == HTTPStatus.INTERNAL_SERVER_ERROR for answer in answers)
    if errors > cut_off:
        yield f"{errors} requests were answered 500, where {cut_off} were cut off"


def too_many_tokens(books: Books, kills: int) -> Iterator[str]:
    """F: one token for all, another for each that Kopo Kopo ended early, and one that a function may die with."""
    ended = sum(behaviour_of(reference).expires_token for reference in books.reversals)
    if (tokens := token_requests(books.journal)) > 1 + ended + kills:
        yield f"F: {tokens} tokens were asked for, where {ended} ended early and {kills} functions were killed"


def cut_off_in(log: Path) -> int:
    """How many invocations of a function ended by a kill."""
    return log.read_text(encoding="utf-8").count("Error: Runtime exited with error: signal 9")


def leaks(logs: Path, secrets: Mapping[str, str]) -> Iterator[str]:
    for log in sorted(logs.glob("*.log")):
        text = log.read_text(encoding="utf-8", errors="replace")
        yield from (f"E: {log.name} holds the {name}" for name in sorted({secrets[it] for it in secrets if it in text}))


def environment() -> dict[str, str]:
    """Nothing that names another Kopo Kopo or another AWS than the laptop's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KOPOKOPO_"))}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reversals", type=int, default=5000, help="how many")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="what decides who asks for what")
    parser.add_argument("--clients", type=int, default=10, help="how many requests are under way at a time")
    parser.add_argument("--kills-a-second", type=float, default=1.0, help="how many functions are killed")
    options = parser.parse_args(arguments)
    given = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in vars(options).items())
    report = Report("load", "reversals", options.reversals)
    state = Path(tempfile.mkdtemp(prefix="load-"))
    with LaptopCloud(parameters=PARAMETERS, state_dir=state, environ=environment()) as cloud:
        load = Load(cloud, report, options.clients)
        for violation in load.run(options.seed, options.reversals, options.kills_a_second):
            if report.violations < SHOWN:
                report.violation(violation, f'make load ARGS="{given}"')
            else:
                report.violations += 1
    if report.violations:
        print(f"load: its logs are in {state}", flush=True)
    else:
        shutil.rmtree(state)
    return report.close(load.figures)


if __name__ == "__main__":
    sys.exit(main())
