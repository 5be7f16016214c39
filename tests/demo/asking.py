"""Asks the demo Poe server as fastapi-poe's own client does, and as a client that counts bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastapi_poe
import httpx
from fastapi_poe.client import stream_request_base
from fastapi_poe.types import ToolDefinition, ToolResultDefinition


def query(text: str, *, parameters: dict[str, Any] | None = None, **message: Any) -> fastapi_poe.QueryRequest:
    said = fastapi_poe.ProtocolMessage(role="user", content=text, parameters=parameters or {}, **message)
    return fastapi_poe.QueryRequest(
        version="1.2", type="query", query=[said], user_id="u", conversation_id="c", message_id="m"
    )


@dataclass(frozen=True, slots=True)
class Poe:
    url: str
    key: str
    session: httpx.AsyncClient

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def ask(
        self,
        bot: str,
        request: fastapi_poe.QueryRequest,
        *,
        tools: list[ToolDefinition] | None = None,
        tool_results: list[ToolResultDefinition] | None = None,
    ) -> list[fastapi_poe.PartialResponse]:
        """Everything that fastapi-poe's client reads."""
        stream = stream_request_base(
            request,
            bot,
            self.key,
            tools=tools,
            tool_results=tool_results,
            session=self.session,
            base_url=f"{self.url}/bot/",
            num_tries=1,
            on_error=lambda exc, message: None,
        )
        return [said async for said in stream]

    async def post(self, bot: str, text: str, *, parameters: dict[str, Any] | None = None) -> httpx.Response:
        body = query(text, parameters=parameters).model_dump()
        return await self.session.post(f"{self.url}/bot/{bot}", json=body, headers=self.bearer)

    async def read(self, bot: str, text: str) -> tuple[bytes, Exception | None]:
        """The bytes that came, and what ended them when it was not the answer's own end."""
        came = b""
        body = query(text).model_dump()
        try:
            async with self.session.stream(
                "POST", f"{self.url}/bot/{bot}", json=body, headers=self.bearer
            ) as response:
                async for piece in response.aiter_raw():
                    came += piece
        except httpx.HTTPError as exc:
            return came, exc
        return came, None


def final_text(answer: list[fastapi_poe.PartialResponse]) -> str:
    text = ""
    for said in answer:
        text = said.text if said.is_replace_response else text + said.text
    return text
