"""pydantic-ai: an agent that asks a tool, streamed and not, by each of the three wire formats; a typed answer."""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

RELAY, TOKEN = os.environ["RELAY"], os.environ["TOKEN"]
OPENAI = OpenAIProvider(base_url=f"{RELAY}/v1", api_key=TOKEN)
MODELS = {
    "chat": OpenAIChatModel("demo-tools", provider=OPENAI),
    "responses": OpenAIResponsesModel("demo-tools", provider=OPENAI),
    "messages": AnthropicModel("demo-tools", provider=AnthropicProvider(base_url=RELAY, api_key=TOKEN)),
}


class Place(BaseModel):
    city: str


async def ask(name: str) -> None:
    agent = Agent(MODELS[name])
    asked = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return f"sunny in {city}"

    assert "sunny in Paris" in (await agent.run("What is the weather in Paris")).output
    async with agent.run_stream("What is the weather in Rome") as streamed:
        assert "sunny in Rome" in await streamed.get_output()
    assert asked == ["Paris", "Rome"], asked

    typed = await Agent(MODELS[name], output_type=Place).run("I live in Paris")
    assert typed.output == Place(city="Paris"), typed.output
    print(f"ok {name}: a tool asked twice, once streamed; a typed answer")


for each in MODELS:
    asyncio.run(ask(each))
