"""Files that a client sends in a message: the bytes of a data URL, a URL that is handed on and never fetched here, or the
id of a file that it uploaded before.
"""

from __future__ import annotations

import binascii
import re

from relay.errors import BadRequest
from relay.events import FilePart

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "application/pdf": "pdf",
    "text/plain": "txt",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "video/mp4": "mp4",
}
BY_EXTENSION = {extension: kind for kind, extension in EXTENSIONS.items()} | {"jpeg": "image/jpeg"}


def from_url(url: str, stem: str, where: str) -> FilePart:
    """A data URL's bytes, or a URL that is handed on to the bot and never fetched, nor looked up, here.

    What Poe fetches is Poe's to say. It may be http: the demo server serves its files so, and clients send them back.
    """
    if url.startswith("data:"):
        comma = url.find(",")
        head = url[5:comma] if comma > 0 else ""
        content_type = head.split(";")[0].strip().lower() or "text/plain"
        if not head.endswith(";base64"):
            raise BadRequest(f"`{where}` must be a base64 data URL.", code="invalid_data_url", param=where)
        content = from_base64(url[comma + 1 :], where)
        return FilePart(f"{stem}.{EXTENSIONS.get(content_type, 'bin')}", content_type, data=content)
    if len(url) > 8192 or not re.fullmatch(r"https?://[^/\s]+(/[^\x00-\x1f\x7f]*)?", url):
        raise BadRequest(f"`{where}` must be an https or a data URL.", code="invalid_url", param=where)
    name = url.split("?")[0].rsplit("/", 1)[-1] or stem
    fallback = "image/png" if stem == "image" else "application/octet-stream"
    return FilePart(name[:100], BY_EXTENSION.get(name.rsplit(".", 1)[-1].lower(), fallback), url=url)


def kept(file_id: str, where: str) -> FilePart:
    """One that was uploaded before, by its id; whether it is there comes out when it is read."""
    if not re.fullmatch(r"file[-_][\w-]{1,58}", file_id, re.ASCII):
        raise BadRequest(f"`{where}` is no id of a file.", code="invalid_file_id", param=where)
    return FilePart(file_id, "application/octet-stream", file_id=file_id)


def from_base64(text: str, where: str) -> bytes:
    """Or BadRequest. Copied once, since it may have 50 MB: base64.b64decode copies it once more."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise BadRequest(f"`{where}` is not valid base64.", code="invalid_data_url", param=where) from None
