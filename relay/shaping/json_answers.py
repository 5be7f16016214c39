"""`response_format`: an answer that is JSON and nothing else, as the schema says if there is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from relay.errors import BadRequest, UnfitAnswer
from relay.events import Event, Finish, ResponseFormat, Text, ToolCall
from relay.parameters import Parameter, Refused

LARGEST_SCHEMA = 120_000
# References may fan out without end in a small schema.
MOST_REFERENCES = 3000
LONGEST_TOLD = 300

OBJECT = "Answer with one JSON object and nothing else: no words before or after it, no code fence."
SCHEMA = (
    "Answer with JSON and nothing else: no words before or after it, no code fence. "
    "It must be valid against this JSON schema:\n{schema}"
)
AGAIN = "That does not fit: {problem}. Answer again, with the JSON and nothing else."

FENCE = "```"
# After its opening, on the same line, at most this: the name of a language.
LONGEST_LANGUAGE = 30


class JsonOnly:
    """Holds the text until it is whole."""

    is_over = False

    def __init__(self, format: ResponseFormat) -> None:
        self._format = format
        self._said: list[str] = []
        self._has_called = False

    def feed(self, events: list[Event]) -> list[Event]:
        passed: list[Event] = []
        for event in events:
            if isinstance(event, Text):
                self._said.append(event.text)
                continue
            self._has_called = self._has_called or isinstance(event, ToolCall)
            passed.append(event)
        return passed

    def end(self, finish: Finish) -> list[Event]:
        text = "".join(self._said)
        # What was cut short, by whomever, is handed on as it is; so is what is said beside a call.
        if finish.reason == "stop" and not finish.stop and not self._has_called:
            text = fitting(text, self._format)
        return [Text(text), finish] if text else [finish]


def fitting(said: str, format: ResponseFormat) -> str:
    """The JSON in what the bot said, or UnfitAnswer: it may stand in a code fence, or among words."""
    problem = ""
    for text in _candidates(said):
        try:
            value = msgspec.json.decode(text)
        except (ValueError, RecursionError):
            problem = problem or "it is not valid JSON"
            continue
        problem = _problem(value, format)
        if not problem:
            return text
    raise UnfitAnswer(
        "The bot's answer is not the JSON that `response_format` asks for.",
        code="json_answer_invalid",
        param="response_format",
        said=said,
        again=AGAIN.format(problem=problem),
    )


def _candidates(said: str) -> Iterator[str]:
    yield said.strip()
    if (fenced := _fenced(said)) is not None:
        yield fenced
    start, end = said.find("{"), said.rfind("}")
    if 0 <= start < end:
        yield said[start : end + 1]


def _fenced(said: str) -> str | None:
    """What stands in the first code fence. Without a pattern: one would take minutes for what somebody made up."""
    start = said.find(FENCE)
    while start >= 0:
        start += len(FENCE)
        line_end = said.find("\n", start, start + LONGEST_LANGUAGE)
        language = said[start:line_end].strip(" \t")
        if line_end >= 0 and (not language or language.isalpha()):
            end = said.find(FENCE, line_end)
            return said[line_end:end].strip() if end >= 0 else None
        start = said.find(FENCE, start)
    return None


def _problem(value: Any, format: ResponseFormat) -> str:
    """What is wrong with it in a few words; nothing if it fits."""
    if format.schema is None:
        return "" if isinstance(value, dict) else "it is not a JSON object"
    from jsonschema.exceptions import best_match  # type: ignore[import-untyped]
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(_validator(format.schema).iter_errors(value))
    except (Unresolvable, RecursionError, _TooManyReferences):
        return ""  # what cannot be checked is not held against the bot
    return f"at {error.json_path[:LONGEST_TOLD]}: {error.message[:LONGEST_TOLD]}" if error else ""


class _TooManyReferences(Exception):
    pass


def _validator(schema: dict[str, Any]) -> Any:
    """For a schema that a stranger wrote: fetches nothing, runs none of its regular expressions, and comes to an end.

    Imported when it is first needed: 6 MB and a tenth of a second.
    """
    from jsonschema import Draft202012Validator, validators  # type: ignore[import-untyped]
    from referencing import Registry

    followed = 0

    def reference(validator: Any, *args: Any) -> Any:
        nonlocal followed
        followed += 1
        if followed > MOST_REFERENCES:
            raise _TooManyReferences
        return Draft202012Validator.VALIDATORS["$ref"](validator, *args)

    def unchecked(*args: Any) -> tuple[()]:
        return ()

    changed = {"$ref": reference} | dict.fromkeys(
        ("$dynamicRef", "additionalProperties", "pattern", "patternProperties", "unevaluatedProperties"),
        unchecked,
    )
    if "patternProperties" not in str(schema):
        del changed["additionalProperties"], changed["unevaluatedProperties"]
    made = validators.extend(Draft202012Validator, changed)
    return made(schema, registry=Registry())


def check(schema: dict[str, Any]) -> None:
    """Raises BadRequest for what is no JSON schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if len(msgspec.json.encode(schema)) > LARGEST_SCHEMA:
        raise BadRequest(
            f"The schema of `response_format` has more than {LARGEST_SCHEMA} bytes.", param="response_format"
        )
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as exc:
        told = exc.message if isinstance(exc, SchemaError) else "it is nested too deep"
        raise BadRequest(
            f"The schema of `response_format` is no JSON schema: {told[:LONGEST_TOLD]}",
            code="invalid_schema",
            param="response_format",
        ) from None


def words(format: ResponseFormat) -> str:
    if format.schema is None:
        return OBJECT
    return SCHEMA.format(schema=msgspec.json.encode(format.schema).decode())


def parameter(format: ResponseFormat, declared: Iterable[Parameter]) -> dict[str, Any] | None:
    """The bot's own parameter for it, if it declares one that takes this."""
    by_key = {each.key: each for each in declared}
    for key, value in _spellings(format):
        found = by_key.get(key)
        if found is None:
            continue
        try:
            return {found.name: found.take(value)}
        except Refused:
            continue
    return None


def _spellings(format: ResponseFormat) -> list[tuple[str, Any]]:
    if format.schema is None:
        return [("response_format", {"type": "json_object"}), ("response_format", "json_object")]
    named = {"name": format.name or "answer", "schema": format.schema, "strict": format.strict}
    return [
        ("response_format", {"type": "json_schema", "json_schema": named}),
        ("json_schema", format.schema),
        ("response_schema", format.schema),
    ]
