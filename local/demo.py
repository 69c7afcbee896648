"""The main job and its hard cases, played on this machine: `make demo`.

Every step says what it does and what it saw, and what it saw is checked: one that does not hold ends the demo with
exit status 1.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests

from local.cloud import LaptopCloud
from local.settings import LaptopCloudError
from local.subscriber import Subscriber
from local.waiting import until

# Seconds. On AWS it is a minute between two runs of reconcile, and minutes to hours between two questions.
_PARAMETERS = {
    "KopoKopoTimeout": "1.5",
    "ReconcileSchedule": "rate(1 second)",
    "ReconcileFirstDelay": "1",
    "ReconcileLongestDelay": "2",
}
_PATIENCE = 20.0  # seconds

_BOLD, _GREEN, _RED, _DIM, _PLAIN = (
    ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m")
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ
    else ("",) * 5
)


class NotSeenError(Exception):
    """A step did not hold."""


class Demo:
    """A merchant, a subscriber and an onlooker of one running stack."""

    def __init__(self, cloud: LaptopCloud) -> None:
        self._api = cloud.outputs["ApiUrl"]
        self._simulator = cloud.outputs["SimulatorUrl"]
        self._subscriber = Subscriber(cloud)
        self._steps = 0

    # ------------------------------------------------------------------------------------------- what it can do

    def post(self, reference: str, reason: str = "Paid twice") -> requests.Response:
        body = {"transaction_reference": reference, "reason": reason, "metadata": {"ticket": "#1283833"}}
        said(f"POST /reversals {json.dumps(body)}")
        response = requests.post(self._api + "/reversals", json=body, timeout=30)
        saw(f"{response.status_code} {shown(response.json())}")
        return response

    def get(self, reference: str) -> dict[str, Any]:
        reversal: dict[str, Any] = requests.get(f"{self._api}/reversals/{reference}", timeout=30).json()
        return reversal

    def becomes(self, reference: str, status: str) -> dict[str, Any]:
        """Wait for a status, and for the event that tells of it."""

        def stands() -> bool:
            return self.get(reference).get("status") == status

        wait_for(stands, f"{reference} to become {status}", lambda: f"it is {self.get(reference).get('status')}")
        reversal = self.get(reference)
        said(f"GET /reversals/{reference}")
        saw(shown(reversal))
        for entry in reversal["history"]:
            saw(f"  {entry['at']}  {entry['status']:9} told by {entry['source']}")
        wait_for(lambda: status in self.told(reference), f"an event reversal.{status}", lambda: "none came")
        event = next(e for e in self._subscriber.about(reference) if e["data"]["status"] == status)
        saw(f"the queue received {event['type']}, id {event['id']}")
        return reversal

    def told(self, reference: str) -> list[str]:
        """The statuses in the events about a reversal that the queue has received so far."""
        return [event["data"]["status"] for event in self._subscriber.about(reference)]

    def accepted(self, reference: str) -> int:
        """How many POSTs for the transaction Kopo Kopo accepted, by its own journal."""
        journal = requests.get(self._simulator + "/_journal", timeout=30).json()
        posts = [e for e in journal if e["method"] == "POST" and e["transaction_reference"] == reference]
        count: int = sum(e["accepted"] for e in posts)
        saw(f"Kopo Kopo's journal: {len(posts)} POST for {reference}, {count} accepted")
        return count

    def deliveries(self, reference: str) -> list[dict[str, Any]]:
        sent = requests.get(self._simulator + "/_deliveries", timeout=30).json()
        return [delivery for delivery in sent if delivery["transaction_reference"] == reference]

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._steps += 1
        print(f"\n{_BOLD}{self._steps}. {title}{_PLAIN}", flush=True)
        yield
        print(f"   {_GREEN}ok{_PLAIN}", flush=True)

    # ------------------------------------------------------------------------------------------------ the story

    def play(self) -> int:
        """Play all steps; returns how many held."""
        with self.step("A payment goes back"):
            response = self.post("TQ2L262026")
            expect(response.status_code == 201, "201, accepted by Kopo Kopo", response.status_code)
            reversal = self.becomes("TQ2L262026", "reversed")
            expect(bool(reversal["reversal_reference"]), "a reversal reference", reversal["reversal_reference"])

        with self.step("Kopo Kopo says `Processed`, and yet it cancelled: that is failed, not reversed"):
            self.post("CANCEL0001")
            reversal = self.becomes("CANCEL0001", "failed")
            expect(reversal["failure"]["code"] == "cancelled", "the failure `cancelled`", reversal["failure"])

        with self.step("The same request again sends nothing; another reason for the same payment is refused"):
            again = self.post("TQ2L262026")
            expect(again.status_code == 200, "200, the same request again", again.status_code)
            other = self.post("TQ2L262026", reason="Wrong amount")
            expect(other.status_code == 409, "409, it has been reversed already", other.status_code)
            expect(self.accepted("TQ2L262026") == 1, "one accepted POST", "another number")

        with self.step("A forged result changes nothing"):
            before = self.get("CANCEL0001")
            forged = requests.post(
                self._api + "/kopokopo/results/CANCEL0001/1",
                data=b'{"data":{"id":"x","type":"reversal","attributes":{"reversal_bulk_payment":{"status":"Transferred"}}}}',
                headers={"Content-Type": "application/json", "X-KopoKopo-Signature": "0" * 64},
                timeout=30,
            )
            said("POST /kopokopo/results/CANCEL0001/1 with a made-up signature")
            saw(f"{forged.status_code} {shown(forged.json())}")
            expect(forged.status_code == 401, "401", forged.status_code)
            expect(self.get("CANCEL0001") == before, "the same reversal as before", self.get("CANCEL0001"))

        with self.step("A result that arrives three times is told once"):
            self.post("THRICE0001")
            self.becomes("THRICE0001", "reversed")
            results = self._delivered("THRICE0001", 3)
            saw(f"Kopo Kopo delivered {len(results)} results, each answered {results[0]['status']}")
            expect(all(result["status"] == 200 for result in results), "200 to each", results)
            # Whatever is told later, of another reversal, is behind anything that this one could still have caused.
            self.post("AFTER0001")
            self.becomes("AFTER0001", "reversed")
            times = self.told("THRICE0001").count("reversed")
            saw(f"the queue received reversal.reversed {times} time")
            expect(times == 1, "one event", times)

        with self.step("The result never arrives: reconcile asks for it"):
            self.post("LOST0001")
            reversal = self.becomes("LOST0001", "reversed")
            expect(reversal["history"][-1]["source"] == "poll", "told by poll", reversal["history"])

        with self.step("The POST is never answered: nobody knows, nothing is sent again, the result heals it"):
            response = self.post("SILENT0001")
            expect(response.status_code in (201, 202), "202 unknown, or 201 if the result was faster", response.text)
            self.becomes("SILENT0001", "reversed")
            expect(self.accepted("SILENT0001") == 1, "one accepted POST", "another number")

        with self.step("Neither an answer nor a result: it stays unknown until an operator looks"):
            response = self.post("MUTE0001")
            expect(response.status_code == 202, "202, unknown", response.status_code)
            again = self.post("MUTE0001")
            expect(again.status_code == 202, "202 again, and nothing sent", again.status_code)
            expect(self.accepted("MUTE0001") == 1, "one accepted POST", "another number")
            resolution = {"status": "reversed", "note": "Seen in the M-PESA statement"}
            said(f"POST /reversals/MUTE0001/resolution {json.dumps(resolution)}")
            resolved = requests.post(self._api + "/reversals/MUTE0001/resolution", json=resolution, timeout=30)
            saw(f"{resolved.status_code} {shown(resolved.json())}")
            expect(resolved.status_code == 200, "200", resolved.status_code)
            self.becomes("MUTE0001", "reversed")

        with self.step("Only the webhook tells"):
            self.post("WEBHOOK0001")
            reversal = self.becomes("WEBHOOK0001", "reversed")
            sources = [entry["source"] for entry in reversal["history"]]
            expect("webhook" in sources, "told by webhook", sources)

        return self._steps

    def _delivered(self, reference: str, number: int) -> list[dict[str, Any]]:
        def results() -> list[dict[str, Any]]:
            return [d for d in self.deliveries(reference) if d["kind"] == "result" and d["status"]]

        wait_for(lambda: len(results()) >= number, f"{number} results", lambda: f"{len(results())} were delivered")
        return results()


# ------------------------------------------------------------------------------------------------------ telling


def said(text: str) -> None:
    print(f"   {text}", flush=True)


def saw(text: str) -> None:
    print(f"   {_DIM}{text}{_PLAIN}", flush=True)


def shown(document: dict[str, Any]) -> str:
    """The members that matter here."""
    names = ("status", "amount", "currency", "reversal_reference", "failure", "detail")
    return json.dumps({name: document[name] for name in names if document.get(name) is not None})


def expect(holds: bool, what: str, seen: object) -> None:
    if not holds:
        raise NotSeenError(f"expected {what}, and saw {seen}")


def wait_for(holds: Callable[[], bool], what: str, seen: Callable[[], str]) -> None:
    if not until(holds, _PATIENCE):
        raise NotSeenError(f"expected {what} within {_PATIENCE:.0f} s, and {seen()}")


def main() -> int:
    print("Starting the stack of template.yaml on this machine, and a simulator of Kopo Kopo ...", flush=True)
    try:
        with LaptopCloud(parameters=_PARAMETERS) as cloud:
            print(f"ready {cloud.outputs['ApiUrl']}", flush=True)
            steps = Demo(cloud).play()
    except (NotSeenError, requests.RequestException) as error:
        print(f"\n{_RED}The demo stopped: {error}.{_PLAIN}", file=sys.stderr)
        print("The functions' logs are in .local/logs/.", file=sys.stderr)
        return 1
    except LaptopCloudError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{_GREEN}All {steps} steps held.{_PLAIN} `make start` keeps it running for you to try.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
