"""template.yaml: who may call what, who may do what, what is encrypted, kept and watched. Stated once more, as data.

Every check reads the template as SAM's own translator leaves it, with the parameters of several deployments. A resource
that another one refers to is known by its logical id: `ReversalsTable.Arn` is what `!GetAtt ReversalsTable.Arn` says.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.lookup.app import METHODS
from local.template import Document, Stack, TemplateError, load, parameter_values, parse_overrides, translate

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
ENVIRONMENTS = tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))
OVERRIDES = {
    name: parse_overrides(" ".join(environment["deploy"]["parameters"]["parameter_overrides"]))
    for name, environment in ENVIRONMENTS.items()
    if name != "version"
}
DEPLOYMENTS: dict[str, dict[str, str]] = {
    "default": {},
    "production": OVERRIDES["production"],
    "everything": {
        "WebhookScope": "till",
        "WebhookScopeReference": "112233",
        "CallbackBaseUrl": "https://reversals.example.com",
        "DomainName": "reversals.example.com",
        "DomainCertificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/1",
        "AlarmEmail": "operations@example.com",
        "DeletionProtection": "true",
        "InitiateConcurrency": "5",
        "SnapStart": "PublishedVersions",
    },
    "without a key of its own": {"EncryptWithOwnKey": "false"},
}


class Deployment:
    """What CloudFormation would be told to make.

    Attributes:
        resources: By logical id, with every intrinsic function worked out; only those whose condition holds.
        parameters: The values that it was deployed with.
    """

    def __init__(self, overrides: dict[str, str], template: Document | None = None) -> None:
        document = template or load(TEMPLATE)
        self.parameters = parameter_values(document, overrides, {})
        translated = translate(document, TEMPLATE, self.parameters)
        self.outputs: Document = translated["Outputs"]
        stack = Stack(translated, self.parameters, lambda logical_id, *_: _Attributes(logical_id))
        self.resources: dict[str, Document] = {}
        for kind in {resource["Type"] for resource in translated["Resources"].values()}:
            for name, properties in stack.of_type(kind):
                self.resources[name] = {**translated["Resources"][name], "Properties": properties}

    def of_type(self, kind: str) -> dict[str, Document]:
        """The properties of all resources of a type, by logical id."""
        return {name: it["Properties"] for name, it in self.resources.items() if it["Type"] == kind}

    def properties(self, logical_id: str) -> Document:
        properties: Document = self.resources[logical_id]["Properties"]
        return properties

    @property
    def functions(self) -> dict[str, Document]:
        return self.of_type("AWS::Lambda::Function")

    @property
    def key(self) -> str | None:
        """The ARN of the stack's own key, if it has one."""
        return "EncryptionKey.Arn" if "EncryptionKey" in self.resources else None


class _Attributes(dict[str, str]):
    def __init__(self, logical_id: str) -> None:
        super().__init__(Ref=logical_id)

    def __missing__(self, name: str) -> str:
        return f"{self['Ref']}.{name}"


_deployments: dict[str, Deployment] = {}


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Each of the deployments."""
    return deployed(request.param)


def deployed(name: str) -> Deployment:
    if name not in _deployments:
        _deployments[name] = Deployment(DEPLOYMENTS[name])
    return _deployments[name]


@pytest.fixture
def everything() -> Deployment:
    """The deployment with all that a parameter can switch on."""
    return deployed("everything")


# ------------------------------------------------------------------------------------------------------ who calls

ROUTES = {
    "POST /reversals": ("InitiateFunction", "AWS_IAM"),
    "GET /reversals": ("LookupFunction", "AWS_IAM"),
    "GET /reversals/{transaction_reference}": ("LookupFunction", "AWS_IAM"),
    "POST /reversals/{transaction_reference}/resolution": ("ResolveFunction", "AWS_IAM"),
    # Kopo Kopo has no IAM: the signature is the lock.
    "POST /kopokopo/results/{transaction_reference}/{attempt}": ("CallbackFunction", "NONE"),
    "POST /kopokopo/webhooks": ("CallbackFunction", "NONE"),
    "$default": ("LookupFunction", "AWS_IAM"),
}
OPEN_ROUTES = {route for route, (_, authorizer) in ROUTES.items() if authorizer == "NONE"}


def test_exactly_these_routes_exist_each_with_its_function_and_authorizer(deployment: Deployment) -> None:
    (api,) = deployment.of_type("AWS::ApiGatewayV2::Api").values()
    found = {}
    for path, operations in api["Body"]["paths"].items():
        for method, operation in operations.items():
            (security,) = operation["security"]
            (authorizer,) = security
            target = re.findall(
                r"functions/(\w+)Aliaslive/invocations", operation["x-amazon-apigateway-integration"]["uri"]
            )
            found[path if path == "$default" else f"{method.upper()} {path}"] = (*target, authorizer)
    assert found == ROUTES
    schemes = api["Body"]["components"]["securitySchemes"]
    assert {name: it["x-amazon-apigateway-authtype"] for name, it in schemes.items()} == {"AWS_IAM": "awsSigv4"}


def test_only_kopo_kopos_routes_are_open() -> None:
    assert OPEN_ROUTES
    assert all(route.startswith("POST /kopokopo/") for route in OPEN_ROUTES)


def test_lookup_knows_every_route() -> None:
    methods: dict[str, list[str]] = {}
    for method, _, path in (route.partition(" ") for route in sorted(ROUTES) if route != "$default"):
        methods.setdefault(re.sub(r"\{\w+\}", "[^/]+", path), []).append(method)
    assert methods == METHODS


def test_nothing_but_this_api_may_invoke_a_function(deployment: Deployment) -> None:
    """The streams, the queue and the schedule do so in a role's name."""
    for permission in deployment.of_type("AWS::Lambda::Permission").values():
        assert permission["Action"] == "lambda:InvokeFunction"
        assert permission["Principal"] == "apigateway.amazonaws.com"
        assert re.fullmatch(r"arn:aws:execute-api:[\w-]+:\d+:ReversalsApi/\*/.+", permission["SourceArn"])
        assert permission["FunctionName"].endswith("Aliaslive")
    assert deployment.of_type("AWS::Lambda::Url") == {}


def test_open_routes_take_less_than_the_others(deployment: Deployment) -> None:
    (stage,) = deployment.of_type("AWS::ApiGatewayV2::Stage").values()
    default = stage["DefaultRouteSettings"]
    assert set(stage["RouteSettings"]) == OPEN_ROUTES
    for settings in stage["RouteSettings"].values():
        for limit in ("ThrottlingRateLimit", "ThrottlingBurstLimit"):
            assert 0 < int(settings[limit]) < int(default[limit])


def test_the_access_log_has_neither_headers_nor_bodies(deployment: Deployment) -> None:
    (stage,) = deployment.of_type("AWS::ApiGatewayV2::Stage").values()
    log = stage["AccessLogSettings"]
    assert log["DestinationArn"] == "ApiLogGroup.Arn"
    assert json.loads(log["Format"]) == {
        "time": "$context.requestTime",
        "request_id": "$context.requestId",
        "source_ip": "$context.identity.sourceIp",
        "caller": "$context.identity.userArn",
        "route": "$context.routeKey",
        "path": "$context.path",
        "status": "$context.status",
        "bytes": "$context.responseLength",
        "milliseconds": "$context.responseLatency",
        "integration_error": "$context.integrationErrorMessage",
    }


def test_a_domain_of_ones_own_takes_no_old_tls(everything: Deployment) -> None:
    (domain,) = everything.of_type("AWS::ApiGatewayV2::DomainName").values()
    assert [it["SecurityPolicy"] for it in domain["DomainNameConfigurations"]] == ["TLS_1_2"]


# ------------------------------------------------------------------------------------------------------ who may do what

Right = tuple[str, str, str | None]


def may(resource: str, *actions: str, only_if: str | None = None) -> set[Right]:
    return {(action, resource, only_if) for action in actions}


# Whoever talks to Kopo Kopo asks for access tokens, and shares them.
TOKENS = may("CredentialsSecret", "secretsmanager:GetSecretValue") | may(
    "TokenSecret", "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"
)
LEASE_ALONE = (
    '{"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["#token-lease"]}, '
    '"Null": {"dynamodb:LeadingKeys": "false"}}'
)

# Every right of every role. What is not here, nobody may.
RIGHTS: dict[str, set[Right]] = {
    "InitiateFunctionRole": TOKENS | may("ReversalsTable.Arn", "dynamodb:PutItem", "dynamodb:UpdateItem"),
    "CallbackFunctionRole": may("ReversalsTable.Arn", "dynamodb:PutItem", "dynamodb:UpdateItem")
    | may("SignatureSecret", "secretsmanager:GetSecretValue")
    | may("EvidenceQueue.Arn", "sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
    "LookupFunctionRole": may("ReversalsTable.Arn", "dynamodb:GetItem")
    | may("ReversalsTable.Arn/index/by-status", "dynamodb:Query"),
    "ResolveFunctionRole": may("ReversalsTable.Arn", "dynamodb:GetItem", "dynamodb:UpdateItem"),
    "ReconcileFunctionRole": TOKENS
    | may("ReversalsTable.Arn", "dynamodb:UpdateItem")
    | may("ReversalsTable.Arn/index/due", "dynamodb:Query")
    | may("ReversalsTable.Arn/index/by-status", "dynamodb:Query"),
    "PublishFunctionRole": may("ReversalsTopic", "sns:Publish")
    | may("ReversalsTable.Arn/index/by-status", "dynamodb:Query")
    | may("UnpublishedBucket.Arn/unpublished/*", "s3:PutObject")
    # Lambda writes there what it tried in vain, in this role's name; SAM adds both for the stream's destination.
    | may("UnpublishedBucket.Arn/*", "s3:PutObject")
    | may("UnpublishedBucket.Arn", "s3:ListBucket"),
    "SubscribeFunctionRole": TOKENS | may("ReversalsTable.Arn", "dynamodb:UpdateItem", only_if=LEASE_ALONE),
    "ReconcileFunctionDueRole": may("ReconcileFunctionAliaslive", "lambda:InvokeFunction"),
    "CodeDeployServiceRole": set(),
}

# What SAM attaches, and why it may: AWS's own policies, some of which have "*" as their resource.
EVERY_FUNCTION = {
    "service-role/AWSLambdaBasicExecutionRole",  # write logs; which log group is the function's, LoggingConfig says
    "AWSXrayWriteOnlyAccess",  # send traces: X-Ray has no resources to name
}
MANAGED = {
    "PublishFunctionRole": EVERY_FUNCTION | {"service-role/AWSLambdaDynamoDBExecutionRole"},  # read the stream
    "CodeDeployServiceRole": {"service-role/AWSCodeDeployRoleForLambda"},  # move the alias
    "ReconcileFunctionDueRole": set(),
}

TRUSTED = {"CodeDeployServiceRole": "codedeploy.amazonaws.com", "ReconcileFunctionDueRole": "scheduler.amazonaws.com"}


def statements(role: Document) -> Iterator[Document]:
    for policy in role.get("Policies", []):
        yield from policy["PolicyDocument"]["Statement"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def rights(role: Document) -> set[Right]:
    found = set()
    for statement in statements(role):
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        condition = json.dumps(statement["Condition"]) if "Condition" in statement else None
        for action in listed(statement["Action"]):
            found |= {(action, resource, condition) for resource in listed(statement["Resource"])}
    return found


def test_every_role_may_do_exactly_what_the_table_says(deployment: Deployment) -> None:
    roles = deployment.of_type("AWS::IAM::Role")
    absent = set() if "SubscribeFunction" in deployment.functions else {"SubscribeFunctionRole"}
    assert {name: rights(role) for name, role in roles.items()} == {
        name: held for name, held in RIGHTS.items() if name not in absent
    }
    assert deployment.of_type("AWS::IAM::Policy") == deployment.of_type("AWS::IAM::ManagedPolicy") == {}


def test_no_right_is_to_everything() -> None:
    for held in RIGHTS.values():
        for action, resource, _ in held:
            assert "*" not in action
            assert not resource.startswith("*")


def test_no_managed_policy_is_attached_but_those_that_sam_needs(deployment: Deployment) -> None:
    for name, role in deployment.of_type("AWS::IAM::Role").items():
        policies = {arn.removeprefix("arn:aws:iam::aws:policy/") for arn in role.get("ManagedPolicyArns", [])}
        assert policies == MANAGED.get(name, EVERY_FUNCTION), name


def test_every_role_is_one_services_alone(deployment: Deployment) -> None:
    for name, role in deployment.of_type("AWS::IAM::Role").items():
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Service": [TRUSTED.get(name, "lambda.amazonaws.com")]}
    used = [function["Role"] for function in deployment.functions.values()]
    assert sorted(used) == sorted(f"{name}Role.Arn" for name in deployment.functions)


def holders(action: str, resource: str) -> set[str]:
    return {name for name, held in RIGHTS.items() if any((action, resource) == right[:2] for right in held)}


def test_secrets_are_for_those_who_need_them() -> None:
    askers = {"InitiateFunctionRole", "ReconcileFunctionRole", "SubscribeFunctionRole"}
    assert holders("secretsmanager:GetSecretValue", "CredentialsSecret") == askers
    assert holders("secretsmanager:PutSecretValue", "TokenSecret") == askers
    assert holders("secretsmanager:GetSecretValue", "SignatureSecret") == {"CallbackFunctionRole"}
    assert not holders("secretsmanager:PutSecretValue", "CredentialsSecret")
    assert not holders("secretsmanager:PutSecretValue", "SignatureSecret")


def test_nobody_may_delete_or_read_the_whole_table() -> None:
    actions = {action for held in RIGHTS.values() for action, _, _ in held if action.startswith("dynamodb:")}
    assert actions == {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:Query"}


@pytest.mark.parametrize("name", [name for name in RIGHTS if name.endswith("FunctionRole")])
def test_a_role_is_for_what_the_function_is_told_of(name: str, everything: Deployment) -> None:
    """A secret, queue, topic or bucket that a role names is one whose name the function is given, and the reverse."""
    function = everything.functions[name.removesuffix("Role")]
    kinds = ("SecretsManager::Secret", "SQS::Queue", "SNS::Topic", "S3::Bucket")
    named = {logical_id for kind in kinds for logical_id in everything.of_type(f"AWS::{kind}")}
    told = named & set(function["Environment"]["Variables"].values())
    assert told == {resource.partition(".")[0] for _, resource, _ in RIGHTS[name]} & named


def test_no_value_in_the_template_is_a_secret(deployment: Deployment) -> None:
    for secret in deployment.of_type("AWS::SecretsManager::Secret").values():
        assert set(secret) <= {"Description", "KmsKeyId"}
    assert "{{resolve:" not in TEMPLATE.read_text(encoding="utf-8")
    assert "NoEcho" not in TEMPLATE.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ functions


def test_every_function_is_made_alike(deployment: Deployment) -> None:
    (layer,) = deployment.of_type("AWS::Lambda::LayerVersion")
    for name, function in deployment.functions.items():
        assert function["Runtime"] == "python3.13", name
        assert function["Architectures"] == ["arm64"], name
        assert function["TracingConfig"] == {"Mode": "Active"}, name
        assert function["Layers"] == [layer], name
        assert function["Handler"] == "app.handler", name
        assert (Path(function["Code"]["S3Key"]) / "app.py").is_file(), name
        alias = deployment.properties(f"{name}Aliaslive")
        assert (alias["Name"], alias["FunctionName"]) == ("live", name)
    properties = deployment.properties(layer)
    assert properties["CompatibleRuntimes"] == ["python3.13"]
    assert properties["CompatibleArchitectures"] == ["arm64"]
    folders = {Path(function["Code"]["S3Key"]).name for function in deployment.functions.values()}
    assert folders | {"subscribe"} == {path.parent.name for path in (ROOT / "functions").glob("*/app.py")}


def test_everything_that_logs_has_a_log_group_that_forgets_in_time(deployment: Deployment) -> None:
    groups = deployment.of_type("AWS::Logs::LogGroup")
    loggers = {"ApiLogGroup"}
    for name, function in deployment.functions.items():
        assert function["LoggingConfig"]["LogFormat"] == "JSON"
        assert function["LoggingConfig"]["LogGroup"] == f"{name.removesuffix('Function')}LogGroup"
        loggers.add(function["LoggingConfig"]["LogGroup"])
    assert set(groups) == loggers
    for group in groups.values():
        assert group["RetentionInDays"] == deployment.parameters["LogRetentionDays"]
        assert group.get("KmsKeyId") == deployment.key


def test_a_call_to_kopo_kopo_ends_before_the_function_and_the_function_before_the_request(
    everything: Deployment,
) -> None:
    longest_call = load(TEMPLATE)["Parameters"]["KopoKopoTimeout"]["MaxValue"]
    initiate = everything.functions["InitiateFunction"]["Timeout"]
    assert longest_call < initiate < 30  # seconds that API Gateway waits
    behind_the_api = {function for function, _ in ROUTES.values()}
    assert all(everything.functions[name]["Timeout"] < 30 for name in behind_the_api)
    for name in ("ReconcileFunction", "SubscribeFunction"):
        assert longest_call < everything.functions[name]["Timeout"]


def test_every_function_knows_when_a_claim_is_nobodys_any_more(deployment: Deployment) -> None:
    timeout = deployment.functions["InitiateFunction"]["Timeout"]
    assert {it["Environment"]["Variables"]["INITIATE_TIMEOUT"] for it in deployment.functions.values()} == {timeout}


PHYSICAL_NAMES = {
    "AWS::DynamoDB::Table": "TableName",
    "AWS::IAM::Role": "RoleName",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::CloudWatch::Alarm": "AlarmName",
}


def test_two_stacks_in_one_account_stay_apart(deployment: Deployment) -> None:
    for kind, name in PHYSICAL_NAMES.items():
        assert all(name not in properties for properties in deployment.of_type(kind).values()), kind
    (schedule,) = deployment.of_type("AWS::Scheduler::Schedule").values()
    assert schedule["Name"] == "kopokopo-reversals-reconcile"  # a schedule has to be named; by the stack
    services = {it["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] for it in deployment.functions.values()}
    assert services == {"kopokopo-reversals"}


def version_of(function: str, template: Document) -> tuple[str, str]:
    """The logical id and the description of what `live` points to: another of either is another version."""
    versions = Deployment({}, template).of_type("AWS::Lambda::Version").items()
    (found,) = [(name, it.get("Description", "")) for name, it in versions if it["FunctionName"] == function]
    return found


@pytest.mark.parametrize("function", ["InitiateFunction", "PublishFunction"])
def test_a_change_of_the_package_reaches_what_is_live(function: str) -> None:
    """By itself, SAM publishes a version only when the function's own folder changes; our code is in the layer."""
    versions = set()
    for content in ("one", "two"):
        template = load(TEMPLATE)
        template["Resources"]["ReversalsLayer"]["Properties"]["ContentUri"] = {"Bucket": "b", "Key": content}
        versions.add(version_of(function, template))
    assert len(versions) == 2


def references(value: Any) -> set[str]:
    """Every logical id and parameter that is referred to in it."""
    if isinstance(value, list):
        return {name for item in value for name in references(item)}
    if not isinstance(value, dict):
        return set()
    found = {name for item in value.values() for name in references(item)}
    if isinstance(name := value.get("Ref", value.get("Condition")), str):
        found.add(name)
    if path := value.get("Fn::GetAtt"):
        found.add(path[0])
    if condition := value.get("Fn::If"):
        found.add(condition[0])
    if text := value.get("Fn::Sub"):
        found |= set(re.findall(r"\$\{([\w:]+)", text[0] if isinstance(text, list) else text))
    return found


def test_a_change_of_a_parameter_reaches_what_is_live() -> None:
    """SAM's hash does not see parameters' values; a version's description does, and another one is another version."""
    template = load(TEMPLATE)
    shared = template["Globals"]["Function"]
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            of_a_version = [shared["Environment"], shared["SnapStart"], resource["Properties"].get("Environment")]
            described = references(resource["Properties"].get("VersionDescription"))
            assert (references(of_a_version) ^ described) & set(template["Parameters"]) == set(), name


# ------------------------------------------------------------------------------------------------------ streams, queues


def test_the_stream_is_published_from_without_losing_anything(deployment: Deployment) -> None:
    mapping = deployment.properties("PublishFunctionChanges")
    assert mapping["EventSourceArn"] == "ReversalsTable.StreamArn"
    assert mapping["FunctionName"] == "PublishFunctionAliaslive"
    assert mapping["StartingPosition"] == "TRIM_HORIZON"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BisectBatchOnFunctionError"] is True
    assert 0 < mapping["MaximumRetryAttempts"] <= 100
    # A bucket keeps the whole record; a queue would be told no more than where it was.
    assert mapping["DestinationConfig"] == {"OnFailure": {"Destination": "UnpublishedBucket.Arn"}}
    patterns = [json.loads(it["Pattern"]) for it in mapping["FilterCriteria"]["Filters"]]
    assert [pattern["eventName"] for pattern in patterns] == [["INSERT", "MODIFY"]] * 2
    # Only reversals have a version. A claim is nobody's news, a conflict always is.
    is_reversal = {"version": {"N": [{"exists": True}]}}
    assert [pattern["dynamodb"]["NewImage"] for pattern in patterns] == [
        {**is_reversal, "status": {"S": ["pending", "unknown", "reversed", "failed"]}},
        {**is_reversal, "conflict": {"BOOL": [True]}},
    ]
    assert deployment.properties("ReversalsTable")["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"}


def test_evidence_waits_in_a_queue_and_then_in_another(deployment: Deployment) -> None:
    mapping = deployment.properties("EvidenceMapping")
    assert mapping["EventSourceArn"] == "EvidenceQueue.Arn"
    assert mapping["FunctionName"] == "CallbackFunctionAliaslive"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    queue = deployment.properties("EvidenceQueue")
    assert queue["VisibilityTimeout"] >= 6 * deployment.functions["CallbackFunction"]["Timeout"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == "EvidenceDeadLetterQueue.Arn"
    fourteen_days = 14 * 24 * 3600
    for name in ("EvidenceQueue", "EvidenceDeadLetterQueue"):
        assert deployment.properties(name)["MessageRetentionPeriod"] == fourteen_days


def test_a_run_of_reconcile_that_failed_is_not_run_again(deployment: Deployment) -> None:
    """The next one is a minute away: Lambda's own two retries, and hours of queued runs after an outage, do no good."""
    (schedule,) = deployment.of_type("AWS::Scheduler::Schedule").values()
    assert schedule["Target"]["Arn"] == "ReconcileFunctionAliaslive"
    assert schedule["Target"]["RetryPolicy"] == {"MaximumRetryAttempts": 0}
    (config,) = deployment.of_type("AWS::Lambda::EventInvokeConfig").values()
    assert (config["FunctionName"], config["Qualifier"]) == ("ReconcileFunction", "live")
    assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, 60)


# ------------------------------------------------------------------------------------------------------ what is stored


def test_all_that_is_stored_is_encrypted(deployment: Deployment) -> None:
    key = deployment.key
    table = deployment.properties("ReversalsTable")["SSESpecification"]
    assert (table["SSEEnabled"], table["SSEType"], table.get("KMSMasterKeyId")) == (True, "KMS", key)
    for secret in deployment.of_type("AWS::SecretsManager::Secret").values():
        assert secret.get("KmsKeyId") == key  # without one, AWS's own
    for queue in deployment.of_type("AWS::SQS::Queue").values():
        assert (queue.get("KmsMasterKeyId"), queue.get("SqsManagedSseEnabled")) == (key, None if key else True)
    (rule,) = deployment.properties("UnpublishedBucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    by_default = rule["ServerSideEncryptionByDefault"]
    expected = ("aws:kms", key) if key else ("AES256", None)
    assert (by_default["SSEAlgorithm"], by_default.get("KMSMasterKeyID")) == expected
    topics = deployment.of_type("AWS::SNS::Topic")
    assert set(topics) == {"ReversalsTopic", "AlarmTopic"}
    assert topics["ReversalsTopic"]["KmsMasterKeyId"] == ("EncryptionKey" if key else "alias/aws/sns")
    # Alarms hold nobody's data, and CloudWatch may not use alias/aws/sns.
    assert topics["AlarmTopic"].get("KmsMasterKeyId") == ("EncryptionKey" if key else None)


def test_the_key_is_used_through_the_services_that_store_and_no_other_way(everything: Deployment) -> None:
    key = everything.properties("EncryptionKey")
    assert key["EnableKeyRotation"] is True
    account, services, logs, alarms = key["KeyPolicy"]["Statement"]
    assert account["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}
    using = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncrypt", "kms:CreateGrant", "kms:*")
    assert not [action for action in account["Action"] if action.startswith(using)]
    assert services["Principal"] == {"AWS": "*"}
    assert services["Condition"] == {
        "StringEquals": {
            "kms:CallerAccount": "123456789012",
            "kms:ViaService": [
                f"{service}.eu-west-1.amazonaws.com" for service in ("dynamodb", "s3", "secretsmanager", "sns", "sqs")
            ],
        }
    }
    assert logs["Principal"] == {"Service": "logs.eu-west-1.amazonaws.com"}
    of_this_stack = "arn:aws:logs:eu-west-1:123456789012:log-group:kopokopo-reversals-*"
    assert logs["Condition"] == {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": of_this_stack}}
    assert alarms["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert alarms["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


KEPT = {
    "EncryptionKey",  # without it, nothing of the rest can be read
    "ReversalsTable",
    "CredentialsSecret",
    "SignatureSecret",
    "EvidenceDeadLetterQueue",
    "UnpublishedBucket",
    "UnpublishedBucketPolicy",
}


def test_what_cannot_be_made_again_is_kept_when_the_stack_goes(deployment: Deployment) -> None:
    # A version stays for the alias to go back to.
    resources = {name: it for name, it in deployment.resources.items() if it["Type"] != "AWS::Lambda::Version"}
    kept = {name for name, it in resources.items() if it.get("DeletionPolicy") == "Retain"}
    assert kept == KEPT & set(resources)
    assert {name for name, it in resources.items() if it.get("UpdateReplacePolicy") == "Retain"} == kept


def test_the_table_can_be_brought_back(deployment: Deployment) -> None:
    table = deployment.properties("ReversalsTable")
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["DeletionProtectionEnabled"] is (deployment.parameters["DeletionProtection"] == "true")
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}


def test_production_cannot_lose_its_table_by_a_slip() -> None:
    assert OVERRIDES["production"].get("DeletionProtection") == "true"


def test_the_bucket_is_nobody_elses(deployment: Deployment) -> None:
    bucket = deployment.properties("UnpublishedBucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (policy,) = deployment.of_type("AWS::S3::BucketPolicy").values()
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Resource"] == ["UnpublishedBucket.Arn", "UnpublishedBucket.Arn/*"]
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


# ------------------------------------------------------------------------------------------------------ alarms


def metrics(alarm: Document) -> Iterator[Document]:
    """The metrics that an alarm looks at, each with `Namespace`, `MetricName` and `Dimensions`."""
    if "MetricName" in alarm:
        yield alarm
    yield from (it["MetricStat"]["Metric"] for it in alarm.get("Metrics", []) if "MetricStat" in it)


def alarms(deployment: Deployment) -> dict[str, Document]:
    found = deployment.of_type("AWS::CloudWatch::Alarm")
    assert found
    return found


def test_every_alarm_tells_somebody_and_says_what_is_wrong(deployment: Deployment) -> None:
    for name, alarm in alarms(deployment).items():
        assert alarm["AlarmActions"] == ["AlarmTopic"], name
        assert alarm["AlarmDescription"].endswith("."), name
        assert alarm["TreatMissingData"] == ("breaching" if name == "ReconcileSilentAlarm" else "notBreaching"), name


def test_an_operator_finds_every_alarm_in_the_runbook(deployment: Deployment) -> None:
    runbook = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^#{2,} `?(\w+Alarm)`?\s*$", runbook, re.MULTILINE))
    assert headings == set(alarms(deployment))


def test_alarms_go_by_metrics_that_there_are(deployment: Deployment) -> None:
    package = (ROOT / "layers/reversals/reversals").glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in package)
    told = set(re.findall(r'\(\s*"([A-Z]\w+)"', text))
    for name, alarm in alarms(deployment).items():
        for metric in metrics(alarm):
            if metric["Namespace"] == "KopoKopoReversals":
                assert metric["MetricName"] in told, name
                service, *by = metric["Dimensions"]
                assert service == {"Name": "service", "Value": "kopokopo-reversals"}
                assert by == ([{"Name": "reason", "Value": "not_sent"}] if name == "NotSentAlarm" else [])
            else:
                (dimension,) = metric["Dimensions"]
                assert dimension["Value"].partition(".")[0] in deployment.resources, name


@pytest.mark.parametrize(("alarm", "metric"), [("ErrorsAlarm", "Errors"), ("ThrottlesAlarm", "Throttles")])
def test_errors_and_throttles_of_every_function_are_watched(alarm: str, metric: str, everything: Deployment) -> None:
    looked_at = metrics(everything.properties(alarm))
    watched = {it["Dimensions"][0]["Value"] for it in looked_at if it["MetricName"] == metric}
    # CloudFormation waits for the subscription's answer itself.
    assert watched == set(everything.functions) - {"SubscribeFunction"}


def test_a_new_version_that_fails_is_taken_back(deployment: Deployment) -> None:
    groups = deployment.of_type("AWS::CodeDeploy::DeploymentGroup")
    assert set(groups) == {f"{name}DeploymentGroup" for name in deployment.functions}
    for group in groups.values():
        assert group["AlarmConfiguration"] == {"Alarms": [{"Name": "ErrorsAlarm"}], "Enabled": True}
        assert group["AutoRollbackConfiguration"]["Enabled"] is True


# ------------------------------------------------------------------------------------------------------ parameters


def test_every_parameter_is_explained_grouped_and_used() -> None:
    template = load(TEMPLATE)
    parameters = template["Parameters"]
    for name, rules in parameters.items():
        assert rules["Description"].endswith("."), name
        assert {"AllowedPattern", "AllowedValues", "MinValue"} & set(rules) or name == "AlarmEmail", name
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(parameters)
    used = references({name: part for name, part in template.items() if name not in ("Metadata", "Parameters")})
    assert set(parameters) <= used
    assert set(template["Conditions"]) <= used | {it.get("Condition") for it in template["Resources"].values()}


def test_every_output_is_explained(deployment: Deployment) -> None:
    assert set(deployment.outputs) >= {"ApiUrl", "TableName", "TopicArn", "CredentialsSecretArn", "SignatureSecretArn"}
    for name, output in deployment.outputs.items():
        assert output["Description"], name


@pytest.mark.parametrize("environment", OVERRIDES)
def test_an_environment_sets_what_there_is_and_says_everything(environment: str) -> None:
    parameter_values(load(TEMPLATE), OVERRIDES[environment], {})  # refuses an unknown name and a wrong value
    settings = ENVIRONMENTS[environment]["deploy"]["parameters"]
    assert set(settings) == set(ENVIRONMENTS["default"]["deploy"]["parameters"])
    assert settings["capabilities"] == "CAPABILITY_IAM"  # no resource of ours asks for more
    assert settings["confirm_changeset"] is True


def test_production_is_not_the_sandbox() -> None:
    production = ENVIRONMENTS["production"]["deploy"]["parameters"]["stack_name"]
    assert production != ENVIRONMENTS["sandbox"]["deploy"]["parameters"]["stack_name"]
    assert ENVIRONMENTS["default"] == ENVIRONMENTS["sandbox"]
    origins = {OVERRIDES["production"][name] for name in ("KopoKopoApiUrl", "KopoKopoAuthUrl")}
    assert origins == {"https://api.kopokopo.com"}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        # Kopo Kopo reverses what is up to 30 days old: what was forgotten sooner could be reversed twice.
        ("RetentionDays", "1"),
        ("RetentionDays", "59"),
        # Credentials and tokens travel there.
        ("KopoKopoApiUrl", "http://api.kopokopo.com"),
        ("KopoKopoAuthUrl", "http://api.kopokopo.com"),
        ("KopoKopoApiUrl", "https://api.kopokopo.com@example.com"),
        ("KopoKopoApiUrl", "https://api.kopokopo.com/"),
        ("CallbackBaseUrl", "http://reversals.example.com"),
        ("KopoKopoTimeout", "28"),
        ("ReconcileSchedule", "cron(* * * * ? *)"),
    ],
)
def test_a_dangerous_value_is_refused(parameter: str, value: str) -> None:
    with pytest.raises(TemplateError, match=parameter):
        parameter_values(load(TEMPLATE), {parameter: value}, {})


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("RetentionDays", "0"),
        ("RetentionDays", "60"),
        ("RetentionDays", "3650"),
        ("KopoKopoApiUrl", "https://api.kopokopo.com"),
        ("KopoKopoApiUrl", "http://127.0.0.1:3001"),
        ("KopoKopoAuthUrl", "http://localhost:3001"),
        ("CallbackBaseUrl", "http://127.0.0.1:3000"),
        ("CallbackBaseUrl", "https://reversals.example.com/v1"),
    ],
)
def test_a_useful_value_is_taken(parameter: str, value: str) -> None:
    assert parameter_values(load(TEMPLATE), {parameter: value}, {})[parameter] == value
