"""`make test` on a machine without Chromium: installed where that is allowed, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import run


@pytest.mark.parametrize(
    ("has_chromium", "is_root", "asked"),
    [(False, True, ["update", "chromium"]), (True, True, []), (False, False, [])],
    ids=["missing", "there", "nobody"],
)
def test_chromium_is_installed_by_root_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_chromium: bool, is_root: bool, asked: list[str]
) -> None:
    said = tmp_path / "said"
    programs = {"apt-get": f'for last; do :; done; echo "$last" >> {said}', "chromium": ""}
    for name, script in programs.items():
        if name == "apt-get" or has_chromium:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0 if is_root else 1000)

    run.bring_chromium()

    assert (said.read_text().split() if said.exists() else []) == asked
