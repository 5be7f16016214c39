"""Forms with files, read in memory: Django would write a large one to the disk, on the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http.multipartparser import MultiPartParserError

from relay.api.request import ApiRequest
from relay.errors import BadRequest
from relay.events import FilePart

MULTIPART = "multipart/form-data"


class _InMemory(FileUploadHandler):
    """The body is in memory already, and its size was bounded while it came."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self._pieces: list[bytes] = []

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._pieces.append(raw_data)

    def file_complete(self, file_size: int) -> SimpleUploadedFile:
        return SimpleUploadedFile(
            self.file_name or "file", b"".join(self._pieces), self.content_type or "application/octet-stream"
        )


async def read_form(request: ApiRequest, *files: str) -> tuple[dict[str, str], list[FilePart]]:
    """A form's fields, and its files of these names; or BadRequest."""
    if (request.content_params or {}).get("charset", "utf-8").lower() != "utf-8":
        raise BadRequest("The form must be in UTF-8.", code="invalid_form")
    request.upload_handlers = [_InMemory(request)]
    try:
        return await asyncio.to_thread(_read, request, files)
    except (MultiPartParserError, SuspiciousOperation) as exc:
        raise BadRequest(f"The form cannot be read: {exc}", code="invalid_form") from None


def _read(request: ApiRequest, names: tuple[str, ...]) -> tuple[dict[str, str], list[FilePart]]:
    fields: dict[str, str] = {}
    for name, values in request.POST.lists():
        said = [name, *values]
        if any("\x00" in each or "\ufffd" in each for each in said):
            raise BadRequest("The form holds a NUL character, or is not UTF-8.", code="invalid_string")
        if len(said) > 2 and not name.endswith("[]"):
            raise BadRequest(f"`{name[:100]}` is there twice.", code="invalid_form", param=name[:100])
        fields[name] = said[-1]
    found = [
        FilePart(str(each.name)[:100], str(each.content_type), data=each.read())
        for name in names
        for each in request.FILES.getlist(name)
    ]
    if any("\x00" in each.name + each.content_type for each in found):
        raise BadRequest("The form holds a NUL character.", code="invalid_string")
    return fields, found
