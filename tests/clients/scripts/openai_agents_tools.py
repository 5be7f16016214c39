"""openai-agents: an agent that asks a tool and hands the answer on, over Responses and over chat completions."""

from __future__ import annotations

import asyncio
import os

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)
CLIENT = AsyncOpenAI(base_url=f"{os.environ['RELAY']}/v1", api_key=os.environ["TOKEN"])
MODELS = {
    "responses": OpenAIResponsesModel("demo-tools", openai_client=CLIENT),
    "chat": OpenAIChatCompletionsModel("demo-tools", openai_client=CLIENT),
}
ASKED: list[str] = []


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    ASKED.append(city)
    return f"sunny in {city}"


async def ask(name: str) -> None:
    agent = Agent(name="Guide", instructions="Use your tool.", model=MODELS[name], tools=[get_weather])
    whole = await Runner.run(agent, "What is the weather in Paris")
    assert "sunny in Paris" in whole.final_output, whole.final_output

    streamed = Runner.run_streamed(agent, "What is the weather in Rome")
    kinds = [event.type async for event in streamed.stream_events()]
    assert "sunny in Rome" in streamed.final_output, streamed.final_output
    assert "raw_response_event" in kinds and "run_item_stream_event" in kinds
    assert ASKED == ["Paris", "Rome"], ASKED
    ASKED.clear()
    print(f"ok {name}: a tool asked twice, once streamed")


async def main() -> None:
    for name in MODELS:
        await ask(name)


asyncio.run(main())
