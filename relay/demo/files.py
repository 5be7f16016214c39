"""The demo Poe server's files, uploaded or made by a bot: kept in memory and served. Knows no bots."""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from urllib.parse import parse_qs, quote, unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.demo.refusals import is_plain, refusal

LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredFile:
    name: str
    content_type: str
    data: bytes


class Files:
    """At most `limit` bytes in all; the oldest files go first."""

    def __init__(self, public_url: str, *, limit: int = LIMIT) -> None:
        self.public_url = public_url.rstrip("/")
        self.limit = limit
        self._kept: dict[str, StoredFile] = {}
        self._size = 0

    def keep(self, file: StoredFile) -> str:
        """Return the URL that serves the file; a file over the limit raises ValueError."""
        if len(file.data) > self.limit:
            raise ValueError(f"the file is larger than {self.limit} bytes")
        while self._size + len(file.data) > self.limit:
            oldest = next(iter(self._kept))
            self._size -= len(self._kept.pop(oldest).data)
        id = secrets.token_hex(12)
        self._kept[id] = file
        self._size += len(file.data)
        return f"{self.public_url}/files/{id}/{quote(file.name, safe='')}"

    def find(self, id: str) -> StoredFile | None:
        return self._kept.get(id)


def routes(files: Files, keys: Collection[str]) -> list[Route]:
    async def upload(request: Request) -> Response:
        if not any(is_plain(request.headers.get("authorization"), key) for key in keys):
            return refusal(401, "Invalid API key")
        try:
            form = parse_form(request.headers.get("content-type", ""), await request.body())
            if "download_url" in form:
                return _downloaded(form["download_url"], form.get("download_filename"))
            file = form["file"]
        except (KeyError, ValueError):
            return refusal(400, "send a multipart form with a file, or download_url and download_filename")
        try:
            url = files.keep(file)
        except ValueError:
            return refusal(413, "File too large")
        return JSONResponse({"attachment_url": url, "mime_type": file.content_type})

    async def serve(request: Request) -> Response:
        file = files.find(request.path_params["id"])
        if file is None:
            return refusal(404, "no such file, or it was dropped for newer ones")
        # Whoever uploads chooses the type: a page or a script must not run as a page of this server.
        headers = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}
        return Response(file.data, headers=headers, media_type=file.content_type)

    return [
        Route("/poe_api/file_upload_3RD_PARTY_POST", upload, methods=["POST"]),
        Route("/files/{id}/{name:path}", serve, methods=["GET"]),
    ]


def _downloaded(url: StoredFile, name: StoredFile | None) -> Response:
    """Poe would fetch the URL; the demo server fetches nothing and hands the same URL back."""
    address = url.data.decode("utf-8", "replace")
    if urlsplit(address).scheme not in ("http", "https"):
        return refusal(400, "download_url must begin with http:// or https://")
    named = (
        name.data.decode("utf-8", "replace") if name else unquote(urlsplit(address).path.rsplit("/", 1)[-1])
    )
    return JSONResponse({"attachment_url": address, "mime_type": content_type_of(named)})


def content_type_of(name: str, told: str = "") -> str:
    return mimetypes.guess_type(name)[0] or told or "application/octet-stream"


def parse_form(content_type: str, body: bytes) -> dict[str, StoredFile]:
    """The fields of a form by name. The standard library reads it: python-multipart is not installed."""
    header = Message()
    header["content-type"] = content_type
    if header.get_content_type() == "application/x-www-form-urlencoded":
        fields = parse_qs(body.decode("utf-8"), max_num_fields=20)
        return {name: StoredFile("", "text/plain", values[0].encode()) for name, values in fields.items()}
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise ValueError("not a form")
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        raise ValueError("the form is cut off")
    return dict(_part(part) for part in parts[1:-1])


def _part(raw: bytes) -> tuple[str, StoredFile]:
    head, blank, data = raw.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    headers = HeaderParser().parsestr(head.decode("utf-8"))
    field = headers.get_param("name", header="content-disposition")
    if not blank or not isinstance(field, str):
        raise ValueError("a part of the form has no name")
    name = (headers.get_filename("") or "file").replace("\\", "/").rsplit("/", 1)[-1]
    told = headers.get_content_type() if "content-type" in headers else ""
    return field, StoredFile(name, content_type_of(name, told), data)
