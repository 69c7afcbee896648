"""The one module that talks to S3: what can never be published is kept there, whole."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from .errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Archive:
    """A bucket of stream records.

    Args:
        client: Gives a boto3 S3 client; asked for it only when there is something to keep.
        bucket: Its name.
    """

    def __init__(self, client: "Callable[[], S3Client]", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def keep(self, record: Mapping[str, Any]) -> None:
        """Keep a record under its sequence number: twice is once.

        Raises:
            StorageError: it could not be kept.
        """
        key = f"unpublished/{record['dynamodb']['SequenceNumber']}.json"
        try:
            self._client().put_object(
                Bucket=self._bucket,
                Key=key,
                Body=json.dumps(record, default=str).encode(),
                ContentType="application/json",
            )
        except (ClientError, BotoCoreError) as error:
            raise StorageError(f"S3 did not take a record ({type(error).__name__}).") from error
