"""The stack as template.yaml has it: translated by SAM's own translator, then resolved as CloudFormation would."""

import logging
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import boto3
import yaml
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from local.settings import ACCOUNT_ID, REGION, STACK_NAME, LaptopCloudError

PSEUDO_PARAMETERS = {
    "AWS::AccountId": ACCOUNT_ID,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT_ID}:stack/{STACK_NAME}/local",
    "AWS::StackName": STACK_NAME,
    "AWS::URLSuffix": "amazonaws.com",
}
CODE_BUCKET = "local"
_NO_VALUE = object()
# The translator warns of its own feature flags, which is nothing to whoever starts a stack.
logging.getLogger("samtranslator").addHandler(logging.NullHandler())

Document = dict[str, Any]
Attributes = Mapping[str, Any]
Create = Callable[[str, str, Document], Attributes]


class TemplateError(LaptopCloudError):
    """The template, or a parameter of it, is wrong or asks for something that a laptop does not have."""


def load(path: Path) -> Document:
    """Read a SAM template, its short forms (`!Ref`) written out (`{"Ref": ...}`)."""
    try:
        document: Document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (OSError, yaml.YAMLError) as error:
        raise TemplateError(f"{path} cannot be read: {error}") from error
    return document


def parse_overrides(text: str) -> dict[str, str]:
    """Read parameters as `sam deploy --parameter-overrides` does.

    Args:
        text: `Key=Value Key='a b'`, or `ParameterKey=Key,ParameterValue=Value ...`.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TemplateError(f"PARAMETER_OVERRIDES cannot be read: {error}") from None
    overrides = {}
    for word in words:
        long_form = re.fullmatch(r"ParameterKey=(\w+),ParameterValue=(.*)", word, re.DOTALL)
        pair = long_form or re.fullmatch(r"(\w+)=(.*)", word, re.DOTALL)
        if not pair:
            raise TemplateError(f"PARAMETER_OVERRIDES has {word!r} where Key=Value belongs.")
        overrides[pair[1]] = pair[2]
    return overrides


def parameter_values(document: Document, overrides: Mapping[str, str], local: Mapping[str, str]) -> Document:
    """The template's defaults; over them the laptop's own values, where declared; over them the overrides.

    Raises:
        TemplateError: an unknown parameter, one without any value, or a value that its declaration does not allow.
    """
    declared: dict[str, Document] = document.get("Parameters", {})
    if unknown := sorted(set(overrides) - set(declared)):
        raise TemplateError(f"The template has no parameter {', '.join(unknown)}; it has {', '.join(declared)}.")
    values: Document = {}
    for name, rules in declared.items():
        if (given := overrides.get(name, local.get(name, rules.get("Default")))) is None:
            raise TemplateError(f"Parameter {name} has no default: give it a value.")
        value = as_text(given)
        _check(name, value, rules)
        is_list = rules.get("Type", "String").startswith(("List<", "CommaDelimitedList"))
        values[name] = [part.strip() for part in value.split(",")] if is_list else value
    return values


def translate(document: Document, path: Path, parameters: Document) -> Document:
    """Turn SAM into plain CloudFormation. Code keeps its place: `S3Key` is the absolute path of the folder."""
    sources = [document.get("Globals", {}).get("Function", {})]
    sources += [resource.get("Properties", {}) for resource in document.get("Resources", {}).values()]
    for properties in sources:
        for name in ("CodeUri", "ContentUri"):
            if isinstance(place := properties.get(name), str):
                properties[name] = {"Bucket": CODE_BUCKET, "Key": str((path.parent / place).resolve())}
    # Credentials and region of its own, or the translator would look for the user's.
    session = boto3.Session(region_name=REGION, aws_access_key_id="local", aws_secret_access_key="local")
    try:
        translated: Document = Translator({}, Parser(), boto_session=session).translate(document, parameters)
    except InvalidDocumentException as error:
        causes = "; ".join(cause.message for cause in error.causes)
        raise TemplateError(f"{path} is not a valid SAM template: {causes}") from error
    return translated


class Stack:
    """The resources of a translated template. What is referred to is created first, so references say what it became.

    Args:
        create: Makes one resource from its logical id, type and resolved properties, and returns what `Ref` (under
            that key) and `Fn::GetAtt` say of it.
        meaningless: Types of which nothing is made; their logical ids stand for them.
    """

    def __init__(
        self, translated: Document, parameters: Mapping[str, Any], create: Create, meaningless: Container[str] = ()
    ) -> None:
        self._template = translated
        self._parameters = {**PSEUDO_PARAMETERS, **parameters, "AWS::NoValue": _NO_VALUE}
        self._create = create
        self._meaningless = meaningless
        self._created: dict[str, Attributes] = {}
        self._creating: list[str] = []
        self._resources: dict[str, Document] = {
            name: resource for name, resource in translated["Resources"].items() if self._wanted(resource)
        }

    def create(self) -> None:
        """Create every resource whose condition holds."""
        for name in self._resources:
            self.attributes(name)

    def outputs(self) -> dict[str, str]:
        outputs: dict[str, Document] = self._template.get("Outputs", {})
        return {name: as_text(self.resolve(it["Value"])) for name, it in outputs.items() if self._wanted(it)}

    def of_type(self, *types: str) -> Iterator[tuple[str, Document]]:
        """The logical ids and resolved properties of all resources of these types."""
        for name, resource in self._resources.items():
            if resource["Type"] in types:
                yield name, self.resolve(resource.get("Properties", {}))

    def attributes(self, name: str) -> Attributes:
        """What `Ref` and `Fn::GetAtt` say of a resource, which is created if nobody asked before."""
        if name not in self._created:
            if name not in self._resources:
                raise TemplateError(f"{name} is referred to, but is neither a parameter nor a resource.")
            if name in self._creating:
                raise TemplateError(f"Circular references: {' > '.join([*self._creating, name])}.")
            self._creating.append(name)
            kind, properties = self._resources[name]["Type"], self._resources[name].get("Properties", {})
            if kind in self._meaningless:
                self._created[name] = defaultdict(lambda: name)
            else:
                self._created[name] = self._create(name, kind, self.resolve(properties))
            self._creating.pop()
        return self._created[name]

    def resolve(self, value: Any) -> Any:
        """The value with all of its intrinsic functions worked out."""
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1 and ((name := next(iter(value))) in ("Ref", "Condition") or name.startswith("Fn::")):
            if (intrinsic := self._INTRINSICS.get(name)) is None:
                raise TemplateError(f"{name} is not something that the laptop cloud resolves.")
            return intrinsic(self, value[name])
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not _NO_VALUE}

    def _wanted(self, declaration: Document) -> bool:
        return "Condition" not in declaration or self._condition(declaration["Condition"])

    def _condition(self, name: str) -> bool:
        return bool(self.resolve(self._template["Conditions"][name]))

    def _ref(self, name: str) -> Any:
        return self._parameters[name] if name in self._parameters else self.attributes(name)["Ref"]

    def _get_att(self, path: list[str] | str) -> Any:
        name, attribute = path.split(".", 1) if isinstance(path, str) else path
        try:
            return self.attributes(name)[attribute]
        except KeyError:
            raise TemplateError(f"{name} has no attribute {attribute} on a laptop.") from None

    def _sub(self, argument: Any) -> str:
        text, variables = argument if isinstance(argument, list) else (argument, {})

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            if name in variables:
                return as_text(self.resolve(variables[name]))
            return as_text(self._get_att(name) if "." in name else self._ref(name))

        return re.sub(r"\$\{([^}]+)\}", replace, text)

    def _if(self, argument: list[Any]) -> Any:
        condition, true, false = argument
        return self.resolve(true if self._condition(condition) else false)

    def _equals(self, argument: list[Any]) -> bool:
        one, other = self.resolve(argument)
        return as_text(one) == as_text(other)

    def _join(self, argument: list[Any]) -> str:
        separator, parts = self.resolve(argument)
        return str(separator).join(map(as_text, parts))

    def _select(self, argument: list[Any]) -> Any:
        index, choices = self.resolve(argument)
        return choices[int(index)]

    def _split(self, argument: list[Any]) -> list[str]:
        separator, text = self.resolve(argument)
        return str(text).split(separator)

    def _find_in_map(self, argument: list[Any]) -> Any:
        mapping, key, name = self.resolve(argument)
        return self._template["Mappings"][mapping][key][name]

    _INTRINSICS: Mapping[str, Callable[["Stack", Any], Any]] = {
        "Ref": _ref,
        "Condition": _condition,
        "Fn::And": lambda self, argument: all(map(self.resolve, argument)),
        "Fn::Equals": _equals,
        "Fn::FindInMap": _find_in_map,
        "Fn::GetAtt": _get_att,
        "Fn::If": _if,
        "Fn::Join": _join,
        "Fn::Not": lambda self, argument: not self.resolve(argument[0]),
        "Fn::Or": lambda self, argument: any(map(self.resolve, argument)),
        "Fn::Select": _select,
        "Fn::Split": _split,
        "Fn::Sub": _sub,
    }


class _Loader(yaml.SafeLoader):
    """SafeLoader that knows CloudFormation's short forms. A class of its own, so that no other YAML is affected."""

    def intrinsic(self, tag: str, node: yaml.Node) -> Document:
        name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
        if isinstance(node, yaml.ScalarNode):
            text = str(self.construct_scalar(node))
            return {name: text.split(".", 1) if tag == "GetAtt" else text}
        if isinstance(node, yaml.SequenceNode):
            return {name: self.construct_sequence(node, deep=True)}
        return {name: self.construct_mapping(cast("yaml.MappingNode", node), deep=True)}


_Loader.add_multi_constructor("!", _Loader.intrinsic)
# As CloudFormation does, keep a date such as 2012-10-17 as the text that it is.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str)  # type: ignore[type-var]


def _check(name: str, value: str, rules: Document) -> None:
    allowed = [as_text(it) for it in rules.get("AllowedValues", [value])]
    try:
        size = float(value) if rules.get("Type") == "Number" else 0
    except ValueError:
        raise TemplateError(f"Parameter {name}: {value!r} is not a number.") from None
    holds = (
        value in allowed
        and re.fullmatch(rules.get("AllowedPattern", ".*"), value, re.DOTALL)
        and float(rules.get("MinValue", size)) <= size <= float(rules.get("MaxValue", size))
        and int(rules.get("MinLength", 0)) <= len(value) <= int(rules.get("MaxLength", len(value)))
    )
    if not holds:
        why = rules.get("ConstraintDescription") or rules.get("Description", "see the template")
        raise TemplateError(f"Parameter {name}: {value!r} is not allowed ({why}).")


def as_text(value: Any) -> str:
    """A value as CloudFormation hands it on: everything is a string."""
    return str(value).lower() if isinstance(value, bool) else str(value)
