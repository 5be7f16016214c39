"""Forms with files, read in memory: Django would write a large one to the disk, on the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

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
    request.upload_handlers = [_InMemory(request)]
    try:
        return await asyncio.to_thread(_read, request, files)
    except MultiPartParserError as exc:
        raise BadRequest(f"The form cannot be read: {exc}", code="invalid_form") from None


def _read(request: ApiRequest, names: tuple[str, ...]) -> tuple[dict[str, str], list[FilePart]]:
    fields = {name: value for name, value in request.POST.items() if isinstance(value, str)}
    for name, value in fields.items():
        if "\x00" in name + value:
            raise BadRequest("The form holds a NUL character.", code="invalid_string")
    found = [
        FilePart(str(each.name)[:100], str(each.content_type), data=each.read())
        for name in names
        for each in request.FILES.getlist(name)
    ]
    return fields, found
