"""One stack of template.yaml for all end-to-end tests, and a subscriber's queue on its topic."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from local.cloud import LaptopCloud
from local.subscriber import Subscriber
from local.waiting import until

# Seconds. What is minutes and hours on AWS must not be here.
PARAMETERS = {
    "KopoKopoTimeout": "1",
    "ReconcileSchedule": "rate(1 second)",
    "ReconcileFirstDelay": "1",
    "ReconcileLongestDelay": "2",
    "WebhookScope": "company",
}
PATIENCE = 20.0  # seconds


class System:
    """A running stack, as its merchant, its subscriber and Kopo Kopo see it."""

    def __init__(self, cloud: LaptopCloud) -> None:
        self.cloud = cloud
        self.api = cloud.outputs["ApiUrl"]
        self.subscriber = Subscriber(cloud)

    def post(self, reference: str, reason: str = "Paid twice", **headers: str) -> requests.Response:
        body = {"transaction_reference": reference, "reason": reason}
        return requests.post(f"{self.api}/reversals", json=body, headers=headers, timeout=30)

    def get(self, reference: str) -> dict[str, Any]:
        reversal: dict[str, Any] = requests.get(f"{self.api}/reversals/{reference}", timeout=30).json()
        return reversal

    def resolve(self, reference: str, status: str) -> requests.Response:
        body = {"status": status, "note": "Seen in the statement"}
        return requests.post(f"{self.api}/reversals/{reference}/resolution", json=body, timeout=30)

    def becomes(self, reference: str, status: str) -> dict[str, Any]:
        wait_for(lambda: self.get(reference).get("status") == status, lambda: f"{reference}: {self.get(reference)}")
        return self.get(reference)

    def events(self, reference: str) -> list[dict[str, Any]]:
        """Every event about a reversal that came so far, in order of their sequence."""
        return sorted(self.subscriber.about(reference), key=lambda event: event["sequence"])

    def told(self, reference: str, last: str) -> list[str]:
        """The types of a reversal's events in their order, once the last is there."""

        def types() -> list[str]:
            return [event["type"] for event in self.events(reference)]

        wait_for(lambda: types()[-1:] == [last], lambda: f"{reference}: {types()}")
        return types()

    def journal(self) -> list[dict[str, Any]]:
        """Every request that Kopo Kopo received."""
        url = self.cloud.outputs["SimulatorUrl"] + "/_journal"
        entries: list[dict[str, Any]] = requests.get(url, timeout=30).json()
        return entries

    def posts(self, reference: str) -> list[dict[str, Any]]:
        """What Kopo Kopo's journal has of the POSTs for a transaction."""
        return [e for e in self.journal() if (e["method"], e["transaction_reference"]) == ("POST", reference)]

    def accepted(self, reference: str) -> int:
        return sum(entry["accepted"] for entry in self.posts(reference))

    def item(self, reference: str) -> dict[str, Any]:
        """The item in the table, as DynamoDB has it."""
        item: dict[str, Any] = self.cloud.client("dynamodb").get_item(
            TableName=self.cloud.outputs["TableName"], Key={"transaction_reference": {"S": reference}}
        )["Item"]
        return item


def wait_for(holds: Callable[[], bool], seen: Callable[[], str]) -> None:
    assert until(holds, PATIENCE), seen()


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with LaptopCloud(parameters=PARAMETERS, state_dir=tmp_path_factory.mktemp("local")) as cloud:
        yield System(cloud)
