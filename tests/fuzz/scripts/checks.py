"""What Schemathesis asks of every answer of the relay, beside no 5xx: no HTML, and an error in the words of its wire."""

from __future__ import annotations

from typing import Any

import schemathesis

ANTHROPIC = ("/messages",)


@schemathesis.check
def answers_in_its_own_words(ctx: Any, response: Any, case: Any) -> None:
    kind = (response.headers.get("content-type") or [""])[0]
    assert "html" not in kind or case.path.endswith("/docs"), f"HTML: {response.text[:200]}"
    if response.status_code < 400:
        return
    assert kind.startswith("application/json"), f"{response.status_code} as {kind!r}"
    error = response.json()["error"]
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str)
    if any(part in case.path for part in ANTHROPIC):
        assert response.json()["type"] == "error"
    else:
        assert {"message", "type", "param", "code"} <= set(error)
