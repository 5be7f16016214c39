"""Whether everything that people read is marked for translation: in templates, in Python and in scripts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_attributes_in_templates_have_no_words_that_are_not_marked() -> None:
    """What is read aloud, shown on hovering or in an empty field, or handed to a script to be shown."""
    read = re.compile(
        r"""\s(title|placeholder|aria-label|alt|content|data-(?:label|copied))=("[^"]*"|'[^']*')"""
    )
    templated = re.compile(r"{%\s*blocktrans.*?{%\s*endblocktrans\w*\s*%}|{%.*?%}|{{.*?}}", re.DOTALL)
    names = {"width=device-width, initial-scale=1", "sk-poe-…", "same-origin"}

    bare = {
        (str(path.relative_to(ROOT)), value)
        for path in (ROOT / "templates").rglob("*.html")
        for name, quoted in read.findall(templated.sub("", path.read_text()))
        if (value := quoted[1:-1].strip()) not in names and not value.startswith("{")
        if re.search("[A-Za-z]{2}", value)
    }

    assert sorted(bare) == []


SHOWN = {"verbose_name", "verbose_name_plural", "help_text", "label", "description", "title", "empty_label"}
SAYS = {"ValidationError", "add_error", "message_user", "success", "error", "warning", "info"}
# Whom these speak to reads English: programs, the log and the terminal.
NOT_PAGES = ("migrations", "management", "wire", "api", "upstreams", "demo")


def unmarked_in_python(source: str) -> Iterator[str]:
    """Texts in places from which they reach a page: names of fields, headings, messages, refusals."""

    def has_words(node: ast.AST | None) -> bool:
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [part.value for part in parts if isinstance(part, ast.Constant)]
        return any(isinstance(text, str) and re.search("[A-Za-z]{3,}", text) for text in texts)

    for node in ast.walk(ast.parse(source)):
        shown: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            of = getattr(getattr(node.func, "value", None), "id", "")
            shown = [
                each.value for each in node.keywords if each.arg in SHOWN and name not in ("_", "gettext")
            ]
            if name in SAYS and of != "log":
                shown += node.args[1:] if name == "add_error" else node.args
        elif isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            shown = [node.value] if names & SHOWN else []
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            shown = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value in SHOWN]
        yield from (ast.unparse(text) for text in shown if has_words(text))


@pytest.mark.parametrize(
    "source",
    [
        'messages.success(request, "Saved.")',
        'messages.error(request, f"Gone is {name}.")',
        'raise ValidationError("Paste the key.")',
        'form.add_error("secret", "It is too long.")',
        'name = models.CharField(_("name"), help_text="Where it is used.")',
        'class Meta:\n  verbose_name = "team"',
        'context = {"title": "Live traffic"}',
    ],
)
def test_such_words_would_be_noticed(source: str) -> None:
    assert list(unmarked_in_python(source)) != []
    marked_now = re.sub(r'f?("[A-Z][^"]*"|"team")', r"_(\1)", source)
    assert list(unmarked_in_python(marked_now)) == []


def test_python_has_no_words_that_are_not_marked() -> None:
    names = {"'Poe'"}

    found = {
        (str(path.relative_to(ROOT)), text)
        for folder in ("accounts", "relay", "proxy_site")
        for path in (ROOT / folder).rglob("*.py")
        if not set(path.relative_to(ROOT).parts) & set(NOT_PAGES)
        for text in unmarked_in_python(path.read_text())
    }

    assert sorted((path, text) for path, text in found if text not in names) == []


def words_in_script(source: str) -> Iterator[str]:
    """Texts of two words and more, which a script can have from its page only. Classes of CSS are no such text."""
    code = re.sub(r"/\*.*?\*/|(?m:(?<!:)//.*$)", "", source, flags=re.DOTALL)
    code = re.sub(r"""className\s*=\s*("[^"]*"|'[^']*'|`[^`]*`)|querySelector\w*\([^)]*\)""", "", code)
    for literal in re.findall(r"""("[^"\n]*"|'[^'\n]*'|`[^`]*`)""", code):
        if re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}|^.[A-Z][a-z]+.$", re.sub(r"\${[^}]*}", "", literal)):
            yield literal


def test_scripts_have_no_words_of_their_own() -> None:
    assert list(words_in_script('note.textContent = "Not copied";')) == ['"Not copied"']
    assert list(words_in_script("note.textContent = `${n} tokens left`;")) == ["`${n} tokens left`"]
    scripts = [
        path
        for folder in ("accounts", "relay")
        for path in (ROOT / folder).rglob("static/**/*.js")
        if "vendor" not in path.parts
    ]

    found = {(path.name, text) for path in scripts for text in words_in_script(path.read_text())}

    assert scripts and sorted(found) == []
