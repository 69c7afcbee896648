"""Crash points, and lost and late replies: `make crash`.

A scenario is played once undisturbed, and every call that a function makes in it is noted: those are the points. Then
it is played again and again, each time with one thing going wrong at one of them: the function's process is killed
(SIGKILL) before or after the call, the reply is lost, late or cut, the service is too busy. What follows is done as in
life: the merchant tries again, Kopo Kopo's result comes (or does not), reconcile asks, an operator looks. In the end
the books have to be right: by Kopo Kopo's journal, and by what was seen on every function's wire.

    make crash ARGS="--list"
    make crash ARGS="--scenario ordinary --point 2 --mode reply-lost"
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Self
from uuid import uuid4

import requests
from boto3.dynamodb.types import TypeDeserializer

from local.cloud import DEFAULT_CREDENTIALS, LaptopCloud
from local.lambdas import FunctionError
from local.simulator import Simulator, behaviour_of, sign
from local.subscriber import Subscriber
from local.waiting import until
from tests.proof import judge
from tests.proof.report import Report
from tests.proof.tap import Action, Call, Letter, Postbox, Reply, Rule, Tap

Document = dict[str, Any]

INITIATE, CALLBACK, LOOKUP = "InitiateFunction", "CallbackFunction", "LookupFunction"
RESOLVE, RECONCILE, PUBLISH, SUBSCRIBE = "ResolveFunction", "ReconcileFunction", "PublishFunction", "SubscribeFunction"
POST = "POST /api/v2/reversals"

# Times are the template's own, for the functions' clock is moved; but a call to Kopo Kopo takes what it really takes.
PARAMETERS = {"KopoKopoTimeout": "1", "ReconcileSchedule": "rate(300 days)", "WebhookScope": "company"}
TOKEN_LIFETIME = 30 * 24 * 3600  # seconds; longer than all the time that is let pass
RETRY_AFTER = 10.0  # seconds; what a 503 asks for
TRIES = 5  # of a merchant, an operator or a deployment, before they complain
ROUNDS = 6  # of all that can be done about a reversal, until it has come to rest
PATIENCE = 20.0  # seconds, for what must happen
WHILE_IT_IS_TRIED = 90.0  # seconds, for a stream's record to be given up
WORKERS = 5

# The functions' clock: this machine's, and as many seconds more as the file says.
CLOCK = """
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from reversals import clock
offset = Path(os.environ["CLOCK_OFFSET"])
clock.SystemClock.now = lambda self: datetime.now(UTC) + timedelta(seconds=float(offset.read_text()))
"""

_, CLIENT_SECRET, API_KEY = DEFAULT_CREDENTIALS.values()
SECRETS = (CLIENT_SECRET, API_KEY, "254700000000")  # the last is whom the simulator's webhooks speak of


# ------------------------------------------------------------------------------------------------------ the world


class Clock:
    """The functions' time: it passes by itself, and all at once when it is told to.

    Args:
        folder: Takes a file per function, which says by how many seconds its clock is ahead of this machine's.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._passed = 0.0
        self._skews: dict[str, float] = {}

    def file(self, function: str) -> Path:
        return self._folder / function

    def now(self, function: str) -> float:
        return time.time() + self._passed + self._skews.get(function, 0.0)

    def passes(self, seconds: float) -> None:
        self._passed += max(seconds, 0.0)
        for function in self._skews:
            self._write(function)

    def skew(self, function: str, seconds: float) -> None:
        """Set the clock of one function wrong by so much."""
        self._skews[function] = seconds
        self._write(function)

    def _write(self, function: str) -> None:
        new = self._folder / f"{function}.new"
        new.write_text(str(self._passed + self._skews[function]))
        new.replace(self.file(function))


class World:
    """A stack with a tap on every function, its Kopo Kopo, and a subscriber.

    Args:
        folder: For logs and clocks; not there yet.
        defects: Python that a function runs before its own, by its logical id: to see that it is found out.

    Attributes:
        kills: How often each function was killed.
        passwords: Every token and signature that was in use.
    """

    def __init__(self, folder: Path, defects: Mapping[str, str] | None = None) -> None:
        self.kills: Counter[str] = Counter()
        self.passwords: set[str] = set()
        self._folder, self._defects = folder, defects or {}
        self._running = ExitStack()
        self._warmed: dict[str, tuple[list[int], str]] = {}
        self._numbers = count(1)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._running.close()

    def _start(self) -> None:
        self.clock = Clock(self._folder / "clocks")
        self.simulator = self._running.enter_context(Simulator(delay=0, token_lifetime=TOKEN_LIFETIME))
        self.postbox = Postbox()
        self._running.callback(self.postbox.stop)
        self.tap = Tap(self._place_of, self.kill)
        self._running.callback(self.tap.stop)
        self.cloud = LaptopCloud(
            simulator=self.simulator.url,
            parameters={**PARAMETERS, "CallbackBaseUrl": self.postbox.url},
            state_dir=self._folder,
            environ={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            adjust=self._tapped,
        )
        self._running.enter_context(self.cloud)
        self.api, self.table = self.cloud.outputs["ApiUrl"], self.cloud.outputs["TableName"]
        self.answers = self.tap.url(SUBSCRIBE, "answers") + "/answer"
        self._dynamodb, self._secrets = self.cloud.client("dynamodb"), self.cloud.client("secretsmanager")
        self._sqs, self._s3 = self.cloud.client("sqs"), self.cloud.client("s3")
        secrets, buckets = self._secrets.list_secrets()["SecretList"], self._s3.list_buckets()["Buckets"]
        [self._token_secret] = [it["ARN"] for it in secrets if it["Name"].endswith("-TokenSecret")]
        [self._bucket] = [it["Name"] for it in buckets if it["Name"].endswith("-unpublishedbucket")]
        [self._evidence] = [it for it in self._sqs.list_queues()["QueueUrls"] if it.endswith("-EvidenceQueue")]
        # What a function that was killed had taken from the queue is seen again after a second, and not after 90.
        self._sqs.set_queue_attributes(QueueUrl=self._evidence, Attributes={"VisibilityTimeout": "1"})
        self._subscriber = Subscriber(self.cloud)

    def _tapped(self, function: str, properties: Document) -> Document:
        """A function's properties with the tap in the place of all whom it calls, and a clock that can be moved."""
        hooks = self._folder / "hooks" / function
        hooks.mkdir(parents=True)
        (hooks / "sitecustomize.py").write_text(CLOCK + self._defects.get(function, ""))
        self.clock.skew(function, 0)
        variables = {**properties["Environment"]["Variables"], "CLOCK_OFFSET": str(self.clock.file(function))}
        variables["AWS_ENDPOINT_URL"] = self.tap.url(function, "aws")
        for name, origin in {"KOPOKOPO_API_URL": "api", "KOPOKOPO_AUTH_URL": "auth"}.items():
            if name in variables:
                variables[name] = self.tap.url(function, origin)
        layers = [str(hooks), *properties["Layers"]]
        return {**properties, "Environment": {"Variables": variables}, "Layers": layers}

    def _place_of(self, origin: str) -> str:
        if origin == "aws":
            return self._aws
        return self.postbox.url if origin == "answers" else self.simulator.url

    @cached_property
    def _aws(self) -> str:
        return str(self.cloud.client("s3").meta.endpoint_url)

    # What there is to be seen

    def item(self, reference: str) -> Document | None:
        """A reversal as the table has it, read past all functions."""
        key = {"transaction_reference": {"S": reference}}
        item = self._dynamodb.get_item(TableName=self.table, Key=key, ConsistentRead=True).get("Item")
        return _integers(TypeDeserializer().deserialize({"M": item})) if item else None

    def events(self, reference: str) -> list[Document]:
        """What the subscriber has heard of a reversal so far, in order of arrival."""
        return self._subscriber.about(reference)

    def journal(self, after: int) -> list[Document]:
        """Kopo Kopo's, behind a line."""
        # Not over HTTP: it grows with every run, and is looked at several times in each.
        with self.simulator._lock:
            return deepcopy(self.simulator._journal[after:])

    def journal_length(self) -> int:
        with self.simulator._lock:
            return len(self.simulator._journal)

    def token(self) -> str:
        """The access token that the functions share; empty if there is none."""
        with suppress(self._secrets.exceptions.ResourceNotFoundException):
            value = self._secrets.get_secret_value(SecretId=self._token_secret)["SecretString"]
            return str(json.loads(value).get("access_token", ""))
        return ""

    def unpublished(self) -> set[str]:
        """The ids of the events that could not be published, and whose records the bucket holds whole."""
        held = set()
        for key in self._unpublished_keys():
            document = json.loads(self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read())
            # One that the function itself has kept, or a batch that the stream's source has given up.
            for record in [document] if "dynamodb" in document else json.loads(document["payload"])["Records"]:
                image = record["dynamodb"]["NewImage"]
                held.add(f"{image['transaction_reference']['S']}:{image['version']['N']}")
        return held

    def _unpublished_keys(self) -> list[str]:
        return [it["Key"] for it in self._s3.list_objects_v2(Bucket=self._bucket).get("Contents", [])]

    def leaks(self) -> Iterator[str]:
        """Every secret that is in a log; to be asked when all is over."""
        for log in sorted(self.cloud.logs.glob("*.log")):
            text = log.read_text(errors="replace")
            for secret in {*SECRETS, *self.passwords}:
                if secret in text:
                    yield f"E: {log.name} holds {secret[:12]}..."

    # What is done

    def reference(self, prefix: str) -> str:
        """A transaction that nobody has heard of yet."""
        return f"{prefix or 'TQ'}{next(self._numbers):06}"

    def kill(self, function: str) -> None:
        """Kill a function's processes, and see them dead."""
        self.kills[function] += 1
        processes = self.cloud.functions[function]
        for pid in processes.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not processes.pids, PATIENCE)

    def signed(self, body: bytes) -> dict[str, str]:
        """The headers with which Kopo Kopo posts this."""
        signature = sign(body, API_KEY)
        self.passwords.add(signature)
        return {"Content-Type": "application/json", "X-KopoKopo-Signature": signature}

    def lose_token(self) -> None:
        """No access token is shared any more."""
        self._secrets.put_secret_value(SecretId=self._token_secret, SecretString="{}")

    def revoke_tokens(self) -> None:
        """Kopo Kopo takes none of its access tokens any more."""
        with self.simulator._lock:
            self.simulator._tokens.clear()

    def prepare(self, scenario: "Scenario") -> None:
        """What was before a scenario begins."""
        self.clock.passes(RETRY_AFTER)  # whatever lease a killed function held has ended
        token = self.token()
        bearer = {"Authorization": f"Bearer {token}"}
        if not requests.get(f"{self.simulator.url}/oauth/token/info", headers=bearer, timeout=30).ok:
            for function in (INITIATE, RECONCILE):  # what they have in memory is not what is shared
                self.kill(function)
            self._warm(INITIATE)
        for function in scenario.warm:
            self._warm(function)
        for function in scenario.cold:
            self.kill(function)
        if scenario.without_token:
            self.lose_token()

    def _warm(self, function: str) -> None:
        """Have one process of a function, with that in memory which it keeps there."""
        processes, reference = self.cloud.functions[function], self.reference("REJECT")
        if self._warmed.get(function) == (processes.pids, self.token()):
            return
        if len(processes.pids) > 1:
            self.kill(function)
        if function == CALLBACK:
            body = b'{"topic":"customer_created"}'
            requests.post(f"{self.api}/kopokopo/webhooks", body, headers=self.signed(body), timeout=60)
        else:
            reference = reference if function == INITIATE else self.reference("LOST")
            asked = {"transaction_reference": reference, "reason": "To warm up"}
            requests.post(f"{self.api}/reversals", json=asked, timeout=60)
        if function == RECONCILE:
            self.clock.passes(3600)
            processes.invoke({})
        self.drain()
        self.clear(reference)
        self._warmed[function] = processes.pids, self.token()

    def drain(self) -> None:
        """Wait until all that the queue and the stream hold is done with: until what is put behind it is told."""
        mark = f"MARK-{uuid4()}"
        item = {name: {"S": "2026-01-01T00:00:00.000Z"} for name in ("created_at", "claimed_at", "updated_at")}
        item |= {"transaction_reference": {"S": mark}, "status": {"S": "failed"}}
        item |= {"attempt": {"N": "1"}, "version": {"N": "1"}}
        if not until(lambda: not self.waiting(), PATIENCE):
            raise RuntimeError("Evidence waits in the queue, and is not taken.")
        self._dynamodb.put_item(TableName=self.table, Item=item)
        if not until(lambda: self.events(mark), PATIENCE):
            raise RuntimeError("The table's stream is not told any more.")
        self._delete(mark)

    def waiting(self) -> int:
        """How much evidence the queue holds."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self._sqs.get_queue_attributes(QueueUrl=self._evidence, AttributeNames=names)["Attributes"]
        return sum(map(int, counts.values()))

    def clear(self, reference: str) -> None:
        """Leave nothing of a reversal to the next run."""
        self._delete(reference)
        self._subscriber.events.clear()
        self.postbox.letters.clear()

    def _delete(self, reference: str) -> None:
        self._dynamodb.delete_item(TableName=self.table, Key={"transaction_reference": {"S": reference}})

    def remove_unpublished(self) -> None:
        for key in self._unpublished_keys():
            self._s3.delete_object(Bucket=self._bucket, Key=key)


def _integers(value: Any) -> Any:
    """DynamoDB's numbers as numbers: all of ours are whole."""
    if isinstance(value, dict):
        return {name: _integers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_integers(part) for part in value]
    return value if isinstance(value, str | bool) or value is None else int(value)


# ------------------------------------------------------------------------------------------------------ a run


class Play:
    """One run of a scenario: what its merchant, its operator, Kopo Kopo's postman and the clock do.

    Attributes:
        found: What did not hold, in words.
        failures: How often a function that nobody waits for failed as a whole.
        out: The services and origins that are out of order.
    """

    def __init__(self, world: World, scenario: "Scenario") -> None:
        self.world, self.scenario = world, scenario
        self.reference = world.reference(scenario.prefix)
        self.found: list[str] = []
        self.failures = 0
        self.out: set[str] = set()
        self._begun = world.journal_length()
        self._is_promised = False
        self._kept: set[str] = set()

    def item(self) -> Document:
        return self.world.item(self.reference) or {}

    def posts(self) -> list[Document]:
        """Kopo Kopo's journal of the POSTs for this transaction."""
        journal = self.world.journal(self._begun)
        return [it for it in journal if (it["method"], it["transaction_reference"]) == ("POST", self.reference)]

    def is_paid_back(self) -> bool:
        return any(post["accepted"] and became(post["id"], self.reference) == "Transferred" for post in self.posts())

    def call(self, function: str, method: str, path: str, **request: Any) -> requests.Response:
        """Call the API; 500 is what it answers when the function is dead, and at no other time."""
        kills = self.world.kills[function]
        response = requests.request(method, self.world.api + path, timeout=60, **request)
        is_ours, was_killed = "problem" in response.headers["content-type"], self.world.kills[function] > kills
        allowed = 503 if is_ours else 500 if was_killed else 0
        if response.status_code >= 500 and response.status_code != allowed:
            self.found.append(f"{method} {path} was answered {response.status_code} {response.text!r}")
        return response

    # The merchant

    def post(self, key: str | None = None) -> None:
        """Ask for the reversal, until there is an answer."""
        for _ in range(TRIES):
            if self.ask(key) < 500:
                return
            if not self.scenario.is_hasty:
                self.world.clock.passes(RETRY_AFTER)
        self.found.append(f"{TRIES} times in a row the merchant was answered 5xx")

    def ask(self, key: str | None = None) -> int:
        """Ask for the reversal, once; returns the answer's status."""
        body = {"transaction_reference": self.reference, "reason": "Paid twice"}
        before = len(self.posts())
        response = self.call(INITIATE, "POST", "/reversals", json=body, headers={"Idempotency-Key": key} if key else {})
        posts = self.posts()[before:]
        is_accepted = any(post["accepted"] for post in posts)
        is_untrue = {
            200: bool(posts),
            201: not is_accepted,
            202: False,
            409: bool(posts),
            422: is_accepted,
            500: False,
            503: any(post["status"] != 401 for post in posts),  # which is as good as not sent
        }
        if is_untrue.get(response.status_code, True):
            sent = [(post["status"], post["accepted"]) for post in posts]
            self.found.append(f"answered {response.status_code}, when Kopo Kopo's answers were {sent}: {response.text}")
        return response.status_code

    def look(self) -> None:
        """Look at the reversal, and at the list."""
        for path in (f"/reversals/{self.reference}", "/reversals?status=reversed"):
            for _ in range(TRIES):
                response = self.call(LOOKUP, "GET", path)
                if response.status_code < 500:
                    break
            if response.status_code != 200:
                self.found.append(f"GET {path} was answered {response.status_code}")

    # Kopo Kopo

    def letters(self) -> list[Letter]:
        """What Kopo Kopo has posted about this reversal, once all of it is there."""

        def there() -> list[Letter]:
            return [it for it in self.world.postbox.letters if self.reference.encode() in it.request.body]

        behaviour = behaviour_of(self.reference)
        expected = (behaviour.results + bool(behaviour.topic)) * sum(post["accepted"] for post in self.posts())
        if not until(lambda: len(there()) >= expected, PATIENCE):
            raise RuntimeError(f"Kopo Kopo has posted {len(there())} letters, and not {expected}.")
        return there()

    def deliver(self) -> None:
        """What it has posted comes: once; where it insists, until it is taken."""
        for letter in self.letters():
            if self.comes(letter) and letter.answered is None:
                for _ in range(TRIES if self.scenario.insists else 1):
                    if self.hand_over(letter) == 200:
                        break

    def comes(self, letter: Letter) -> bool:
        return letter.request.path.split("/")[2] in self.scenario.brings

    def hand_over(self, letter: Letter) -> int:
        body, path = letter.request.body, letter.request.path
        letter.answered = self.call(CALLBACK, "POST", path, data=body, headers=self.world.signed(body)).status_code
        if letter.answered == 200:
            self._is_promised = True
        elif letter.answered < 500:
            self.found.append(f"a result was answered {letter.answered}")
        return letter.answered

    # What happens by itself

    def told(self) -> None:
        """Wait until what was promised is kept, and the subscriber has heard of every change so far."""

        def all_told() -> bool:
            states = list(judge.states(item)) if (item := self.item()) else []
            news = {version for version, _, it, is_new in states if is_new and (it[2] or it[0] != "initiating")}
            ids = {f"{self.reference}:{version}" for version in news}
            if self.scenario.is_lossy:
                self._kept |= self.world.unpublished()
            return ids <= {event["id"] for event in self.world.events(self.reference)} | self._kept

        # 200 says that a result is kept: the table has it, if not now, then when it has come out of the queue.
        if self._is_promised and not until(self._is_kept, PATIENCE):
            self.found.append(f"a result was answered 200, and the reversal is {self.item().get('status')}")
        self._is_promised = False
        if not until(all_told, WHILE_IT_IS_TRIED if self.scenario.is_lossy else PATIENCE):
            self.found.append("B: a change was not told")

    def _is_kept(self) -> bool:
        return self.item().get("status") in judge.FINAL and not self.world.waiting()

    def reconcile(self) -> None:
        """The schedule comes round when the reversal is due."""
        if due_at := self.item().get("due_at"):
            self.world.clock.passes(due_at + 1 - self.world.clock.now(RECONCILE))
        self.invoke(RECONCILE, {})  # if it fails, the next run is soon

    def invoke(self, function: str, event: Document) -> Any:
        """Invoke a function that answers nobody; None if it failed as a whole."""
        try:
            return self.world.cloud.functions[function].invoke(event)
        except FunctionError:
            self.failures += 1
            return None

    def fails(self, what: str) -> None:
        self.out.add(what)

    def works(self) -> None:
        """Whatever was out of order works again."""
        self.out.clear()

    def revoke_tokens(self) -> None:
        self.world.revoke_tokens()

    # The operator

    def resolve(self, status: str = "") -> None:
        """Record what the statement shows; or, by mistake, this status."""
        true = "reversed" if self.is_paid_back() else "failed"
        body = {"status": status or true, "note": "Seen in the statement"}
        for _ in range(TRIES):
            response = self.call(RESOLVE, "POST", f"/reversals/{self.reference}/resolution", json=body)
            if response.status_code < 500:
                break
        # What is known by now need not be resolved, and the operator is told so.
        if response.status_code not in (200, 409):
            self.found.append(f"an operator was answered {response.status_code} {response.text!r}")

    def republish(self) -> None:
        """Have everything told again, and remove what was kept of it."""
        for _ in range(TRIES):
            done = self.invoke(PUBLISH, {"republish": {"updated_since": "2026-01-01T00:00:00Z"}})
            if done and not done["failed"] and not done["cursor"]:
                self.world.remove_unpublished()
                self._kept.discard(f"{self.reference}:{self.item().get('version')}")  # told by now
                return
        self.found.append(f"{TRIES} times in a row it could not be published again")

    def subscribe(self) -> None:
        """Deploy the subscription to webhooks, until it succeeds."""
        properties = {"BaseUrl": self.world.postbox.url, "Scope": "company", "ScopeReference": ""}
        event = {"RequestType": "Create", "ResponseURL": self.world.answers, "ResourceProperties": properties}
        for _ in range(TRIES):
            self.invoke(SUBSCRIBE, event)
            answers = [json.loads(it.request.body) for it in self.world.postbox.letters if it.request.method == "PUT"]
            if answers and answers[-1]["Status"] == "SUCCESS":
                taken = {it["body"]["event_type"] for it in self.world.journal(self._begun) if it["status"] == 201}
                if len(taken) != 2:
                    self.found.append(f"it says that it has subscribed, and Kopo Kopo took {taken or 'nothing'}")
                return
        self.found.append(f"{TRIES} times in a row it could not be deployed")

    # The end

    def settle(self) -> None:
        """Whatever went wrong: do what is done about it in life, until there is nothing left to be done."""
        self._settle()
        if self.scenario.is_lossy:
            self.told()
            self.republish()

    def _settle(self) -> None:
        for _ in range(ROUNDS):
            status, is_paid_back = self.item().get("status"), self.is_paid_back()
            if self.item().get("conflict"):
                self.resolve()
            elif status == self.scenario.ends:
                return
            elif status in (None, "failed") and not is_paid_back:
                self.post()
            self.deliver()
            self.told()
            if self.item().get("status") in ("initiating", "pending") or self._can_be_asked_about():
                self.reconcile()
            if self.item().get("status") == "unknown" and not self._can_be_asked_about():
                self.resolve()
        self.found.append(f"it does not come to rest: {self.item().get('status')}, and not {self.scenario.ends}")

    def _can_be_asked_about(self) -> bool:
        return self.item().get("status") == "unknown" and bool(self.item().get("kopokopo_id"))

    def judge(self, tokens: int) -> None:
        """Compare all books.

        Args:
            tokens: How many may have been asked for.
        """
        world, journal = self.world, self.world.journal(self._begun)
        reversals = {}
        if self.scenario.ends:
            reversals[self.reference] = requests.get(f"{world.api}/reversals/{self.reference}", timeout=60).json()
        books = judge.Books(journal, became, reversals, world.events(self.reference), frozenset(self._kept))
        self.found += judge.violations(books)
        self.found += self._carried_about()
        if (asked := judge.token_requests(journal)) > tokens:
            self.found.append(f"F: {asked} tokens were asked for, and not {tokens}")

    def _carried_about(self) -> Iterator[str]:
        """E, for what is on the wire: each secret goes to the one whom it is for."""
        calls = self.world.tap.calls
        bearers = [it.request.headers.get("authorization", "") for it in calls if it.origin == "api"]
        tokens = {bearer.removeprefix("Bearer ") for bearer in bearers} | {self.world.token()} - {""}
        self.world.passwords |= tokens
        owners = {"POST /oauth/token": {CLIENT_SECRET}, "secretsmanager.PutSecretValue TokenSecret": tokens}
        for call in calls:
            words = call.request.raw.decode("latin-1")
            if call.origin == "api":
                words = words.replace(call.request.headers.get("authorization", ""), "")
            for secret in {*SECRETS, *tokens} - owners.get(call.name, set()):
                if secret in words:
                    yield f"E: {secret[:12]}... was sent with {call}"


def became(_: str, reference: str) -> str | None:
    """What became of an accepted reversal: its transaction reference chose it."""
    behaviour = behaviour_of(reference)
    return behaviour.bulk or ("Transferred" if behaviour.topic else None)


# ------------------------------------------------------------------------------------------------------ scenarios


@dataclass(frozen=True)
class Scenario:
    """What is played.

    Attributes:
        name: For the command line.
        script: The steps.
        prefix: Of the transaction reference: it chooses what Kopo Kopo does.
        ends: The status in the end, whatever goes wrong; empty where there is no reversal.
        warm: Functions that have run before, and have in memory what they keep there.
        cold: Functions that start anew.
        without_token: There is no access token yet.
        tokens: How many tokens are asked for if nothing goes wrong.
        brings: What Kopo Kopo delivers, by the words in its path.
        insists: It delivers again what was not taken; else it delivers everything once.
        is_prompt: It delivers before it answers, and waits for it.
        is_lossy: Events may end in the bucket, from where an operator has them told.
        is_hasty: The merchant tries again at once, and not after Retry-After.
        rules: What goes wrong by itself, and is what the scenario is about.
        is_enumerated: Its calls are points.
    """

    name: str
    script: Callable[[Play], None]
    prefix: str = ""
    ends: str = "reversed"
    warm: tuple[str, ...] = (INITIATE, CALLBACK)
    cold: tuple[str, ...] = ()
    without_token: bool = False
    tokens: int = 0
    brings: tuple[str, ...] = ("results",)
    insists: bool = False
    is_prompt: bool = False
    is_lossy: bool = False
    is_hasty: bool = False
    rules: Callable[[Play], list[Rule]] = lambda _: []
    is_enumerated: bool = True


def _steps(*names: str) -> Callable[[Play], None]:
    """A script of a play's methods, with their argument where they take one."""

    def script(play: Play) -> None:
        for name in names:
            step, _, argument = name.partition(" ")
            getattr(play, step)(*filter(None, [argument]))

    return script


def _at(function: str, name: str, number: int, done: Action | Reply) -> Callable[[Play], list[Rule]]:
    """Something goes wrong at one call, however often it is tried."""
    point = (function, name, number)
    return lambda _: [lambda call: done if (call.function, call.name, call.number) == point else None]


def _outages(play: Play) -> list[Rule]:
    """What is out of order takes no call."""

    def rule(call: Call) -> Action | None:
        if call.name.partition(".")[0] in play.out:
            return Action.THROTTLE
        return Action.LOSE_REQUEST if call.origin in play.out else None

    return [rule]


def _table_fails_after_the_post(play: Play) -> list[Rule]:
    def rule(call: Call) -> None:
        if call.name == POST:
            play.fails("dynamodb")

    return [rule, *_outages(play)]


def _reconcile_comes_in_between(play: Play) -> list[Rule]:
    """While the POST is under way reconcile runs, by a clock that makes the claim look forsaken."""

    def rule(call: Call) -> None:
        if (call.name, call.number) == (POST, 1):
            play.world.clock.skew(RECONCILE, 600)
            play.world.cloud.functions[RECONCILE].invoke({})
            play.world.clock.skew(RECONCILE, 0)

    return [rule]


INVALID = Reply.of(
    200,
    "<PublishBatchResponse><PublishBatchResult><Successful/><Failed><member><Id>0</Id><Code>InvalidParameter</Code>"
    "<Message>Invalid</Message><SenderFault>true</SenderFault></member></Failed></PublishBatchResult>"
    "<ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></PublishBatchResponse>",
    "text/xml",
)
TO_THE_END = ("post", "told", "deliver", "told")

SCENARIOS = [
    Scenario("ordinary", _steps(*TO_THE_END, "look")),
    Scenario("cold", _steps(*TO_THE_END), warm=(), cold=(INITIATE, CALLBACK)),
    Scenario("no-token", _steps(*TO_THE_END), cold=(INITIATE,), without_token=True, tokens=1, is_hasty=True),
    Scenario("expired-token", _steps(*TO_THE_END), "EXPIRED", tokens=1),
    Scenario("cancelled-twice", _steps(*TO_THE_END, *TO_THE_END), "CANCEL", "failed"),
    Scenario("refused", _steps("post order-17", "told", "post order-17"), "REJECT", "failed"),
    Scenario("early", _steps("post", "told"), "EARLY", is_prompt=True),
    Scenario("thrice", _steps(*TO_THE_END), "THRICE"),
    Scenario("result-and-webhook", _steps(*TO_THE_END), brings=("results", "webhooks")),
    Scenario(
        "webhook-alone",
        _steps("post", "told", "reconcile", "deliver", "told"),
        "WEBHOOK",
        warm=(INITIATE, CALLBACK, RECONCILE),
        brings=("webhooks",),
        insists=True,
    ),
    Scenario("lost", _steps("post", "told", "reconcile", "told"), "LOST", warm=(INITIATE, RECONCILE)),
    Scenario(
        "lost-and-tokens-revoked",
        _steps("post", "told", "revoke_tokens", "reconcile", "told"),
        "LOST",
        warm=(INITIATE, RECONCILE),
        tokens=1,
    ),
    Scenario("silent", _steps(*TO_THE_END), "SILENT"),
    Scenario("operator", _steps("post", "told", "resolve", "told"), "MUTE"),
    Scenario(
        "stale",
        _steps("post", "reconcile", "told", "resolve", "told", *TO_THE_END),
        warm=(INITIATE, CALLBACK, RECONCILE),
        rules=_at(INITIATE, POST, 1, Action.KILL_BEFORE),
    ),
    Scenario(
        "conflict",
        _steps("post", "told", "resolve failed", "told", "deliver", "told", "resolve", "told"),
        "SILENT",
        insists=True,
    ),
    Scenario("queue", _steps(*TO_THE_END), rules=_at(CALLBACK, "dynamodb.UpdateItem", 1, Action.THROTTLE)),
    Scenario("subscribe", _steps("subscribe"), ends="", warm=(INITIATE,), cold=(SUBSCRIBE,)),
    Scenario("republish", _steps(*TO_THE_END, "republish")),
    Scenario(
        "unpublishable",
        _steps(*TO_THE_END, "republish"),
        is_lossy=True,
        rules=_at(PUBLISH, "sns.PublishBatch", 2, INVALID),
    ),
    # What is out of order for a while, and not at one call.
    Scenario("table-down", _steps("fails dynamodb", "ask", "works"), rules=_outages, is_enumerated=False),
    Scenario(
        "table-down-after-the-post",
        _steps("ask", "deliver", "reconcile", "works", "told"),
        rules=_table_fails_after_the_post,
        is_enumerated=False,
    ),
    Scenario(
        "secrets-down",
        _steps("fails secretsmanager", "ask", "works", "post", "told", "fails secretsmanager", "deliver", "works"),
        cold=(INITIATE, CALLBACK),
        rules=_outages,
        is_enumerated=False,
    ),
    Scenario("kopokopo-down", _steps("fails api", "ask", "works"), rules=_outages, is_enumerated=False),
    Scenario(
        "oauth-down",
        _steps("fails auth", "ask", "works"),
        cold=(INITIATE,),
        without_token=True,
        tokens=1,
        rules=_outages,
        is_enumerated=False,
    ),
    Scenario(
        "topic-down",
        _steps("fails sns", "post", "told", "works", "republish"),
        "EARLY",
        is_lossy=True,
        is_prompt=True,
        rules=_outages,
        is_enumerated=False,
    ),
    Scenario("claim-in-use", _steps(*TO_THE_END), rules=_reconcile_comes_in_between, is_enumerated=False),
]


# ------------------------------------------------------------------------------------------------------ what goes wrong


@dataclass(frozen=True)
class Mode:
    """What goes wrong at a point.

    Attributes:
        done: What is done to the call.
        tries: To how many tries of it.
        whose: Whose calls it is done to.
        is_done_once: What comes of it shows in the function itself. So a function that makes the very calls that it
            made in a scenario before is spared it, unless everything is asked for.
    """

    done: Action
    tries: int = 1
    whose: str = "aws, kopokopo"
    is_done_once: bool = False


FOR_GOOD = 99  # more often than anybody tries
MODES = {
    "kill-before": Mode(Action.KILL_BEFORE),
    "kill-after": Mode(Action.KILL_AFTER),
    "request-lost": Mode(Action.LOSE_REQUEST, whose="kopokopo"),
    "reply-lost": Mode(Action.LOSE_REPLY, is_done_once=True),
    "reply-lost-for-good": Mode(Action.LOSE_REPLY, FOR_GOOD, whose="aws"),
    "reply-late": Mode(Action.DELAY_REPLY, FOR_GOOD, is_done_once=True),
    "reply-cut-in-its-head": Mode(Action.CUT_HEAD, is_done_once=True),
    "reply-cut-at-its-end": Mode(Action.CUT_END, is_done_once=True),
    "throttled": Mode(Action.THROTTLE, is_done_once=True),
    "throttled-for-good": Mode(Action.THROTTLE, FOR_GOOD, whose="aws"),
}
SKEWS = (600.0, -600.0)  # seconds that a clock is off
SKEWED = ("ordinary", "no-token", "cancelled-twice", "lost", "stale")
TOKEN_PATH = ("#token-lease", "TokenSecret", "CredentialsSecret", "/oauth/token")


@dataclass(frozen=True, order=True)
class Point:
    """One call of a scenario: by whom, what, and which one of that name."""

    function: str
    name: str
    number: int

    @classmethod
    def of(cls, call: Call) -> Self:
        return cls(call.function, call.name, call.number)

    def __str__(self) -> str:
        return f"{self.function} {self.name} #{self.number}"

    @property
    def modes(self) -> list[str]:
        """What can go wrong here."""
        whose = "aws" if re.match(r"[a-z0-9]+\.", self.name) else "kopokopo"
        return [name for name, mode in MODES.items() if whose in mode.whose]

    @property
    def can_lose_a_token(self) -> bool:
        """Whether a token that was asked for may be lost here, so that another has to be."""
        return any(part in self.name for part in TOKEN_PATH)


@dataclass(frozen=True)
class Job:
    """A scenario, and what goes wrong in it: something at a point, or the clock of a function, or nothing."""

    scenario: Scenario
    at: int = 0
    point: Point | None = None
    mode: str = ""
    skewed: str = ""
    skew: float = 0.0

    def __str__(self) -> str:
        if self.skewed:
            return f"{self.scenario.name}, the clock of {self.skewed} off by {self.skew:+.0f} s"
        return f"{self.scenario.name}, {self.mode} at {self.point}" if self.point else self.scenario.name

    @property
    def replay(self) -> str:
        """The command that does the same again."""
        words = ["--scenario", self.scenario.name]
        words += ["--point", str(self.at), "--mode", self.mode] if self.point else []
        words += ["--clock", f"{self.skewed}{self.skew:+.0f}"] if self.skewed else []
        return f'make crash ARGS="{" ".join(words)}"'

    @property
    def tokens(self) -> int:
        """How many tokens may be asked for. By a clock that is wrong the lease of another may have ended."""
        return self.scenario.tokens + bool(self.skewed or (self.point and self.point.can_lose_a_token))


@dataclass(frozen=True)
class Outcome:
    """What a run showed: its calls, what did not hold, and whether what was to go wrong did."""

    points: list[Point]
    found: list[str]
    has_happened: bool


def run(world: World, job: Job) -> Outcome:
    """Play a scenario to its end, and judge it."""
    scenario, mode = job.scenario, MODES.get(job.mode)
    has_happened = mode is None

    def goes_wrong(call: Call) -> Action | None:
        nonlocal has_happened
        if mode is None or Point.of(call) != job.point or call.attempt > mode.tries:
            return None
        has_happened = True
        return mode.done

    world.prepare(scenario)
    play = Play(world, scenario)
    world.postbox.courier = play.hand_over if scenario.is_prompt else None
    if job.skewed:
        world.clock.skew(job.skewed, job.skew)
    world.tap.begin(goes_wrong, *scenario.rules(play))
    scenario.script(play)
    points = sorted({Point.of(call) for call in world.tap.calls})  # the same number each time
    if scenario.ends:
        play.settle()
    world.tap.rules = ()
    if job.skewed:
        world.clock.skew(job.skewed, 0)
    world.drain()
    if play.failures and scenario.is_enumerated and not job.point:
        play.found.append("a function failed as a whole, and nothing was wrong")
    play.judge(job.tokens)
    world.clear(play.reference)
    return Outcome(points, play.found, has_happened)


def jobs_of(played: Sequence[tuple[Scenario, Outcome]], *, everything: bool = False) -> Iterator[Job]:
    """All that can go wrong in these scenarios, one thing at a time."""
    seen: set[frozenset[Point]] = set()
    for scenario, outcome in played:
        for function in sorted({point.function for point in outcome.points if scenario.is_enumerated}):
            calls = frozenset(point for point in outcome.points if point.function == function)
            for at, point in enumerate(outcome.points, 1):
                if point in calls:
                    modes = [it for it in point.modes if everything or calls not in seen or not MODES[it].is_done_once]
                    yield from (Job(scenario, at, point, mode) for mode in modes)
            seen.add(calls)
        if scenario.name in SKEWED:
            for function in (INITIATE, CALLBACK, RECONCILE, RESOLVE, PUBLISH):
                yield from (Job(scenario, skewed=function, skew=skew) for skew in SKEWS)


# ------------------------------------------------------------------------------------------------------ the command


class Worlds:
    """So many worlds, and a thread for each."""

    def __init__(self, number: int) -> None:
        self._running = ExitStack()
        self._folder = Path(self._running.enter_context(tempfile.TemporaryDirectory()))
        self._pool = ThreadPoolExecutor(number)
        self._free: SimpleQueue[World] = SimpleQueue()
        self._all: list[World] = []
        self._one_by_one = Lock()
        self._numbers = count(1)
        for _ in range(number):
            self._free.put(self._new())

    def submit(self, job: Job) -> "Future[Outcome]":
        return self._pool.submit(self._run, job)

    def close(self) -> list[str]:
        """End all; returns what their logs held that they should not."""
        self._pool.shutdown(cancel_futures=True)
        for world in self._all:
            world.stop()
        leaks = [leak for world in self._all for leak in world.leaks()]
        self._running.close()
        return leaks

    def _new(self) -> World:
        with self._one_by_one:
            world = World(self._folder / str(next(self._numbers)))
            self._all.append(world)
            return world.__enter__()

    def _run(self, job: Job) -> Outcome:
        world = self._free.get()
        try:
            return run(world, job)
        except BaseException:
            world.stop()  # it may be in any state
            world = self._new()
            raise
        finally:
            self._free.put(world)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    chosen = [it for it in SCENARIOS if options.scenario in (None, it.name) and (it.is_enumerated or not options.list)]
    worlds = Worlds(options.workers)
    report = Report("crash", "runs")
    try:
        futures = [(Job(scenario), worlds.submit(Job(scenario))) for scenario in chosen]
        played = [(job.scenario, _outcome(future, job, report)) for job, future in futures]
        everything = options.all or bool(options.scenario)
        jobs = [job for job in jobs_of(played, everything=everything) if _is_asked_for(job, options)]
        if options.list:
            print("\n".join(f"{job.replay}  # {job}" for job in jobs))
            return 0
        report.total = report.tried + len(jobs)
        missed = _all_that_goes_wrong(worlds, report, jobs)
    finally:
        leaks = worlds.close()
    for leak in leaks:
        report.violation(leak)
    points = sum(len(outcome.points) for scenario, outcome in played if scenario.is_enumerated)
    return report.close({"scenarios": len(chosen), "points": points, "that did not come about": missed})


def _all_that_goes_wrong(worlds: Worlds, report: Report, jobs: Sequence[Job]) -> int:
    """Returns how many runs took a course in which the point did not come about."""
    futures = {worlds.submit(job): job for job in jobs}
    return sum(not _outcome(future, futures[future], report).has_happened for future in as_completed(futures))


def _outcome(future: "Future[Outcome]", job: Job, report: Report) -> Outcome:
    try:
        outcome = future.result()
    except Exception as error:  # noqa: BLE001 - a run that could not be judged is none that passed
        outcome = Outcome([], [f"it could not be played to its end: {type(error).__name__}: {error}"], True)
    for what in outcome.found:
        report.violation(f"{job}: {what}", job.replay)
    report.add()
    return outcome


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.crash", description="Kill functions at every call.")
    parser.add_argument("--scenario", choices=[scenario.name for scenario in SCENARIOS], help="this one alone")
    parser.add_argument("--point", type=int, help="this point alone, by its number")
    parser.add_argument("--mode", choices=list(MODES), help="what goes wrong at the points; otherwise everything")
    parser.add_argument("--clock", help="this clock alone: InitiateFunction+600")
    parser.add_argument("--all", action="store_true", help="spare no function what it went through in another scenario")
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"how many at once (default: {WORKERS})")
    parser.add_argument("--list", action="store_true", help="show what would be done")
    return parser.parse_args(arguments)


def _is_asked_for(job: Job, options: argparse.Namespace) -> bool:
    if options.clock:
        return bool(f"{job.skewed}{job.skew:+.0f}" == options.clock)
    if options.point or options.mode:
        return options.point in (None, job.at) and options.mode in (None, job.mode) and bool(job.point)
    return True


if __name__ == "__main__":
    sys.exit(main())
