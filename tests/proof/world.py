"""A world in which nothing happens by itself: its time, its chance and its order come from one seed.

The functions are the real ones, with the wiring that they have on AWS; what lies beyond the wire is replaced. Each call
over the wire is two steps, leaving and coming back, and between any two steps anything else may happen: other
functions run, time passes, the process dies. A task is a greenlet, so a step costs a microsecond and no thread.
"""

import importlib.util
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn, cast

from botocore.exceptions import ReadTimeoutError
from greenlet import GreenletExit, getcurrent, greenlet
from reversals import observability
from reversals.errors import NotSentError, OutcomeUnknownError
from reversals.kopokopo import KopoKopo
from reversals.settings import Settings
from reversals.transport import Answer

from local.lambdas import FunctionError, ImpatientError
from local.settings import ACCOUNT_ID, REGION, ROOT
from local.simulator import Reply, Request, Reversal, Simulator
from local.template import Document, Stack, load, parameter_values, translate
from tests.proof.aws import Bucket, Index, Queue, Secrets, Stream, Table, Topic, refuse

API_URL = "https://api.kopokopo.example"
AUTH_URL = "https://auth.kopokopo.example"
CALLBACK_BASE_URL = "https://merchant.example"
EPOCH = 1_780_000_000.0
NEVER = float("inf")
MOST_STEPS = 200_000

# What can befall a call. `late`: the caller has given up when it arrives.
CRASHES = ("crash before", "crash after")
AWS_TROUBLES = (*CRASHES, "request lost", "reply lost", "twice", "late", "throttled")
KOPOKOPO_TROUBLES = (*CRASHES, "not sent", "request lost", "reply lost", "late", "odd answer")
BOTOCORE_GIVES_UP = 4.0  # seconds: two tries
THROTTLED = {
    "dynamodb": "ProvisionedThroughputExceededException",
    "secretsmanager": "ThrottlingException",
    "sns": "Throttled",
    "sqs": "RequestThrottled",
    "s3": "SlowDown",
}
TOO_MANY = Answer(429, {"retry-after": "1"}, b"")
ODD_ANSWERS = [
    TOO_MANY,
    Answer(500, {}, b"<html>"),
    Answer(503, {}, None),
    Answer(408, {}, b""),
    Answer(404, {}, None),
    Answer(200, {}, b"{"),
]


@dataclass(eq=False)
class Task:
    """Something that goes on: a merchant, a delivery, an invocation.

    Attributes:
        wakes_at: When it goes on by itself.
        wants: What lets it go on earlier.
        deadline: When Lambda ends it.
        dead: Whatever it does is without effect.
    """

    name: str
    greenlet: greenlet
    wakes_at: float = 0.0
    wants: Callable[[], bool] | None = None
    deadline: float = NEVER
    dead: bool = False
    ended: bool = False


@dataclass
class Weather:
    """How likely things are in one schedule.

    Attributes:
        trouble: That a call meets trouble.
        kinds: The troubles that there are.
        stall: That a step takes long.
        lag: That a reader of a secret, or of an index, sees what was there before.
        refusal: That the topic does not take an event of a batch that it takes.
        refusal_for_good: That it never takes an event, because of what is in it.
        skew: Seconds that a container's clock may be wrong by, either way.
        outages: Of a service: from when to when nothing gets through.
    """

    trouble: float = 0.0
    kinds: frozenset[str] = frozenset()
    stall: float = 0.0
    lag: float = 0.0
    refusal: float = 0.0
    refusal_for_good: float = 0.0
    skew: float = 0.0
    outages: dict[str, tuple[float, float]] = field(default_factory=dict)

    def is_out(self, service: str, now: float) -> bool:
        begin, end = self.outages.get(service, (NEVER, NEVER))
        return begin <= now < end


CALM = Weather()


class World:
    """One schedule.

    Attributes:
        now: Epoch seconds; it moves when nobody has anything to do before.
        weather: How likely troubles are; it may change.
        trace: What happened, in order, if it is kept.
        wrongs: What nobody may ever see: a violation each.
        on_accepted: Told of every reversal that Kopo Kopo accepts.
        posts: What an invocation sent to Kopo Kopo's API, as lines of its journal, once it arrived.
        troubles: How many calls met trouble.
        deaths: How many invocations were killed.
        token_troubles: How many of them could cost a token more, deaths included.
    """

    def __init__(self, seed: int, weather: Weather, simulator: Callable[["World"], Simulator]) -> None:
        self.random = Random(seed)
        self.now = EPOCH
        self.weather = weather
        self.trace: list[str] | None = None
        self.wrongs: list[str] = []
        self.troubles = self.token_troubles = self.deaths = 0
        self.posts: dict[Task, list[Document]] = {}
        self.on_accepted: Callable[[Reversal], None] = lambda _: None
        self._tasks: list[Task] = []
        self._hub = getcurrent()
        self._running: Task | None = None
        self.kopokopo = simulator(self)
        self.table = Table("transaction_reference", system().indexes, lambda: self.now, self._lags)
        self.stream = Stream(self.table)
        self.secrets = Secrets(lambda: self.now, self._lags)
        self.topic, self.queue, self.bucket = Topic(self._refusal), Queue(lambda: self.now), Bucket()
        self._hopeless: dict[str, bool] = {}  # whether the topic will never take an event, by its id
        self.clients: Mapping[str, Any] = {
            "dynamodb": self.table,
            "secretsmanager": self.secrets,
            "sns": self.topic,
            "sqs": self.queue,
            "s3": self.bucket,
        }
        self.functions = {name: Function(self, name) for name in system().functions}

    # Tasks

    def spawn(self, name: str, run: Callable[[], Any], after: float = 0.0, deadline: float = NEVER) -> Task:
        """Begin something, some seconds from now."""
        task = Task(name, greenlet(run, self._hub), self.now + after, deadline=deadline)
        self._tasks.append(task)
        return task

    def run(self) -> None:
        """Go on until nothing more can happen: whoever is left waits for what nobody will do."""
        for _ in range(MOST_STEPS):
            ready = [task for task in self._tasks if task.wakes_at <= self.now or (task.wants and task.wants())]
            if ready:
                self._go_on(ready[0] if len(ready) == 1 else self.random.choice(ready))
                continue
            next_at = min((task.wakes_at for task in self._tasks), default=NEVER)
            if next_at == NEVER:
                return
            self.now = next_at
        self.wrongs.append(f"it does not come to rest: {[task.name for task in self._tasks]}")
        self._tasks.clear()

    def _go_on(self, task: Task) -> None:
        self._running = task
        task.wakes_at, task.wants = self.now, None
        if self.now >= task.deadline and not task.dead:
            self.say(task.name, "runs out of time")
            self._kill(task)
        if task.dead:
            task.greenlet.throw(GreenletExit)
        else:
            task.greenlet.switch()
        if task.greenlet.dead:
            task.ended = True
            self._tasks.remove(task)

    def sleep(self, seconds: float) -> None:
        """Let the running task wait; anything else may happen meanwhile."""
        self.wait_until(None, self.now + seconds)

    def wait_until(self, holds: Callable[[], bool] | None, until: float = NEVER) -> None:
        """Let the running task wait for something, or for a time, whichever is first."""
        task = self._task()
        if task.dead:
            raise GreenletExit
        task.wakes_at, task.wants = until, holds
        self._hub.switch()

    def step(self, *, about_token: bool = False) -> None:
        """Where the others may come in between."""
        stalls = self.weather.stall > 0 and self.random.random() < self.weather.stall
        self.token_troubles += stalls and about_token
        self.sleep(self.random.choice((1.0, 6.0, 20.0, 40.0)) if stalls else self.random.random() * 0.01)

    def abandon(self) -> None:
        """End whatever still waits."""
        for task in list(self._tasks):
            task.dead = True
            self._go_on(task)

    def die(self) -> NoReturn:
        """The running process is killed here."""
        self._kill(self._task())
        raise GreenletExit

    def _kill(self, task: Task) -> None:
        task.dead = True
        self.deaths += 1
        self.token_troubles += 1

    def _task(self) -> Task:
        if self._running is None:
            raise RuntimeError("nothing runs")
        return self._running

    def _lags(self) -> bool:
        return self.random.random() < self.weather.lag

    def _refusal(self, event_id: str) -> str | None:
        if event_id not in self._hopeless:
            self._hopeless[event_id] = self.random.random() < self.weather.refusal_for_good
        if self._hopeless[event_id]:
            return "InvalidParameter"
        return "InternalError" if self.random.random() < self.weather.refusal else None

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now - EPOCH:10.3f}  {who:24} {what}")

    # The wire

    def call(self, what: str, effect: Callable[[], Any], *, about_token: bool = False) -> Any:
        """A call to AWS, with whatever befalls it."""
        task = self._task()
        holds_up = about_token and "get_secret_value" not in what
        self.step(about_token=holds_up)
        service = what.partition(".")[0]
        trouble = self._trouble(AWS_TROUBLES, about_token=about_token)
        if self.weather.is_out(service, self.now):
            trouble = "throttled"
        self.say(task.name, f"{what}{f' ({trouble})' if trouble else ''}")
        match trouble:
            case "crash before":
                self.die()
            case "crash after":
                _outcome(effect)
                self.die()
            case "request lost" | "reply lost" | "late":
                if trouble == "reply lost":
                    _outcome(effect)
                if trouble == "late":
                    self.spawn(f"{task.name} (late)", lambda: _outcome(effect), after=self.random.random() * 30)
                self.sleep(BOTOCORE_GIVES_UP)
                raise ReadTimeoutError(endpoint_url="https://aws.example")
            case "throttled":
                self.sleep(0.1)
                refuse(THROTTLED[service], what)
            case "twice":
                _outcome(effect)
                self.sleep(BOTOCORE_GIVES_UP / 2)
        value, error = _outcome(effect)
        self.step(about_token=holds_up)
        if error:
            raise error
        return value

    def call_kopokopo(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """A call to Kopo Kopo, with whatever befalls it."""
        task = self._task()
        self._judge_credentials(url, headers)
        path = "/" + url.split("/", 3)[3]
        about_token = path.startswith("/oauth")
        self.step(about_token=about_token)
        trouble = self._trouble(KOPOKOPO_TROUBLES, about_token=about_token)

        def arrive() -> Reply:
            message = Message()
            for name, value in {**headers, "Host": url.split("/")[2]}.items():
                message[name] = value
            request = Request(method, path, message, body or b"", None)
            reply = self.kopokopo.answer(request)
            request.line["status"] = reply.status
            if method == "POST" and path.startswith("/api"):
                self.posts.setdefault(task, []).append(request.line)
            if request.line["accepted"]:
                self.on_accepted(self.kopokopo.reversal(request.line["id"]))
            return reply

        shown = re.sub("/[0-9a-f-]{36}$", "/{id}", path)
        self.say(task.name, f"{method} {shown}{f' ({trouble})' if trouble else ''}")
        match trouble:
            case "crash before":
                self.die()
            case "crash after":
                arrive()
                self.die()
            case "not sent":
                raise NotSentError("Kopo Kopo could not be reached.")
            case "request lost" | "reply lost" | "late":
                if trouble == "reply lost":
                    arrive()
                if trouble == "late":
                    self.spawn(f"{task.name} (late)", arrive, after=12 + self.random.random() * 20)
                self.sleep(self.random.choice((0.1, 10.0)))
                raise OutcomeUnknownError("Kopo Kopo did not answer in time.")
            case "odd answer":
                answer = self.random.choice(ODD_ANSWERS)
                if answer is not TOO_MANY and self.random.random() < 0.5:
                    arrive()  # and yet
                return answer
        reply = arrive()
        self.step(about_token=about_token)
        if reply.status is None:
            self.sleep(0.1 if reply.reset else 10.0)
            raise OutcomeUnknownError("Kopo Kopo did not answer in time.")
        location = {"location": reply.location} if reply.location else {}
        return Answer(reply.status, location, reply.body)

    def _trouble(self, kinds: tuple[str, ...], *, about_token: bool) -> str | None:
        if self.random.random() >= self.weather.trouble:
            return None
        kind = self.random.choice(kinds)
        if kind not in self.weather.kinds:
            return None
        self.troubles += 1
        self.token_troubles += about_token
        return kind

    def _judge_credentials(self, url: str, headers: Mapping[str, str]) -> None:
        origin = "/".join(url.split("/")[:3])
        if origin != (AUTH_URL if "/oauth/" in url else API_URL):
            self.wrongs.append(f"E: something was sent to {origin}")


def _outcome(effect: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return effect(), None
    except Exception as error:  # noqa: BLE001 - it belongs to the caller, who may never hear of it
        return None, error


# ------------------------------------------------------------------------------------------------------ functions


class _Client:
    """A boto3 client: every operation is a call over the wire."""

    def __init__(self, world: World, service: str) -> None:
        self._world, self._service = world, service

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        backend = getattr(self._world.clients[self._service], operation)

        def call(**arguments: Any) -> Any:
            is_lease = "#token-lease" in str(arguments.get("Key", ""))
            return self._world.call(
                f"{self._service}.{operation}{' (lease)' if is_lease else ''}",
                lambda: backend(**arguments),
                about_token=is_lease or self._service == "secretsmanager",
            )

        return call


class _Transport:
    """The transport to Kopo Kopo."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None, timeout: float
    ) -> Answer:
        return self._world.call_kopokopo(method, url, headers, body)


@dataclass
class _Clock:
    world: World
    skew: float = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.world.now + self.skew, UTC)

    def sleep(self, seconds: float) -> None:
        self.world.sleep(seconds)


@dataclass
class Context:
    """Lambda's context of one invocation."""

    world: World
    deadline: float
    function_name: str
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:simulated"
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.deadline - self.world.now) * 1000))


class Container:
    """One process of a function: modules of its own, which keep what they made while it is warm."""

    def __init__(self, function: str, handler: str) -> None:
        self._assembly = _copy("reversals.assembly", _find("reversals.assembly"))
        self._app = _copy(f"functions.{function}.app", ROOT / "functions" / function / "app.py")
        vars(self._app)["assembly"] = self._assembly
        self._caches = [it for it in vars(self._assembly).values() if hasattr(it, "cache_clear")]
        self.handler: Callable[[Any, Any], Any] = getattr(self._app, handler)

    def start(self, world: World, environment: Mapping[str, str]) -> None:
        """Cold: nothing is left of whoever had it before."""
        for each in self._caches:
            each.cache_clear()
        skew = world.weather.skew
        settings = Settings(environment)
        vars(self._assembly).update(
            _clock=_Clock(world, world.random.choice((-skew, 0.0, skew))),
            _client=lambda service: _Client(world, service),
            settings=lambda: settings,
            _kopokopo=lambda: KopoKopo(
                API_URL, AUTH_URL, settings.seconds("KOPOKOPO_TIMEOUT"), cast(Any, _Transport(world))
            ),
        )


class Function:
    """A Lambda function of the template, as event sources invoke it."""

    def __init__(self, world: World, name: str) -> None:
        self.arn = f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{name}"
        self._world, self._name = world, name
        self._properties = system().functions[name]
        self._timeout = float(self._properties["Timeout"])
        self._warm: list[Container] = []

    def invoke(self, event: Any, *, patience: float = NEVER, begun: Callable[[Task], None] = lambda _: None) -> Any:
        """Run the handler in a process of its own and wait for it.

        Args:
            event: For the handler.
            patience: Seconds that the caller waits.
            begun: Told of the task.

        Raises:
            FunctionError: it failed, died or ran out of time.
            ImpatientError: the caller's patience ended first.
        """
        world, outcome = self._world, list[Any]()
        container = self._warm.pop(world.random.randrange(len(self._warm))) if self._warm else self._cold()
        deadline = world.now + self._timeout

        def run() -> None:
            context = Context(world, deadline, self._name)
            try:
                outcome.append((container.handler(event, context), None))
            except Exception as error:  # noqa: BLE001 - as Lambda's runtime does
                outcome.append((None, error))
            finally:
                (_POOL[self._name] if task.dead else self._warm).append(container)

        task = world.spawn(self._name, run, deadline=deadline)
        begun(task)
        world.wait_until(lambda: task.ended, world.now + patience)
        if not task.ended:
            raise ImpatientError(self._name)
        if not outcome or task.dead:
            raise FunctionError("Runtime.ExitError", f"{self._name} died")
        result, error = outcome[0]
        if error is not None:
            world.say(self._name, f"failed: {error!r}")
            raise FunctionError(type(error).__name__, str(error))
        return result

    def log(self, line: str) -> None:
        self._world.say(self._name, line)

    def let_go(self) -> None:
        """Give the containers back for the next schedule."""
        _POOL[self._name] += self._warm
        self._warm = []

    def _cold(self) -> Container:
        pool = _POOL[self._name]
        handler = self._properties["Handler"].partition(".")[2]
        folder = Path(self._properties["Code"]["S3Key"]).name
        container = pool.pop() if pool else Container(folder, handler)
        container.start(self._world, self._properties["Environment"]["Variables"])
        return container


_POOL: defaultdict[str, list[Container]] = defaultdict(list)


def _find(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    return Path(str(spec and spec.origin))


def _copy(name: str, path: Path) -> ModuleType:
    """A module once more, with variables of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------ the template


class System:
    """What template.yaml says: functions, indexes, event sources."""

    def __init__(self) -> None:
        path = ROOT / "template.yaml"
        document = load(path)
        parameters = parameter_values(
            document,
            {"KopoKopoApiUrl": API_URL, "KopoKopoAuthUrl": AUTH_URL, "CallbackBaseUrl": CALLBACK_BASE_URL},
            {},
        )
        stack = Stack(translate(document, path, parameters), parameters, self._attributes)
        self.functions = dict(stack.of_type("AWS::Lambda::Function"))
        ((_, table),) = stack.of_type("AWS::DynamoDB::Table")
        self.indexes = {
            index["IndexName"]: Index(
                index["KeySchema"][0]["AttributeName"],
                index["KeySchema"][1]["AttributeName"],
                frozenset(index["Projection"]["NonKeyAttributes"]),
            )
            for index in table["GlobalSecondaryIndexes"]
        }
        self.mappings = dict(stack.of_type("AWS::Lambda::EventSourceMapping"))
        self.bucket: str = stack.attributes("UnpublishedBucket")["Ref"]
        self.ref = lambda name: stack.attributes(name)["Ref"]

    @staticmethod
    def _attributes(name: str, kind: str, properties: Document) -> Mapping[str, Any]:
        service = kind.split("::")[1].lower()
        arn = f"arn:aws:{service}:{REGION}:{ACCOUNT_ID}:{name}"
        return SimpleAttributes({"Ref": name, "Arn": arn, "StreamArn": f"{arn}/stream/1", "QueueName": name}, name)


class SimpleAttributes(dict[str, Any]):
    """What nothing depends on is the resource's name."""

    def __init__(self, known: Mapping[str, Any], name: str) -> None:
        super().__init__(known)
        self._name = name

    def __missing__(self, attribute: str) -> str:
        return self._name


_SYSTEM: list[System] = []


def system() -> System:
    """Of this checkout, read once."""
    if not _SYSTEM:
        _SYSTEM.append(System())
    return _SYSTEM[0]


@contextmanager
def silence() -> Iterator[None]:
    """Without logs and metrics, which would take most of the time; what they say is looked at elsewhere."""
    metric = vars(observability)["single_metric"]
    logging.disable(logging.CRITICAL)
    nothing = SimpleNamespace(add_dimension=lambda **_: None)

    @contextmanager
    def no_metric(**_: Any) -> Iterator[SimpleNamespace]:
        yield nothing

    vars(observability)["single_metric"] = no_metric
    try:
        yield
    finally:
        vars(observability)["single_metric"] = metric
        logging.disable(logging.NOTSET)
