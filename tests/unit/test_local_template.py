import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from local.events import failed_items, matches, read_patterns, read_rate
from local.template import Stack, TemplateError, load, parameter_values, parse_overrides, translate

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Size: { Type: Number, Default: 3, MinValue: 1, MaxValue: 10 }
  Mode: { Type: String, Default: quiet, AllowedValues: [quiet, loud], Description: how it sounds }
  Origin: { Type: String, Default: "", AllowedPattern: "^(https?://[^/]+)?$", ConstraintDescription: an origin }
  Needed: { Type: String }
  Names: { Type: CommaDelimitedList, Default: "a, b" }
Mappings:
  Sounds: { loud: { Decibels: 90 }, quiet: { Decibels: 30 } }
Conditions:
  IsLoud: !Equals [!Ref Mode, loud]
  IsQuiet: !Not [!Condition IsLoud]
  IsBoth: !And [!Condition IsLoud, !Condition IsQuiet]
  IsEither: !Or [!Condition IsLoud, !Condition IsQuiet]
Globals:
  Function: { Runtime: python3.13, Handler: app.handler, Timeout: 7, Layers: [!Ref Layer] }
Resources:
  Layer: { Type: AWS::Serverless::LayerVersion, Properties: { ContentUri: layers/shared } }
  Talker:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: functions/talker
      AutoPublishAlias: live
      Events:
        Listed: { Type: HttpApi, Properties: { Method: GET, Path: /words } }
      Environment:
        Variables:
          REF: !Ref Size
          SUB: !Sub "${AWS::Region}/${Store.Arn}/${Mode}/${!Literal}"
          SUB_LIST: !Sub ["${Word}-${Mode}", { Word: !Ref Needed }]
          JOIN: !Join ["-", [a, !Ref Mode, 1]]
          SELECT: !Select [1, !Ref Names]
          SPLIT: !Select [0, !Split [":", "x:y"]]
          MAP: !FindInMap [Sounds, !Ref Mode, Decibels]
          IF: !If [IsLoud, yes, no]
          BOTH: !If [IsBoth, both, not both]
          EITHER: !If [IsEither, either, neither]
          NOTHING: !If [IsLoud, "!", !Ref AWS::NoValue]
          FLAG: true
  Store: { Type: AWS::DynamoDB::Table, Properties: { TableName: !Sub "${AWS::StackName}-${Needed}" } }
  Siren: { Type: AWS::SNS::Topic, Condition: IsLoud }
  Guard: { Type: AWS::IAM::Role, Properties: { Unknown: !GetAtt Nobody.Arn } }
Outputs:
  Table: { Value: !Ref Store }
  Siren: { Value: !Ref Siren, Condition: IsLoud }
"""


def stack_of(tmp_path: Path, **overrides: str) -> tuple[Stack, list[str]]:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    document = load(path)
    parameters = parameter_values(document, {"Needed": "tell", **overrides}, {"Undeclared": "ignored"})
    created: list[str] = []

    def create(name: str, kind: str, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        created.append(name)
        return {"Ref": properties.get("TableName", name), "Arn": f"arn:{name}", "Version": "1"}

    meaningless = {"AWS::IAM::Role", "AWS::Lambda::Permission", "AWS::ApiGatewayV2::Stage"}
    return Stack(translate(document, path, parameters), parameters, create, meaningless), created


def variables_of(stack: Stack) -> dict[str, Any]:
    ((_, function),) = stack.of_type("AWS::Lambda::Function")
    variables: dict[str, Any] = function["Environment"]["Variables"]
    return variables


def test_intrinsic_functions_are_worked_out(tmp_path: Path) -> None:
    stack, _ = stack_of(tmp_path)

    assert variables_of(stack) == {
        "REF": "3",
        "SUB": "eu-west-1/arn:Store/quiet/${Literal}",
        "SUB_LIST": "tell-quiet",
        "JOIN": "a-quiet-1",
        "SELECT": "b",
        "SPLIT": "x",
        "MAP": 30,
        "IF": False,  # YAML's `no`
        "BOTH": "not both",
        "EITHER": "either",
        "FLAG": True,
    }


def test_conditions_choose_resources_and_outputs(tmp_path: Path) -> None:
    quiet, _ = stack_of(tmp_path)
    loud, _ = stack_of(tmp_path, Mode="loud")

    assert quiet.outputs() == {"Table": "kopokopo-reversals-tell"}
    assert loud.outputs() == {"Table": "kopokopo-reversals-tell", "Siren": "Siren"}
    assert list(quiet.of_type("AWS::SNS::Topic")) == []
    assert variables_of(loud)["NOTHING"] == "!"


def test_what_is_referred_to_is_created_first_and_once(tmp_path: Path) -> None:
    stack, created = stack_of(tmp_path)

    stack.create()
    stack.create()

    assert created.index("Store") < created.index("Talker") < created.index("ServerlessHttpApi")
    assert len(created) == len(set(created))
    assert "Guard" not in created


def test_code_and_layers_keep_their_place(tmp_path: Path) -> None:
    stack, _ = stack_of(tmp_path)

    ((_, function),) = stack.of_type("AWS::Lambda::Function")
    ((_, layer),) = stack.of_type("AWS::Lambda::LayerVersion")

    assert function["Code"]["S3Key"] == str(tmp_path / "functions/talker")
    assert function["Timeout"] == 7
    assert layer["Content"]["S3Key"] == str(tmp_path / "layers/shared")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"Needed": "x", "Loudness": "9", "Speed": "1"}, "no parameter Loudness, Speed"),
        ({}, "Needed has no default"),
        ({"Needed": "x", "Size": "many"}, "Size: 'many' is not a number"),
        ({"Needed": "x", "Size": "11"}, "Size: '11' is not allowed"),
        ({"Needed": "x", "Mode": "shrill"}, "Mode: 'shrill' is not allowed (how it sounds)"),
        ({"Needed": "x", "Origin": "ftp://x"}, "Origin: 'ftp://x' is not allowed (an origin)"),
    ],
)
def test_a_parameter_that_cannot_be_is_a_clear_error(tmp_path: Path, overrides: dict[str, str], complaint: str) -> None:
    (tmp_path / "template.yaml").write_text(TEMPLATE)

    with pytest.raises(TemplateError, match=re.escape(complaint)):
        parameter_values(load(tmp_path / "template.yaml"), overrides, {})


def test_overrides_win_over_the_laptop_and_the_laptop_over_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text(TEMPLATE)

    values = parameter_values(load(tmp_path / "template.yaml"), {"Needed": "x"}, {"Needed": "y", "Mode": "loud"})

    assert values == {"Size": "3", "Mode": "loud", "Origin": "", "Needed": "x", "Names": ["a", "b"]}


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("", {}),
        ("A=1 B=rate(2\\ minutes)", {"A": "1", "B": "rate(2 minutes)"}),
        ("A='x y' B=\"rate(1 second)\" C=", {"A": "x y", "B": "rate(1 second)", "C": ""}),
        ("A=k=v", {"A": "k=v"}),
        ("ParameterKey=A,ParameterValue=1 'ParameterKey=B,ParameterValue=x, y'", {"A": "1", "B": "x, y"}),
    ],
)
def test_overrides_are_read_as_sam_reads_them(text: str, overrides: dict[str, str]) -> None:
    assert parse_overrides(text) == overrides


@pytest.mark.parametrize("text", ["A", "=1", "A='1", "A=1 B"])
def test_overrides_that_cannot_be_read_are_a_clear_error(text: str) -> None:
    with pytest.raises(TemplateError, match="PARAMETER_OVERRIDES"):
        parse_overrides(text)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("Value: !Ref Nobody", "Nobody is referred to"),
        ("Value: !GetAtt Topic.Colour", "Topic has no attribute Colour"),
        ("Value: !ImportValue other", "Fn::ImportValue is not something"),
    ],
)
def test_what_cannot_be_resolved_is_a_clear_error(tmp_path: Path, body: str, complaint: str) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(f"Resources: {{ Topic: {{ Type: AWS::SNS::Topic }} }}\nOutputs: {{ It: {{ {body} }} }}")
    stack = Stack(load(path), {}, lambda *_: {"Ref": "topic"})

    with pytest.raises(TemplateError, match=complaint):
        stack.outputs()


def test_resources_that_refer_to_each_other_are_a_clear_error() -> None:
    resources = {name: {"Type": "X", "Properties": {"To": {"Ref": other}}} for name, other in ("AB", "BA")}
    stack = Stack({"Resources": resources}, {}, lambda *_: {"Ref": "x"})

    with pytest.raises(TemplateError, match="Circular references: A > B > A"):
        stack.create()


PATTERN = {
    "eventName": ["INSERT", "MODIFY"],
    "dynamodb": {
        "NewImage": {
            "version": {"N": [{"exists": True}]},
            "hidden": {"BOOL": [{"exists": False}]},
            "status": {"S": [{"anything-but": ["draft", "old"]}, "kept"]},
        }
    },
}


@pytest.mark.parametrize(
    ("image", "passes"),
    [
        ({"version": {"N": "1"}, "status": {"S": "new"}}, True),
        ({"version": {"N": "1"}, "status": {"S": "draft"}}, False),
        ({"version": {"N": "1"}}, False),
        ({"status": {"S": "new"}}, False),
        ({"version": {"N": "1"}, "status": {"S": "new"}, "hidden": {"BOOL": True}}, False),
    ],
)
def test_a_filter_pattern_chooses_records(image: dict[str, Any], passes: bool) -> None:
    assert matches(PATTERN, {"eventName": "INSERT", "dynamodb": {"NewImage": image}}) is passes
    assert not matches(PATTERN, {"eventName": "REMOVE", "dynamodb": {"NewImage": image}})


def test_a_filter_operator_that_is_not_known_is_a_clear_error() -> None:
    filters = [{"Pattern": '{"a": [{"numeric": ["=", 1]}]}'}]

    with pytest.raises(TemplateError, match="numeric"):
        read_patterns({"FilterCriteria": {"Filters": filters}})


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [("rate(1 minute)", 60), ("rate(2 seconds)", 2), ("rate(12 hours)", 43_200), ("rate(3 days)", 259_200)],
)
def test_a_rate_is_read(expression: str, seconds: float) -> None:
    assert read_rate("Due", expression) == seconds


@pytest.mark.parametrize("expression", ["cron(0 8 * * ? *)", "rate(0 minutes)", "rate(1 week)", "5 minutes"])
def test_a_schedule_that_is_no_rate_is_a_clear_error(expression: str) -> None:
    with pytest.raises(TemplateError, match=r"Due: .*rate\(5 minutes\)"):
        read_rate("Due", expression)


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        (None, []),
        ({}, []),
        ({"batchItemFailures": []}, []),
        ({"batchItemFailures": [{"itemIdentifier": "2"}]}, ["2"]),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, ["1", "2", "3"]),
        ({"batchItemFailures": [{"itemIdentifier": "4"}]}, ["1", "2", "3"]),
        ({"batchItemFailures": [{}]}, ["1", "2", "3"]),
        ("nonsense", ["1", "2", "3"]),
    ],
)
def test_a_partial_batch_response_that_cannot_be_right_fails_the_batch(result: Any, failed: list[str]) -> None:
    assert failed_items(result, ["1", "2", "3"]) == failed
