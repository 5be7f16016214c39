"""Each demo bot, read by fastapi-poe's own client."""

from __future__ import annotations

import json
import struct
import time
import zlib
from typing import Any

import fastapi_poe
import httpx
import pytest
from fastapi_poe.types import ToolDefinition, ToolResultDefinition

from relay.demo.app import make
from relay.demo.bots import BOTS
from tests.demo.asking import Poe, final_text, query

pytestmark = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecatedSince20"
)  # fastapi-poe's own

WEATHER = ToolDefinition.model_validate(
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "integer", "minimum": 2},
                    "hourly": {"type": "boolean"},
                    "where": {"type": "array", "items": {"type": "string"}},
                    "place": {"type": "object", "properties": {"name": {"type": ["null", "string"]}}},
                    "mood": {"type": "string"},
                },
                "required": ["city", "unit", "days", "hourly", "where", "place"],
            },
        },
    }
)
CLOCK = ToolDefinition.model_validate(
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "The time.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
)


def calls_in(answer: list[fastapi_poe.PartialResponse]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for said in answer:
        assert said.data is not None
        for piece in said.data["choices"][0]["delta"].get("tool_calls", []):
            call = calls.setdefault(piece["index"], {"id": piece.get("id"), "name": "", "arguments": ""})
            call["name"] += piece["function"].get("name", "")
            call["arguments"] += piece["function"]["arguments"]
    return [calls[index] for index in sorted(calls)]


def test_it_offers_exactly_these_bots() -> None:
    assert sorted(BOTS) == [
        "Demo-Echo",
        "Demo-Faulty",
        "Demo-Filmer",
        "Demo-Painter",
        "Demo-Replacer",
        "Demo-Speaker",
        "Demo-Thinker",
        "Demo-Tools",
    ]


@pytest.mark.asyncio
async def test_echo_says_the_text_again_word_by_word(poe: Poe) -> None:
    answer = await poe.ask("Demo-Echo", query("Hello  brave\nnew world 你好 "))

    assert [said.text for said in answer] == ["Hello", "  brave", "\nnew", " world", " 你好", " "]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "names", "answer"),
    [
        ("", [], "Your message is empty."),
        (" \n", [], "Your message is empty."),
        ("look", ["cat.png", "dog.png"], "look\n\nAttached: cat.png (image/png), dog.png (image/png)"),
        ("", ["cat.png"], "Attached: cat.png (image/png)"),
    ],
)
async def test_echo_names_attachments_and_empty_messages(
    poe: Poe, text: str, names: list[str], answer: str
) -> None:
    attachments = [
        fastapi_poe.Attachment(url="http://x/", content_type="image/png", name=name) for name in names
    ]

    assert final_text(await poe.ask("Demo-Echo", query(text, attachments=attachments))) == answer


@pytest.mark.asyncio
async def test_echo_takes_delay_and_repeat_from_the_message(poe: Poe) -> None:
    started = time.monotonic()
    answer = await poe.ask("Demo-Echo", query("tick tock", parameters={"delay": 0.05, "repeat": 2}))

    assert final_text(answer) == "tick tock\ntick tock"
    assert time.monotonic() - started >= 0.15


@pytest.mark.asyncio
@pytest.mark.parametrize("parameters", [{"delay": "soon", "repeat": None}, {"delay": -1, "repeat": -5}])
async def test_echo_answers_in_spite_of_parameters_that_make_no_sense(
    poe: Poe, parameters: dict[str, Any]
) -> None:
    assert final_text(await poe.ask("Demo-Echo", query("still here", parameters=parameters))) == "still here"


@pytest.mark.asyncio
async def test_thinker_ticks_then_thinks_in_quotes_then_answers(poe: Poe) -> None:
    started = time.monotonic()
    answer = await poe.ask("Demo-Thinker", query("why is the sky blue"))

    ticks = [said.text for said in answer if said.is_replace_response]
    assert ticks[:2] == ["Thinking... (1s elapsed)", "Thinking... (2s elapsed)"]
    thinking, _, text = final_text(answer).rpartition("\n\n")
    assert thinking.startswith("*Thinking...*\n\n> ")
    assert all(line.startswith("> ") for line in thinking.split("\n")[2:])
    assert text == "You asked with 5 words. I thought about all of them."
    assert time.monotonic() - started < 1.2


@pytest.mark.asyncio
async def test_replacer_sends_its_whole_text_with_each_event(poe: Poe) -> None:
    answer = await poe.ask("Demo-Replacer", query("one two three"))

    assert [(said.text, said.is_replace_response) for said in answer] == [
        ("one", True),
        ("one two", True),
        ("one two three", True),
    ]


@pytest.mark.asyncio
async def test_painter_serves_the_picture_that_its_text_refers_to(poe: Poe) -> None:
    answer = await poe.ask("Demo-Painter", query("a [red] fox"))

    assert answer[0].text == "Generating image..."
    files = [said.attachment for said in answer if said.attachment]
    assert len(files) == 1 and files[0].content_type == "image/png" and files[0].name == "gradient.png"
    assert final_text(answer) == f"![a red fox][{files[0].inline_ref}]"
    served = await poe.session.get(files[0].url)
    assert served.headers["content-type"] == "image/png"
    assert pixels(served.content) == (192, 128, (1 + 192 * 3) * 128)


def pixels(png: bytes) -> tuple[int, int, int]:
    """Width, height and the size of the unpacked picture, after every checksum was right."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    return width, height, len(zlib.decompress(chunks[b"IDAT"]))


@pytest.mark.asyncio
async def test_tools_calls_the_first_tool_with_arguments_that_its_schema_allows(poe: Poe) -> None:
    answer = await poe.ask("Demo-Tools", query("Is it raining in Paris?"), tools=[WEATHER, CLOCK])

    (call,) = calls_in(answer)
    assert call["name"] == "get_weather" and call["id"].startswith("call_")
    assert json.loads(call["arguments"]) == {
        "city": "Paris",
        "unit": "celsius",
        "days": 2,
        "hourly": True,
        "where": ["in"],
        "place": {"name": "raining"},
    }
    pieces = [said.data["choices"][0] for said in answer if said.data]
    assert len(pieces) > 4 and pieces[-1]["finish_reason"] == "tool_calls"
    assert all(piece["finish_reason"] is None for piece in pieces[:-1])


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("tools", "names"),
    [([WEATHER, CLOCK], ["get_weather", "get_time"]), ([CLOCK], ["get_time", "get_time"])],
)
async def test_tools_calls_two_tools_when_asked_for_both(
    poe: Poe, tools: list[ToolDefinition], names: list[str]
) -> None:
    calls = calls_in(await poe.ask("Demo-Tools", query("do both please"), tools=tools))

    assert [call["name"] for call in calls] == names
    assert len({call["id"] for call in calls}) == 2
    assert json.loads(calls[1]["arguments"]) == {}


@pytest.mark.asyncio
async def test_tools_answers_with_the_results_that_it_is_given(poe: Poe) -> None:
    result = ToolResultDefinition(
        role="tool", name="get_weather", tool_call_id="call_1", content="18 degrees"
    )

    answer = await poe.ask("Demo-Tools", query("and now?"), tools=[WEATHER], tool_results=[result])

    assert final_text(answer) == "The tool get_weather says: 18 degrees"


@pytest.mark.asyncio
async def test_tools_calls_what_the_message_names_one_after_another(poe: Poe) -> None:
    task = query('call get_time with {}, then call get_weather with {"city": "Rome"}')
    first = ToolResultDefinition(role="tool", name="get_time", tool_call_id="call_1", content="noon")
    second = ToolResultDefinition(role="tool", name="get_weather", tool_call_id="call_2", content="sunny")
    tools = [WEATHER, CLOCK]

    (now,) = calls_in(await poe.ask("Demo-Tools", task, tools=tools))
    (then,) = calls_in(await poe.ask("Demo-Tools", task, tools=tools, tool_results=[first]))
    last = await poe.ask("Demo-Tools", task, tools=tools, tool_results=[first, second])

    assert (now["name"], json.loads(now["arguments"])) == ("get_time", {})
    assert (then["name"], json.loads(then["arguments"])) == ("get_weather", {"city": "Rome"})
    assert final_text(last) == "The tool get_time says: noon The tool get_weather says: sunny"


@pytest.mark.asyncio
async def test_tools_answers_with_json_when_it_is_told_a_schema(poe: Poe) -> None:
    request = query("Who lives in 'New York'")
    schema = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}})
    told = fastapi_poe.ProtocolMessage(
        role="system", content=f"It must fit this JSON schema:\n{schema}\n\nOK?"
    )

    answer = await poe.ask("Demo-Tools", request.model_copy(update={"query": [told, *request.query]}))

    assert json.loads(final_text(answer)) == {"city": "New York"}


@pytest.mark.asyncio
async def test_tools_works_with_fastapi_poe_running_the_tool(poe: Poe) -> None:
    def get_time() -> str:
        return "noon"

    stream = fastapi_poe.stream_request(
        query("what time is it"),
        "Demo-Tools",
        poe.key,
        tools=[CLOCK],
        tool_executables=[get_time],
        session=poe.session,
        base_url=f"{poe.url}/bot/",
    )

    assert "".join([said.text async for said in stream]) == 'The tool get_time says: "noon"'


@pytest.mark.asyncio
async def test_tools_says_so_when_it_has_none(poe: Poe) -> None:
    answer = await poe.ask("Demo-Tools", query("hello"))

    assert final_text(answer) == "I was given no tools. You said: hello"


@pytest.mark.asyncio
@pytest.mark.parametrize("handle", ["demo-echo", "DEMO-ECHO", "Demo-Echo"])
async def test_it_finds_a_bot_in_whatever_case(poe: Poe, handle: str) -> None:
    assert final_text(await poe.ask(handle, query("hi"))) == "hi"


@pytest.mark.asyncio
@pytest.mark.parametrize("authorization", [None, "Bearer " + "x" * 32, "{key}", "Bearer"])
@pytest.mark.parametrize("path", ["/bot/Demo-Echo", "/bot/Demo-Faulty", "/bot/no-such-bot", "/demo/script"])
async def test_it_refuses_every_other_key(poe: Poe, path: str, authorization: str | None) -> None:
    headers = {"Authorization": authorization.format(key=poe.key)} if authorization else {}

    response = await poe.session.post(poe.url + path, json=query("reset").model_dump(), headers=headers)

    assert response.status_code == 401
    assert response.headers["content-type"] == "application/json"


@pytest.mark.asyncio
async def test_it_does_not_know_other_bots(poe: Poe) -> None:
    response = await poe.post("GPT-4o", "hi")

    assert response.status_code == 404
    assert response.json()["error"]["message"] == "Bot does not exist"


@pytest.mark.asyncio
@pytest.mark.parametrize("bot", ["Demo-Echo", "Demo-Faulty"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"type": "query"}', b'{"type": "query", "query": 7}', b"\xff"]
)
async def test_it_refuses_what_is_not_the_protocol(poe: Poe, bot: str, body: bytes) -> None:
    response = await poe.session.post(f"{poe.url}/bot/{bot}", content=body, headers=poe.bearer)

    assert response.status_code == 400


@pytest.mark.asyncio
async def test_a_scripted_bot_says_exactly_its_events(poe: Poe) -> None:
    events = [["meta", {"linkify": False}], ["text", {"text": "hi"}], ["ping", {}], ["text", '{"text": "!"}']]
    script = {"bot": "Parrot", "events": [*events, ["done", {}]]}
    assert (
        await poe.session.post(f"{poe.url}/demo/script", json=script, headers=poe.bearer)
    ).status_code == 200

    answer = await poe.ask("parrot", query("anything"))
    raw = (await poe.post("Parrot", "anything")).text

    assert [said.text for said in answer] == ["", "hi", "!"]
    assert [line for line in raw.split("\r\n") if line.startswith("event:")] == [
        "event: meta",
        "event: text",
        "event: ping",
        "event: text",
        "event: done",
    ]


@pytest.mark.asyncio
async def test_a_script_replaces_the_one_before_and_adds_nothing_of_its_own(poe: Poe) -> None:
    for text in ("old", "new"):
        script = {"bot": "Twice", "events": [["text", {"text": text}]], "delay": 0.0}
        await poe.session.post(f"{poe.url}/demo/script", json=script, headers=poe.bearer)

    assert (await poe.post("twice", "anything")).text == 'event: text\r\ndata: {"text": "new"}\r\n\r\n'


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "script",
    [{}, [], {"bot": "", "events": []}, {"bot": "x/y", "events": []}, {"bot": "x", "events": [["text"]]}],
)
async def test_it_refuses_a_script_that_it_cannot_play(poe: Poe, script: Any) -> None:
    response = await poe.session.post(f"{poe.url}/demo/script", json=script, headers=poe.bearer)

    assert response.status_code == 400


def test_it_wants_a_key_of_32_characters() -> None:
    with pytest.raises(ValueError, match="32 characters"):
        make("short", public_url="http://127.0.0.1:1")


@pytest.mark.asyncio
async def test_it_prints_nothing_of_what_it_was_asked(
    poe: Poe, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    report = {"version": "1.2", "type": "report_error", "message": "a secret", "metadata": {}}
    caplog.set_level("DEBUG", "uvicorn")

    await poe.post("Demo-Echo", "a secret")
    await poe.session.post(f"{poe.url}/bot/Demo-Echo", json=report, headers=poe.bearer)
    await poe.session.post(f"{poe.url}/bot/Demo-Echo", content=b'{"a secret"', headers=poe.bearer)

    out, err = capfd.readouterr()
    assert "secret" not in out + err
    assert "secret" not in "".join(
        record.getMessage() for record in caplog.records if "uvicorn" in record.name
    )


@pytest.mark.asyncio
async def test_a_listener_who_leaves_early_pays_all_the_same(poe: Poe) -> None:
    body = query("one two three four five six", parameters={"delay": 5}).model_dump()
    async with poe.session.stream(
        "POST", f"{poe.url}/bot/demo-echo", json=body, headers=poe.bearer
    ) as response:
        await anext(response.aiter_bytes())

    await _until_charged(poe, "6 tokens")


async def _until_charged(poe: Poe, words: str) -> None:
    for _ in range(100):
        history: httpx.Response = await poe.session.get(f"{poe.url}/usage/points_history", headers=poe.bearer)
        newest = history.json()["data"][:1]
        if newest and words in newest[0]["cost_breakdown_in_points"]["Input"]:
            assert newest[0]["cost_breakdown_in_points"]["Output"] == "1 points (1 tokens)"
            return
    raise AssertionError("the charge never came")
