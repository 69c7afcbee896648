"""docs/openapi.yaml, and whether an answer is one that it describes."""

import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

Document = dict[str, Any]

PATH = Path(__file__).parents[1] / "docs/openapi.yaml"
METHODS = ("get", "post", "put", "patch", "delete", "head", "options", "trace")
PROBLEM = "application/problem+json"
_NOT_HERE: Document = {"content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


class Answer(Protocol):
    """What came back: the headers' names are in lower case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def json(self) -> Any: ...


class Description:
    """The description of the API.

    Attributes:
        document: As it is written, with its references.
        operations: By route, such as `GET /reversals/{transaction_reference}`.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.operations: dict[str, Document] = {
            f"{method.upper()} {path}": {**operation, "parameters": item.get("parameters", []) + _own(operation)}
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def resolve(self, part: Any) -> Any:
        """What a part says or refers to."""
        while isinstance(part, dict) and set(part) == {"$ref"}:
            found = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return part

    def responses(self, route: str) -> dict[int, Document]:
        return {int(status): self.resolve(it) for status, it in self.operations[route]["responses"].items()}

    def parameter(self, route: str, name: str) -> Document:
        parameters = map(self.resolve, self.operations[route]["parameters"])
        schema: Document = self.resolve(next(it for it in parameters if it["name"] == name)["schema"])
        return schema

    def errors(self, value: Any, schema: Mapping[str, Any]) -> list[str]:
        """What of a value is not as a schema of the document has it."""
        return [f"{error.json_path}: {error.message}"[:500] for error in self._validator(schema).iter_errors(value)]

    def route(self, method: str, path: str) -> str | None:
        """The route that takes a request; None if it is described nowhere."""
        for template, pattern in self._paths.items():
            if pattern.fullmatch(path) and f"{method} {template}" in self.operations:
                return f"{method} {template}"
        return None

    def violations(self, method: str, path: str, answer: Answer) -> Iterator[str]:
        """What of an answer is not as it is described."""
        route = self.route(method, path)
        media_type = answer.headers.get("content-type", "")
        if route is None:
            yield from self._not_here(path, answer)
            described = _NOT_HERE
        elif answer.status not in self.responses(route):
            yield f"{route} answered {answer.status}, which is not described"
            return
        else:
            described = self.responses(route)[answer.status]
            yield from self._header_errors(described.get("headers", {}), answer)
        if media_type not in described["content"]:
            yield f"{method} {path} answered {answer.status} with the Content-Type {media_type!r}"
            return
        yield from self.errors(answer.json, described["content"][media_type]["schema"])
        if media_type == PROBLEM and answer.json["status"] != answer.status:
            yield f"{answer.status} is told as {answer.json['status']}"

    def _not_here(self, path: str, answer: Answer) -> Iterator[str]:
        """A path that is not described is 404; another method than those described is 405, and says which are."""
        paths = {template for template, pattern in self._paths.items() if pattern.fullmatch(path)}
        methods = sorted(method for method, template in map(str.split, self.operations) if template in paths)
        allowed = ", ".join(methods) or None
        if (answer.status, answer.headers.get("allow")) != (405 if methods else 404, allowed):
            yield f"{path}, which takes {allowed}, answered {answer.status}, Allow: {answer.headers.get('allow')}"

    def _header_errors(self, described: Mapping[str, Any], answer: Answer) -> Iterator[str]:
        known = {name.lower(): self.resolve(header) for name, header in described.items()}
        for name in sorted({*known, *answer.headers} - {"content-type"}):
            if name not in known:
                yield f"{answer.status} has the header {name}, which is not described"
            elif name in answer.headers:
                yield from self.errors(answer.headers[name], known[name]["schema"])
            elif known[name].get("required"):
                yield f"{answer.status} lacks the header {name}"

    def _validator(self, schema: Mapping[str, Any]) -> Any:
        # Kept by identity: every schema is a part of the document, which stays.
        if id(schema) not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[id(schema)] = schema, Draft202012Validator(whole)
        return self._validators[id(schema)][1]

    @cached_property
    def _validators(self) -> dict[int, tuple[Any, Any]]:
        return {}

    @cached_property
    def _paths(self) -> dict[str, re.Pattern[str]]:
        """Each path's pattern, those without parameters first."""
        templates = sorted(self.document["paths"], key=lambda template: template.count("{"))
        return {template: re.compile(re.sub(r"\{\w+\}", "[^/]+", template)) for template in templates}


def _own(operation: Document) -> list[Document]:
    parameters: list[Document] = operation.get("parameters", [])
    return parameters


@cache
def description() -> Description:
    return Description(yaml.safe_load(PATH.read_text(encoding="utf-8")))
