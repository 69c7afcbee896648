"""S3: what can never be published is kept there, whole."""

import json
from decimal import Decimal
from typing import Any

import pytest
from reversals.archive import Archive
from reversals.errors import StorageError

from tests.conftest import Cloud, Meddled, refused, unreachable

RECORD = {
    "eventID": "1",
    "eventName": "MODIFY",
    "dynamodb": {"SequenceNumber": "700", "NewImage": {"a": {"S": "\u00e9"}}},
}


@pytest.fixture
def client(cloud: Cloud) -> Meddled:
    return Meddled(cloud.s3)


@pytest.fixture
def archive(cloud: Cloud, client: Meddled) -> Archive:
    return Archive(lambda: client, cloud.ref("UnpublishedBucket"))  # type: ignore[arg-type,return-value]


def test_a_record_is_kept_whole_and_twice_is_once(archive: Archive, cloud: Cloud) -> None:
    archive.keep(RECORD)
    archive.keep(RECORD)
    bucket = cloud.ref("UnpublishedBucket")
    (kept,) = cloud.s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert kept["Key"] == "unpublished/700.json"
    assert json.loads(cloud.s3.get_object(Bucket=bucket, Key=kept["Key"])["Body"].read()) == RECORD


def test_what_json_does_not_know_is_kept_as_text(archive: Archive, cloud: Cloud) -> None:
    archive.keep({"dynamodb": {"SequenceNumber": "1", "ApproximateCreationDateTime": Decimal("1.5")}})
    kept = cloud.s3.get_object(Bucket=cloud.ref("UnpublishedBucket"), Key="unpublished/1.json")["Body"].read()
    assert json.loads(kept)["dynamodb"]["ApproximateCreationDateTime"] == "1.5"


@pytest.mark.parametrize("trouble", [unreachable, refused("AccessDenied")])
def test_what_cannot_be_kept_is_an_error(archive: Archive, client: Meddled, trouble: Any) -> None:
    client.meddle("put_object", trouble)
    with pytest.raises(StorageError):
        archive.keep(RECORD)


def test_without_anything_to_keep_there_is_no_client() -> None:
    def never() -> Any:
        raise AssertionError("made for nothing")

    Archive(never, "bucket")
