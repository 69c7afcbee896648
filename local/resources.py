"""What a laptop makes of each resource type: tables, secrets, topics, queues and buckets, by plain boto3 calls.

What exists already is used as it is, so that an AWS_ENDPOINT_URL may lead to one that outlives this process.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from local.aws import Aws
from local.settings import ACCOUNT_ID, REGION, STACK_NAME
from local.template import Attributes, Document, TemplateError

# Nothing on a laptop: permissions, operations, and how a deployment proceeds.
MEANINGLESS = frozenset(
    {
        "AWS::ApiGatewayV2::ApiMapping",
        "AWS::ApiGatewayV2::DomainName",
        "AWS::ApiGatewayV2::Stage",
        "AWS::ApplicationAutoScaling::ScalableTarget",
        "AWS::ApplicationAutoScaling::ScalingPolicy",
        "AWS::CloudWatch::Alarm",
        "AWS::CloudWatch::CompositeAlarm",
        "AWS::CloudWatch::Dashboard",
        "AWS::CodeDeploy::Application",
        "AWS::CodeDeploy::DeploymentGroup",
        "AWS::IAM::ManagedPolicy",
        "AWS::IAM::Policy",
        "AWS::IAM::Role",
        "AWS::KMS::Alias",
        "AWS::KMS::Key",
        "AWS::Lambda::EventInvokeConfig",
        "AWS::Lambda::Permission",
        "AWS::Lambda::Version",
        "AWS::Logs::LogGroup",
        "AWS::Logs::MetricFilter",
        "AWS::Logs::QueryDefinition",
        "AWS::S3::BucketPolicy",
        "AWS::SNS::TopicPolicy",
        "AWS::SQS::QueuePolicy",
        "AWS::SecretsManager::ResourcePolicy",
    }
)


class Resources:
    """Creates the resources of a template in one AWS.

    Args:
        secrets: By logical id, what a secret holds if it has no value yet.
    """

    def __init__(self, aws: Aws, secrets: Mapping[str, Document]) -> None:
        self._aws = aws
        self._secrets = secrets

    def create(self, logical_id: str, kind: str, properties: Document) -> Attributes:
        """Make one resource, or find it.

        Raises:
            TemplateError: nothing is known of this type.
        """
        if (create := self._CREATORS.get(kind)) is None:
            raise TemplateError(
                f"{logical_id}: {kind} is unknown to the laptop cloud. Teach local/resources.py to create it, or list "
                "it there as meaningless on a laptop."
            )
        return create(self, logical_id, properties)

    def _table(self, logical_id: str, properties: Document) -> Attributes:
        client = self._aws.client("dynamodb")
        name = _name(logical_id, properties, "TableName")
        definition = _only(properties, "AttributeDefinitions", "KeySchema", "BillingMode", "ProvisionedThroughput")
        for indexes in ("GlobalSecondaryIndexes", "LocalSecondaryIndexes"):
            if indexes in properties:
                wanted = ("IndexName", "KeySchema", "Projection", "ProvisionedThroughput")
                definition[indexes] = [_only(index, *wanted) for index in properties[indexes]]
        if "StreamSpecification" in properties:
            view = properties["StreamSpecification"]["StreamViewType"]
            definition["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": view}
        if _unless("ResourceInUseException", client.create_table, TableName=name, **definition):
            client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
            if time_to_live := properties.get("TimeToLiveSpecification"):
                client.update_time_to_live(TableName=name, TimeToLiveSpecification=time_to_live)
        table = client.describe_table(TableName=name)["Table"]
        stream = {"StreamArn": table["LatestStreamArn"]} if "LatestStreamArn" in table else {}
        return {"Ref": name, "Arn": table["TableArn"], **stream}

    def _secret(self, logical_id: str, properties: Document) -> Attributes:
        client = self._aws.client("secretsmanager")
        name = _name(logical_id, properties, "Name")
        given = _only(properties, "Description", "SecretString")
        _unless("ResourceExistsException", client.create_secret, Name=name, **given)
        arn = client.describe_secret(SecretId=name)["ARN"]
        if logical_id in self._secrets and not _unless(
            "ResourceNotFoundException", client.get_secret_value, SecretId=name
        ):
            client.put_secret_value(SecretId=name, SecretString=json.dumps(self._secrets[logical_id]))
        return {"Ref": arn, "Id": arn}

    def _topic(self, logical_id: str, properties: Document) -> Attributes:
        client = self._aws.client("sns")
        name = _name(logical_id, properties, "TopicName")
        arn = client.create_topic(Name=name)["TopicArn"]
        for subscription in properties.get("Subscription", []):
            self._subscription(logical_id, {"TopicArn": arn, **subscription})
        return {"Ref": arn, "TopicArn": arn, "TopicName": name}

    def _subscription(self, logical_id: str, properties: Document) -> Attributes:
        if properties["Protocol"] == "lambda":
            raise TemplateError(f"{logical_id}: a topic cannot call a function on a laptop; put a queue between them.")
        settings = _only(properties, "FilterPolicy", "FilterPolicyScope", "RawMessageDelivery", "RedrivePolicy")
        target = _only(properties, "TopicArn", "Protocol", "Endpoint")
        client = self._aws.client("sns")
        return {"Ref": client.subscribe(**target, Attributes=_strings(settings))["SubscriptionArn"]}

    def _queue(self, logical_id: str, properties: Document) -> Attributes:
        client = self._aws.client("sqs")
        name = _name(logical_id, properties, "QueueName")
        settings = _only(
            properties,
            *("ContentBasedDeduplication", "DelaySeconds", "FifoQueue", "MaximumMessageSize", "MessageRetentionPeriod"),
            *("ReceiveMessageWaitTimeSeconds", "RedriveAllowPolicy", "RedrivePolicy", "VisibilityTimeout"),
        )
        _unless("QueueNameExists", client.create_queue, QueueName=name, Attributes=_strings(settings))
        url = client.get_queue_url(QueueName=name)["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return {"Ref": url, "QueueUrl": url, "Arn": arn, "QueueName": name}

    def _bucket(self, logical_id: str, properties: Document) -> Attributes:
        client = self._aws.client("s3")
        name = _name(logical_id, properties, "BucketName").lower()
        place = {"LocationConstraint": REGION}
        _unless("BucketAlreadyOwnedByYou", client.create_bucket, Bucket=name, CreateBucketConfiguration=place)
        return {"Ref": name, "Arn": f"arn:aws:s3:::{name}"}

    def _function(self, logical_id: str, properties: Document) -> Attributes:
        name = _name(logical_id, properties, "FunctionName")
        return {"Ref": name, "Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{name}"}

    def _alias(self, logical_id: str, properties: Document) -> Attributes:
        function = properties["FunctionName"].rpartition(":function:")[2]
        return {"Ref": f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{function}:{properties['Name']}"}

    def _layer(self, logical_id: str, properties: Document) -> Attributes:
        return {"Ref": properties["Content"]["S3Key"]}

    def _api(self, logical_id: str, properties: Document) -> Attributes:
        return {"Ref": logical_id.lower()[:10], "ApiEndpoint": f"https://{logical_id.lower()[:10]}.local"}

    def _named(self, logical_id: str, properties: Document) -> Attributes:
        name = _name(logical_id, properties, "Name")
        return {"Ref": name, "Arn": f"arn:aws:local:{REGION}:{ACCOUNT_ID}:{name}", "Id": name}

    _CREATORS: Mapping[str, Callable[["Resources", str, Document], Attributes]] = {
        "AWS::ApiGatewayV2::Api": _api,
        "AWS::CloudFormation::CustomResource": _named,
        "AWS::DynamoDB::Table": _table,
        "AWS::Events::Rule": _named,
        "AWS::Lambda::Alias": _alias,
        "AWS::Lambda::EventSourceMapping": _named,
        "AWS::Lambda::Function": _function,
        "AWS::Lambda::LayerVersion": _layer,
        "AWS::S3::Bucket": _bucket,
        "AWS::SNS::Subscription": _subscription,
        "AWS::SNS::Topic": _topic,
        "AWS::SQS::Queue": _queue,
        "AWS::Scheduler::Schedule": _named,
        "AWS::SecretsManager::Secret": _secret,
    }


def _name(logical_id: str, properties: Document, key: str) -> str:
    """The physical name: the template's, or one that stays the same from start to start."""
    return str(properties.get(key, f"{STACK_NAME}-{logical_id}"))


def _only(properties: Document, *names: str) -> Document:
    return {name: properties[name] for name in names if name in properties}


def _strings(settings: Document) -> dict[str, str]:
    """Attributes as SNS and SQS take them."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}


def _unless(code: str, call: Callable[..., Any], **arguments: Any) -> bool:
    """Make a call; False if it failed with this error code."""
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] != code:
            raise
        return False
    return True
