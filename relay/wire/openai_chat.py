"""OpenAI's chat completions: body -> ChatRequest, events -> chunks or one object, RelayError -> error object."""

from __future__ import annotations

import binascii
import re
import time
import uuid
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from relay.errors import BadRequest, BudgetExceeded, RateLimited, RelayError
from relay.events import (
    Attachment,
    ChatRequest,
    Event,
    FilePart,
    Finish,
    Message,
    Part,
    Reasoning,
    Replace,
    Role,
    Text,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from relay.wire import sse

NAME = "openai-chat"

# The body, as far as it is validated in one pass. What is not named here is a parameter of the bot or ignored.


class ImageUrl(Struct):
    url: str
    detail: str | None = None


class File(Struct):
    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class ContentPart(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file: File | None = None


class FunctionCall(Struct):
    name: str
    arguments: str = "{}"


class Function(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    """Checked, and handed on as the client wrote it."""

    function: Function


class ToolCallBody(Struct):
    function: FunctionCall
    id: str = ""
    type: str = "function"


class MessageBody(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None


class StreamOptions(Struct):
    include_usage: bool = False


class ChatBody(Struct):
    model: str
    messages: list[MessageBody]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    extra_body: dict[str, Any] | UnsetType | None = UNSET


# OpenAI's own parameters that hardly a Poe bot can be told: sent to one that declares them, else named in
# `x-poe-relay-ignored`.
RARE = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logprobs",
        "modalities",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "tool_choice",
        "top_logprobs",
        "top_p",
        "verbosity",
        "web_search_options",
    }
)
# Accepted in silence: they ask for nothing that the answer could lack.
SILENT = frozenset({"metadata", "n", "store", "stream", "stream_options", "user"})
KNOWN = SILENT | frozenset(ChatBody.__struct_fields__)
MAX_MESSAGES = 2000
MAX_MODEL_LENGTH = 200
MAX_DEPTH = 64
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PATH = re.compile(r" - at `\$(?:\.?)([^`]*)`$")


def parse(raw: bytes) -> ChatRequest:
    """The request in this body, or BadRequest naming the parameter."""
    body = decode(raw)
    try:
        chat = msgspec.convert(body, ChatBody)
    except msgspec.ValidationError as exc:
        raise _invalid(str(exc)) from None
    if not chat.model.strip():
        raise BadRequest("`model` is empty.", param="model")
    if len(chat.model.strip()) > MAX_MODEL_LENGTH:
        raise BadRequest(f"`model` is longer than {MAX_MODEL_LENGTH} characters.", param="model")
    if not chat.messages:
        raise BadRequest("`messages` is empty: send at least one.", param="messages")
    if len(chat.messages) > MAX_MESSAGES:
        raise BadRequest(f"`messages` holds {len(chat.messages)}: at most {MAX_MESSAGES}.", param="messages")
    if chat.n not in (None, 1):
        raise BadRequest("`n` must be 1: a Poe bot answers once.", code="unsupported_value", param="n")
    parameters, rare, ignored = _parameters(body, chat)
    return ChatRequest(
        model=chat.model.strip(),
        messages=_messages(chat.messages),
        stream=bool(chat.stream),
        include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
        max_tokens=_max_tokens(chat),
        temperature=_temperature(chat.temperature),
        stop=_stop(chat.stop),
        logit_bias=chat.logit_bias or {},
        tools=tuple(body.get("tools") or ()) if chat.tool_choice != "none" else (),
        tool_choice=chat.tool_choice,
        parameters=parameters,
        rare=rare,
        ignored=ignored,
    )


def decode(raw: bytes) -> dict[str, Any]:
    """A JSON object, or BadRequest. Strict: UTF-8, no NaN or Infinity, no NUL or lone surrogate, at most 64 deep."""
    if not raw.strip():
        raise BadRequest("The body is empty: send a JSON object.", code="invalid_json")
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        hint = " (half a surrogate pair?)" if _SURROGATE.search(raw) else ""
        raise BadRequest(f"The body is not valid JSON: {exc}{hint}", code="invalid_json") from None
    except RecursionError:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    if b"\\u" in raw or b"\x00" in raw:
        _refuse_unstorable(body)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH}.", code="invalid_json")
    return body


def _refuse_unstorable(value: Any, path: str = "") -> None:
    """NUL and lone surrogates are legal in JSON, but no database and no bot takes them."""
    stack = [(path, value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, str) and _FORBIDDEN.search(item):
            raise BadRequest(
                f"{f'`{where[:200]}`' if where else 'The body'} holds a NUL character or half a surrogate pair.",
                code="invalid_string",
                param=where[:200] or None,
            )
        if isinstance(item, dict):
            for key, inner in item.items():
                stack += [(f"{where}.{key}" if where else str(key), inner), (where, key)]
        elif isinstance(item, list):
            stack += [(f"{where}[{i}]", inner) for i, inner in enumerate(item)]


def _depth(body: Any) -> int:
    depth, level = 0, [body]
    while level and depth <= MAX_DEPTH:
        depth += 1
        inner = [v for item in level for v in (item.values() if isinstance(item, dict) else item)]
        level = [item for item in inner if isinstance(item, (dict, list))]
    return depth


def _invalid(message: str) -> BadRequest:
    """msgspec says "Expected `str`, got `int` - at `$.messages[0].content`"."""
    found = _PATH.search(message)
    param = found.group(1).strip(".") if found else None
    missing = re.match(r"Object missing required field `([^`]+)`", message)
    if missing:
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return BadRequest(
            f"Missing required parameter: `{param}`.", code="missing_required_parameter", param=param
        )
    text = (message[: found.start()] if found else message)[:300]
    return BadRequest(
        f"Invalid `{param}`: {text}." if param else f"Invalid body: {text}.", code="invalid_type", param=param
    )


def _parameters(
    body: dict[str, Any], chat: ChatBody
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The bot's parameters by name, those that hardly a bot takes, and the names of what is not honoured."""
    extra = {name: value for name, value in body.items() if name not in KNOWN and value is not None}
    rare = {name: value for name, value in extra.items() if name in RARE}
    ignored = sorted({*rare, *_ignored_fields(chat)})
    parameters = {name: value for name, value in extra.items() if name not in rare}
    if isinstance(chat.extra_body, dict):
        parameters |= chat.extra_body
    return parameters, rare, tuple(ignored)


def _ignored_fields(chat: ChatBody) -> list[str]:
    return ["tool_choice"] if chat.tool_choice not in (None, "auto", "none") else []


def _max_tokens(chat: ChatBody) -> int | None:
    name = "max_completion_tokens" if chat.max_completion_tokens is not None else "max_tokens"
    value: int | None = getattr(chat, name)
    if value is not None and value < 1:
        raise BadRequest(f"`{name}` must be at least 1.", param=name)
    return value


def _temperature(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 2:
        raise BadRequest("`temperature` must be between 0 and 2.", param="temperature")
    return value


def _stop(value: str | list[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = (value,) if isinstance(value, str) else tuple(value)
    return tuple(stop for stop in stops if stop)


# Messages.

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def _messages(bodies: list[MessageBody]) -> tuple[Message, ...]:
    names: dict[str, str] = {}
    messages = []
    for i, body in enumerate(bodies):
        where = f"messages[{i}]"
        parts: list[Part] = list(_content(body, where))
        if body.role in ("tool", "function"):
            parts = [_tool_result(body, parts, names, where)]
        for call in body.tool_calls or ():
            names[call.id] = call.function.name
            parts.append(ToolCallPart(call.id, call.function.name, call.function.arguments))
        messages.append(Message(ROLES[body.role], tuple(parts), body.name or ""))
    return tuple(messages)


def _tool_result(body: MessageBody, parts: list[Part], names: dict[str, str], where: str) -> ToolResultPart:
    """OpenAI's tool messages name the call, Poe's also the function: filled in from the call."""
    call_id = body.tool_call_id or body.name or ""
    if not call_id:
        raise BadRequest(
            f"Missing required parameter: `{where}.tool_call_id`.",
            code="missing_required_parameter",
            param=f"{where}.tool_call_id",
        )
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    return ToolResultPart(call_id, body.name or names.get(call_id, "tool"), text)


def _content(body: MessageBody, where: str) -> list[Part]:
    if body.content is None:
        return []
    if isinstance(body.content, str):
        return [TextPart(body.content)]
    return [_part(part, f"{where}.content[{i}]") for i, part in enumerate(body.content)]


def _part(part: ContentPart, where: str) -> Part:
    match part.type:
        case "text" | "input_text" | "output_text":
            return TextPart(part.text or "")
        case "refusal":
            return TextPart(part.refusal or "")
        case "image_url" | "input_image":
            url = part.image_url if isinstance(part.image_url, str) else part.image_url and part.image_url.url
            return _file_from_url(url or "", "image", f"{where}.image_url.url")
        case "file":
            return _file(part.file, where)
        case _:
            raise BadRequest(
                f"`{where}.type` is {part.type[:50]!r}: text, image_url and file are understood.",
                code="unsupported_content",
                param=f"{where}.type",
            )


def _file(file: File | None, where: str) -> FilePart:
    if file is None or not file.file_data:
        raise BadRequest(
            f"`{where}.file.file_data` is missing: send the file as a data URL.",
            code="missing_required_parameter",
            param=f"{where}.file.file_data",
        )
    part = _file_from_url(file.file_data, "file", f"{where}.file.file_data")
    return FilePart(file.filename or part.name, part.content_type, part.url, part.data)


EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "application/pdf": "pdf",
    "text/plain": "txt",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "video/mp4": "mp4",
}
BY_EXTENSION = {extension: kind for kind, extension in EXTENSIONS.items()} | {"jpeg": "image/jpeg"}


def _file_from_url(url: str, stem: str, where: str) -> FilePart:
    """A data URL's bytes, or a URL that is handed on to the bot and never fetched, nor looked up, here.

    What Poe fetches is Poe's to say. It may be http: the demo server serves its files so, and clients send them back.
    """
    if url.startswith("data:"):
        comma = url.find(",")
        head = url[5:comma] if comma > 0 else ""
        content_type = head.split(";")[0].strip().lower() or "text/plain"
        if not head.endswith(";base64"):
            raise BadRequest(f"`{where}` must be a base64 data URL.", code="invalid_data_url", param=where)
        try:
            # Copied once: it may have 50 MB. base64.b64decode copies it once more.
            content = binascii.a2b_base64(url[comma + 1 :], strict_mode=True)
        except ValueError:
            raise BadRequest(
                f"`{where}` is not valid base64.", code="invalid_data_url", param=where
            ) from None
        return FilePart(f"{stem}.{EXTENSIONS.get(content_type, 'bin')}", content_type, data=content)
    if len(url) > 8192 or not re.fullmatch(r"https?://[^/\s]+(/[^\x00-\x1f\x7f]*)?", url):
        raise BadRequest(f"`{where}` must be an https or a data URL.", code="invalid_url", param=where)
    name = url.split("?")[0].rsplit("/", 1)[-1] or stem
    fallback = "image/png" if stem == "image" else "application/octet-stream"
    return FilePart(name[:100], BY_EXTENSION.get(name.rsplit(".", 1)[-1].lower(), fallback), url=url)


# Errors.


def error(exc: RelayError) -> dict[str, Any]:
    return {"error": {"message": exc.message, "type": error_type(exc), "param": exc.param, "code": exc.code}}


def error_type(exc: RelayError) -> str:
    """OpenAI's own types; what is peculiar to us is in the code."""
    if isinstance(exc, BudgetExceeded):
        return "insufficient_quota"
    if exc.status == 429:
        return "tokens" if isinstance(exc, RateLimited) and exc.limit == "tokens_per_minute" else "requests"
    return "invalid_request_error" if exc.status < 500 else "server_error"


# Answers.


def new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "poe"}


def usage(counted: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": counted.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def attachment_markdown(attachment: Attachment) -> str:
    """A file that the bot's own text does not show."""
    mark = "!" if attachment.content_type.startswith("image/") else ""
    name = attachment.name.replace("[", "(").replace("]", ")")
    return f"{mark}[{name}]({attachment.url})"


def collect(events: list[Event], *, model: str, counted: Usage) -> dict[str, Any]:
    """The whole answer as one object."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    reason = "stop"
    for event in events:
        match event:
            case Text(text):
                content.append(text)
            case Reasoning(text):
                reasoning.append(text)
            case Attachment(inline_ref=None):
                content.append(("\n\n" if content else "") + attachment_markdown(event))
            case ToolCall(index, id_, name, arguments):
                call = calls.setdefault(
                    index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                )
                call["id"] = call["id"] or id_
                call["function"]["name"] += name
                call["function"]["arguments"] += arguments
            case Finish(said):
                reason = said
            case Attachment() | Replace():
                pass
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(content) or (None if calls else ""),
        "refusal": None,
    }
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return {
        "id": new_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": usage(counted),
    }


_escape = msgspec.json.Encoder().encode


class Encoder:
    """Events -> server-sent chunks. The JSON around a text is rendered once; only the text is escaped per event."""

    def __init__(self, *, model: str, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            _escape(new_id()),
            int(time.time()),
            _escape(model),
        )
        # With usage asked for, every chunk carries the field, and only the last one a value.
        tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._choice = self._head + b'"choices":[{"index":0,"delta":'
        self._open = b',"logprobs":null,"finish_reason":null}' + tail
        self._tail = b"}" + tail
        self._text = self._choice + b'{"content":'
        self._reasoning = self._choice + b'{"reasoning_content":'
        self._close = b"}" + self._open
        self._between_texts = self._close + self._text
        self._said = False

    def start(self) -> bytes:
        return self._choice + b'{"role":"assistant","content":"","refusal":null}' + self._open

    def encode_all(self, events: list[Event]) -> bytes:
        """What arrived together, each event in a chunk of its own."""
        texts = [event.text for event in events if isinstance(event, Text)]
        if texts and len(texts) == len(events):
            self._said = True
            return self._text + self._between_texts.join(map(_escape, texts)) + self._close
        return b"".join(map(self.encode, events))

    def encode(self, event: Event) -> bytes:
        match event:
            case Text(text):
                self._said = True
                return self._text + _escape(text) + self._close
            case Reasoning(text):
                return self._reasoning + _escape(text) + self._close
            case ToolCall():
                return self._choice + _escape({"tool_calls": [_call_delta(event)]}) + self._open
            case Attachment(inline_ref=None):
                gap = "\n\n" if self._said else ""
                self._said = True
                return self._text + _escape(gap + attachment_markdown(event)) + self._close
            case Finish(reason):
                return self._choice + b'{},"logprobs":null,"finish_reason":' + _escape(reason) + self._tail
            case Attachment() | Replace():
                return b""

    def end(self, counted: Usage) -> bytes:
        if not self._include_usage:
            return sse.DONE
        return self._head + b'"choices":[],"usage":' + _escape(usage(counted)) + b"}\n\n" + sse.DONE

    def fail(self, exc: RelayError) -> bytes:
        return sse.data(_escape(error(exc))) + sse.DONE


def _call_delta(call: ToolCall) -> dict[str, Any]:
    delta: dict[str, Any] = {"index": call.index, "function": {"arguments": call.arguments}}
    if call.id or call.name:
        delta = {"index": call.index, "id": call.id, "type": "function"}
        delta["function"] = {"name": call.name, "arguments": call.arguments}
    return delta
