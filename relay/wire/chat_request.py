"""The body of OpenAI's chat completions -> ChatRequest."""

from __future__ import annotations

from typing import Any, Literal, cast

from msgspec import UNSET, Struct, UnsetType

from relay.errors import BadRequest
from relay.events import (
    ChatRequest,
    FilePart,
    Message,
    Part,
    ResponseFormat,
    Role,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from relay.wire import openai_functions
from relay.wire.body import check_count, convert, decode, model_name
from relay.wire.files import from_base64, from_url, kept
from relay.wire.openai_functions import FunctionName

# The body, as far as it is validated in one pass. What is not named here is a parameter of the bot or ignored.


class ImageUrl(Struct):
    url: str
    detail: str | None = None


class File(Struct):
    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class InputAudio(Struct):
    data: str
    format: str


class ContentPart(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file: File | None = None
    input_audio: InputAudio | None = None


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
    function_call: FunctionCall | None = None


class StreamOptions(Struct):
    include_usage: bool = False


class JsonSchema(Struct):
    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class Format(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


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
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None
    function_call: str | FunctionName | None = None
    response_format: Format | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    extra_body: dict[str, Any] | UnsetType | None = UNSET


# OpenAI's own parameters that hardly a Poe bot can be told: sent to one that declares them, else named in
# `x-poe-relay-ignored`.
RARE = frozenset(
    {
        "audio",
        "frequency_penalty",
        "modalities",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "seed",
        "service_tier",
        "top_p",
        "verbosity",
        "web_search_options",
    }
)
MOST_STOPS = 4
# Accepted in silence: they ask for nothing that the answer could lack.
SILENT = frozenset({"metadata", "n", "store", "stream", "stream_options", "user"})
KNOWN = SILENT | frozenset(ChatBody.__struct_fields__)


def parse(raw: bytes) -> ChatRequest:
    """The request in this body, or BadRequest naming the parameter."""
    body = decode(raw)
    chat = convert(body, ChatBody)
    model = model_name(chat.model)
    check_count("messages", len(chat.messages))
    if chat.n not in (None, 1):
        raise BadRequest("`n` must be 1: a Poe bot answers once.", code="unsupported_value", param="n")
    _refuse_logprobs(chat)
    tools, tool_choice, calls_functions = _callable(body, chat)
    parameters, rare, ignored = _parameters(body, chat)
    shows_images = _wants_images(rare.get("modalities"))
    if shows_images:
        ignored = tuple(name for name in ignored if name != "modalities")
    return ChatRequest(
        model=model,
        messages=_messages(chat.messages),
        stream=bool(chat.stream),
        include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
        max_tokens=_max_tokens(chat),
        temperature=temperature_of(chat.temperature),
        stop=stops_of(chat.stop),
        logit_bias=chat.logit_bias or {},
        tools=tools,
        tool_choice=tool_choice,
        # A function's call has room for one.
        parallel_tool_calls=chat.parallel_tool_calls is not False and not calls_functions,
        calls_functions=calls_functions,
        shows_images=shows_images,
        response_format=_response_format(chat.response_format),
        parameters=parameters,
        rare=rare,
        ignored=ignored,
    )


def _parameters(
    body: dict[str, Any], chat: ChatBody
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The bot's parameters by name, those that hardly a bot takes, and the names of what is not honoured."""
    extra = {name: value for name, value in body.items() if name not in KNOWN and value is not None}
    rare = {name: value for name, value in extra.items() if name in RARE}
    parameters = {name: value for name, value in extra.items() if name not in rare}
    if isinstance(chat.extra_body, dict):
        parameters |= chat.extra_body
    return parameters, rare, tuple(sorted(rare))


def _wants_images(modalities: Any) -> bool:
    """And nothing that no bot can be told to give, such as speech."""
    return modalities in (["image"], ["image", "text"], ["text", "image"])


def _refuse_logprobs(chat: ChatBody) -> None:
    for name in ("logprobs", "top_logprobs"):
        if getattr(chat, name):
            raise BadRequest(
                f"`{name}`: no Poe bot tells how probable its words are.",
                code="unsupported_parameter",
                param=name,
            )


def _callable(body: dict[str, Any], chat: ChatBody) -> tuple[tuple[dict[str, Any], ...], ToolChoice, bool]:
    """The tools, what is wanted of them, and whether the client has them for functions, as of old."""
    if not chat.functions and chat.function_call is None:
        return _tools(body.get("tools") or [], chat.tool_choice), _tool_choice(chat.tool_choice), False
    if chat.tools or chat.tool_choice is not None:
        raise BadRequest(
            "`functions` and `function_call` are the older form of `tools` and `tool_choice`: send one of the two.",
            param="functions" if chat.functions else "function_call",
        )
    functions = body.get("functions") or []
    said = chat.function_call
    return openai_functions.tools(functions, said), openai_functions.choice(functions, said), True


def _tools(tools: list[dict[str, Any]], said: str | dict[str, Any] | None) -> tuple[dict[str, Any], ...]:
    """Those that may be called: `tool_choice` may name some of them."""
    if said == "none":
        return ()
    if not isinstance(said, dict) or said.get("type") != "allowed_tools":
        return tuple(tools)
    names = {_function_name(each) for each in _allowed(said)["tools"]}
    return tuple(tool for tool in tools if _function_name(tool) in names)


def _allowed(said: dict[str, Any]) -> dict[str, Any]:
    allowed = said.get("allowed_tools")
    if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list):
        raise BadRequest(
            "`tool_choice.allowed_tools` must be an object with a list of `tools`.",
            param="tool_choice.allowed_tools",
        )
    return allowed


def _function_name(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _tool_choice(said: str | dict[str, Any] | None) -> ToolChoice:
    """Or BadRequest: a word that OpenAI has, or `{"type": "function", "function": {"name": ...}}`."""
    if isinstance(said, dict) and said.get("type") == "allowed_tools":
        mode = _allowed(said).get("mode", "auto")
        said = mode if isinstance(mode, str) else ""
    if said is None:
        return ToolChoice()
    if isinstance(said, str):
        if said not in ("auto", "none", "required"):
            raise BadRequest(
                f"`tool_choice` is {said[:50]!r}: auto, none, required or a function is understood.",
                param="tool_choice",
            )
        return ToolChoice(cast(Literal["auto", "none", "required"], said))
    name = _function_name(said)
    if not name or said.get("type", "function") != "function":
        raise BadRequest("`tool_choice` must name a function.", param="tool_choice")
    return ToolChoice("named", name)


def _response_format(said: Format | None) -> ResponseFormat | None:
    if said is None or said.type == "text":
        return None
    if said.type == "json_object":
        return ResponseFormat()
    if said.json_schema is None or said.json_schema.schema is None:
        raise BadRequest(
            "Missing required parameter: `response_format.json_schema.schema`.",
            code="missing_required_parameter",
            param="response_format.json_schema.schema",
        )
    schema = said.json_schema
    return ResponseFormat(schema.schema, schema.name, bool(schema.strict))


def _max_tokens(chat: ChatBody) -> int | None:
    name = "max_completion_tokens" if chat.max_completion_tokens is not None else "max_tokens"
    value: int | None = getattr(chat, name)
    if value is not None and value < 1:
        raise BadRequest(f"`{name}` must be at least 1.", param=name)
    return value


def temperature_of(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 2:
        raise BadRequest("`temperature` must be between 0 and 2.", param="temperature")
    return value


def stops_of(value: str | list[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = (value,) if isinstance(value, str) else tuple(value)
    if len(stops) > MOST_STOPS:
        raise BadRequest(f"`stop` holds {len(stops)} sequences: at most {MOST_STOPS}.", param="stop")
    return tuple(stop for stop in stops if stop)


# Messages.

AUDIO = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/opus",
    "ogg": "audio/ogg",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "webm": "audio/webm",
}
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
    # Functions have no ids: what one says belongs to its last call.
    called: dict[str, str] = {}
    messages = []
    for i, body in enumerate(bodies):
        where = f"messages[{i}]"
        parts: list[Part] = list(_content(body, where))
        if body.role in ("tool", "function"):
            files = [part for part in parts if isinstance(part, FilePart)]
            parts = [_tool_result(body, parts, names, called, where), *files]
        for call in body.tool_calls or ():
            names[call.id] = call.function.name
            parts.append(ToolCallPart(call.id, call.function.name, call.function.arguments))
        if body.function_call:
            name = body.function_call.name
            called[name] = f"call_{i}"
            parts.append(ToolCallPart(called[name], name, body.function_call.arguments))
        messages.append(Message(ROLES[body.role], tuple(parts), body.name or ""))
    return tuple(messages)


def _tool_result(
    body: MessageBody, parts: list[Part], names: dict[str, str], called: dict[str, str], where: str
) -> ToolResultPart:
    """OpenAI's tool messages name the call, Poe's also the function: filled in from the call."""
    name = body.name or ""
    call_id = body.tool_call_id or called.get(name, name)
    if not call_id:
        raise BadRequest(
            f"Missing required parameter: `{where}.tool_call_id`.",
            code="missing_required_parameter",
            param=f"{where}.tool_call_id",
        )
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    return ToolResultPart(call_id, name or names.get(call_id, "tool"), text)


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
            return from_url(url or "", "image", f"{where}.image_url.url")
        case "file":
            return _file(part.file, where)
        case "input_audio":
            return _audio(part.input_audio, where)
        case _:
            raise BadRequest(
                f"`{where}.type` is {part.type[:50]!r}: text, image_url, file and input_audio are understood.",
                code="unsupported_content",
                param=f"{where}.type",
            )


def _file(file: File | None, where: str) -> FilePart:
    if file is not None and file.file_id:
        return kept(file.file_id, f"{where}.file.file_id")
    if file is None or not file.file_data:
        raise BadRequest(
            f"`{where}.file.file_data` is missing: send the file as a data URL, or a `file_id` of /v1/files.",
            code="missing_required_parameter",
            param=f"{where}.file.file_data",
        )
    part = from_url(file.file_data, "file", f"{where}.file.file_data")
    return FilePart(file.filename or part.name, part.content_type, part.url, part.data)


def _audio(audio: InputAudio | None, where: str) -> FilePart:
    where = f"{where}.input_audio"
    if audio is None:
        raise BadRequest(
            f"Missing required parameter: `{where}`.", code="missing_required_parameter", param=where
        )
    kind = AUDIO.get(audio.format.lower())
    if kind is None:
        raise BadRequest(
            f"`{where}.format` is {audio.format[:50]!r}: {', '.join(AUDIO)} are understood.",
            param=f"{where}.format",
        )
    return FilePart(f"audio.{audio.format.lower()}", kind, data=from_base64(audio.data, f"{where}.data"))
