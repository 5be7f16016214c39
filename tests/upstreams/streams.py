"""Recorded answers of bots, byte for byte, as fastapi-poe's server writes them and as other servers might."""

from __future__ import annotations

from .scripted import DONE, event, text

META = event("meta", {"content_type": "text/markdown", "linkify": True, "suggested_replies": False})


def _tool_chunk(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    return event("json", {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


TOOL_CALL = b"".join(
    [
        _tool_chunk(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
                ],
            }
        ),
        _tool_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1, '}}]}),
        _tool_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"b": 2}'}}]}),
        _tool_chunk(
            {
                "tool_calls": [
                    {
                        "index": 1,
                        "id": "c2",
                        "type": "function",
                        "function": {"name": "sub", "arguments": "{}"},
                    }
                ]
            }
        ),
        _tool_chunk({}, "tool_calls"),
        event("json", {"choices": [], "usage": {"total_tokens": 7}}),
    ]
)

FILE = event(
    "file",
    {
        "url": "https://pfst.example/cat.png",
        "content_type": "image/png",
        "name": "cat.png",
        "inline_ref": "ab12",
    },
)

# Answers that both clients must read alike, by name.
STREAMS: dict[str, bytes] = {
    "text": META + text("Hello") + text(", ") + text("wörld 你好 🎉") + DONE,
    "one read, many events": b"".join(text(f"{number} ") for number in range(50)) + DONE,
    "replaced": text("Thinking...") + event("replace_response", {"text": "42"}) + text(" it is") + DONE,
    "replaced by nothing": text("Thinking...") + event("replace_response", {"text": ""}) + DONE,
    "file before its text": FILE + text("![cat][ab12]") + DONE,
    "file without inline_ref": event("file", {"url": "u", "content_type": "c", "name": "n"})
    + text("x")
    + DONE,
    "tool calls": TOOL_CALL + DONE,
    "suggested replies": text("yes") + event("suggested_reply", {"text": "Why?"}) + DONE,
    "comments": b": ping - 2024\r\n\r\n" + text("a") + b":\r\n\r\n" + text("b") + DONE,
    "named ping": event("ping", {}) + text("a") + DONE,
    "unknown event": event("sparkle", {"n": 1}) + text("a") + DONE,
    "data event": text("a") + event("data", {"metadata": "{}"}) + DONE,
    "no done": text("a") + text("b"),
    "cut at the end of a line": text("a") + b'event: text\r\ndata: {"text": "never"}\r\n',
    "cut within a line": text("a") + b'event: text\r\ndata: {"te',
    "LF": (text("a\nb") + text("c") + DONE).replace(b"\r\n", b"\n"),
    "CR": (text("a") + text("c") + DONE).replace(b"\r\n", b"\r"),
    "no space after the colon": b'event:text\ndata:{"text":"a"}\n\nevent:done\ndata:{}\n\n',
    "data in many lines": b'event: text\ndata: {"text":\ndata: "a"\ndata: }\n\n' + DONE,
    "data before event": b'data: {"text": "a"}\nevent: text\n\n' + DONE,
    "after done": text("a") + DONE + text("never"),
    "first of many answers": event("text", {"text": "a", "index": 0}) + text("b") + DONE,
    "error at once": event("error", {"text": "Internal server error", "allow_retry": True}),
    "error later": text("a") + event("error", {"text": "gone", "allow_retry": False}),
    "out of points": event("error", {"text": "", "error_type": "insufficient_fund", "allow_retry": False}),
    "bad JSON in text": text("a") + b'event: text\ndata: {"text": "b\n\n' + DONE,
    "no text in text": event("text", {"words": "b"}) + DONE,
    "a number for text": event("text", {"text": 1}) + DONE,
    "a list for text": event("text", ["b"]) + DONE,
    "bad JSON in replace": b"event: replace_response\ndata: {\n\n" + DONE,
    "no url in file": event("file", {"content_type": "c", "name": "n"}) + DONE,
    "bad JSON in json": b"event: json\ndata: {\n\n" + DONE,
    "bad JSON in error": b"event: error\ndata: {\n\n" + DONE,
    "long text": text("x" * 100_000) + DONE,
    "escapes": b'event: text\ndata: {"text": "\\u00e9\\ud83c\\udf89\\n\\"\\\\"}\n\n' + DONE,
    "OpenAI content": _tool_chunk({"content": "never shown by either"}) + text("a") + DONE,
}

BAD_UTF8 = text("a") + b'event: text\ndata: {"text": "\xff\xfe"}\n\n' + DONE
HALF_EMOJI = b'event: text\ndata: {"text": "ok \\ud83c"}\n\n' + DONE
WITH_MARK = b"\xef\xbb\xbf" + text("a") + DONE
