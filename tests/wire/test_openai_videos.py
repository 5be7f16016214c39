"""OpenAI's videos: what is understood of a form, what a bot is asked, and what of its answer is the video."""

from __future__ import annotations

from typing import Any

import pytest

from relay.errors import BadRequest
from relay.events import Attachment, Event, FilePart, Text, TextPart
from relay.wire.openai_images import pictures
from relay.wire.openai_videos import film, parse, parse_form

MP4 = Attachment("https://poe.example/v.mp4", "v.mp4", "video/mp4")
PNG = Attachment("https://poe.example/v.png", "v.png", "image/png")
PICTURE = FilePart("dot.png", "image/png", data=b"dot")


def test_a_form_becomes_a_question_with_the_bots_parameters() -> None:
    asked, picture = parse_form(
        {"model": " veo ", "prompt": "dusk", "seconds": "8", "size": "1x2"}, [PICTURE]
    )

    assert (asked.model, asked.seconds, asked.size, picture) == ("veo", "8", "1x2", PICTURE)
    assert asked.chat.messages[0].parts == (TextPart("dusk"),)
    assert asked.chat.parameters == {"seconds": "8", "size": "1x2"}


@pytest.mark.parametrize(
    ("reference", "part"),
    [
        ({"file_id": "file-1"}, FilePart("file-1", "application/octet-stream", file_id="file-1")),
        (
            {"image_url": "https://x.example/a.png"},
            FilePart("a.png", "image/png", url="https://x.example/a.png"),
        ),
    ],
)
def test_a_picture_by_reference_is_the_second_part(reference: dict[str, str], part: FilePart) -> None:
    fields = {f"input_reference[{name}]": value for name, value in reference.items()}

    asked, picture = parse_form({"model": "veo", "prompt": "dusk", **fields}, [])

    assert picture is None and asked.chat.messages[0].parts == (TextPart("dusk"), part)


def test_the_bytes_of_a_data_url_are_no_part_of_what_is_kept() -> None:
    asked, picture = parse(
        b'{"model": "veo", "prompt": "dusk", "input_reference": {"image_url": "data:image/png;base64,ZG90"}}'
    )

    assert picture is not None and picture.data == b"dot" and asked.image_url is None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "dusk"},
        {"model": "veo"},
        {"model": "veo", "prompt": "x" * 32_001},
        {"model": "veo", "prompt": "dusk", "input_reference": "a picture"},
        {"model": "veo", "prompt": "dusk", "input_reference": "a", "input_reference[file_id]": "file-1"},
        {"model": "veo", "prompt": "dusk", "input_reference[image_url]": "ftp://x"},
        {"model": "veo", "prompt": "dusk", "input_reference[file_id]": "../x"},
        {
            "model": "veo",
            "prompt": "dusk",
            "input_reference": "x",
            "input_reference[image_url]": "https://x.y",
        },
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        parse_form(fields, [])


@pytest.mark.parametrize(
    ("events", "url"),
    [
        ([PNG, MP4], MP4.url),
        (
            [Text("Here: [video](https://pfst.cf2.poecdn.net/base/video/1f0c?w=1)")],
            "https://pfst.cf2.poecdn.net/base/video/1f0c?w=1",
        ),
        ([Text("![v](https://x.example/"), Text("a.webm)")], "https://x.example/a.webm"),
        ([PNG, Text("No [video](https://x.example/page) today.")], None),
    ],
)
def test_the_video_is_found_in_an_answer(events: list[Event], url: str | None) -> None:
    found = film(events)

    assert (found and found.url) == url


@pytest.mark.parametrize(
    "said", ["(http://" * 12_000, "](http://" * 12_000, "](http://x.y/base/video/" * 4_000]
)
def test_what_somebody_made_up_does_not_hold_up_the_relay(said: str) -> None:
    """Quadratic patterns took minutes for this; it is a matter of milliseconds."""
    assert film([Text(said)]) is None
    assert pictures([Text(said.replace("]", "!["))]) == []
