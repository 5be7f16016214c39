"""LangChain's own standard tests of a chat model, over chat completions, over Responses and over Anthropic's Messages."""

from __future__ import annotations

import os

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

RELAY, TOKEN = os.environ["RELAY"], os.environ["TOKEN"]


class Standard(ChatModelIntegrationTests):
    supports_image_inputs = False  # they fetch their image from somewhere out there
    supports_json_mode = False
    supported_usage_metadata_details = {"invoke": [], "stream": []}

    @property
    def standard_chat_model_params(self) -> dict[str, object]:
        return {"max_retries": 0, "timeout": 20}


class TestChatCompletions(Standard):
    chat_model_class: type[BaseChatModel] = ChatOpenAI
    chat_model_params = {
        "model": "demo-tools",
        "base_url": f"{RELAY}/v1",
        "api_key": TOKEN,
        "use_responses_api": False,
        "stream_usage": True,
    }


class TestResponses(Standard):
    chat_model_class: type[BaseChatModel] = ChatOpenAI
    chat_model_params = {
        "model": "demo-tools",
        "base_url": f"{RELAY}/v1",
        "api_key": TOKEN,
        "use_responses_api": True,
    }


class TestMessages(Standard):
    chat_model_class: type[BaseChatModel] = ChatAnthropic
    chat_model_params = {"model": "demo-tools", "base_url": RELAY, "api_key": TOKEN}
