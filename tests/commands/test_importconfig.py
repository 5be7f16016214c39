from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management.base import CommandError

from accounts.models import AccessToken, Team, User, token_digest
from relay import importing, vault
from relay.importing import OldConfig, OldConfigError
from relay.models import BotMapping, DirectoryVersion, PoeAccount, PoeKey
from tests.commands import run

SAMPLES = Path(__file__).parent.parent / "fixtures" / "old_config"
FIRST, SECOND = "first-made-up-poe-key-AAAA", "second-made-up-poe-key-BBBB"
ONE, TWO = "sk-made-up-old-token-1111", "made-up-old-token-2222"
IN_FULL = (
    FIRST,
    SECOND,
    ONE,
    TWO,
    "made-up-password",
    "made-up-oauth-secret",
    "made-up-session-secret",
    "tiny-1",
)


# Reading, without a database.


def test_the_config_toml_of_poe_to_gpt() -> None:
    old = importing.read(SAMPLES / "poe_to_gpt.toml")

    assert old.poe_keys == (FIRST, SECOND)
    assert old.access_tokens == (ONE, TWO)
    assert [model for model, _bot in old.bots] == ["Assistant", "GPT-4o", "Claude-3.5-Sonnet"]
    assert all(model == bot for model, bot in old.bots)
    assert (old.proxy, old.port) == ("http://127.0.0.1:7890", 8700)
    assert (old.idle_seconds, old.first_event_seconds) == (180, 180)
    assert len(old.ignored) == 2


def test_the_first_config_toml_of_poe_to_gpt_with_poe_keys_as_tokens() -> None:
    old = importing.read(SAMPLES / "poe_to_gpt_bots.toml")

    assert old.poe_keys == (FIRST,)
    assert dict(old.bots)["gpt-4-turbo-preview"] == "Claude-3-Opus"
    assert (old.rate_limit, old.simulate_roles, old.proxy) == (60, "auto", "")
    assert (old.idle_seconds, old.first_event_seconds) == (180, 170)
    assert [reason.split(":")[0] for reason in old.ignored] == ["gateway", "gateway-port", "cool-down"]


def test_the_config_toml_of_poe_openai_proxy_with_cookies_as_tokens() -> None:
    old = importing.read(SAMPLES / "poe_openai_proxy.toml")

    assert old.poe_keys == ()
    assert sum("poe.com/api/keys" in reason for reason in old.ignored) == 2
    assert old.bots == (("gpt-3.5-turbo", "chinchilla"), ("gpt-4", "beaver"), ("Claude-instant", "a2"))
    assert old.proxy == "socks5h://someone:made-up-password@127.0.0.1:7890"
    assert old.simulate_roles == "on"


def test_the_env_of_poe_to_gpt() -> None:
    old = importing.read(SAMPLES / "poe_to_gpt.env")

    assert old.poe_keys == (FIRST, SECOND)
    assert old.access_tokens == (ONE,)
    assert old.bots == tuple((bot, bot) for bot in ("GPT-4o", "GPT-4o-Mini", "Claude-3.5-Sonnet"))
    assert (old.port, old.idle_seconds, old.proxy) == (3700, 300, "")


@pytest.mark.parametrize("name", [".env", "config.toml", "old settings"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('POE_API_KEYS=\'["key-one", "key-two"]\'', ("key-one", "key-two")),
        ('POE_API_KEYS=["key-one", "key-two"]', ("key-one", "key-two")),
        ("POE_API_KEYS=['key-one', 'key-two',]", ("key-one", "key-two")),
        (r'POE_API_KEYS="[\"key-one\"]"', ("key-one",)),
        ("POE_API_KEYS='key-one, key-two'", ("key-one", "key-two")),
        ("POE_API_KEYS = 'key-one'  # mine", ("key-one",)),
        ("\r\nPOE_API_KEYS='key-one'\r\n", ("key-one",)),
        ('apikey = ["key-one"]', ("key-one",)),
        ('apikey = "key-one"', ("key-one",)),
        ("tokens = ['''key-one''']", ("key-one",)),
        ('tokens = ["key-one"]\napikey = ["key-two", "key-one"]', ("key-one", "key-two")),
        ('api_key = [\n  "key-one",  # mine\n]', ("key-one",)),
    ],
)
def test_keys_in_toml_whatever_the_file_is_called(name: str, text: str, expected: tuple[str, ...]) -> None:
    assert importing.parse(name, text).poe_keys == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("POE_API_KEYS=key-one", ("key-one",)),
        ("POE_API_KEYS=key-one,key-two", ("key-one", "key-two")),
        ("export POE_API_KEYS=key-one # mine", ("key-one",)),
        ("POE_API_KEYS=key#one", ("key#one",)),
        ('POE_API_KEYS="["key-one", "key-two"]"', ("key-one", "key-two")),
        ('POE_API_KEYS=\'[\n  "key-one",\n  "key-two"\n]\'', ("key-one", "key-two")),
        ("PROXY='\nPOE_API_KEYS='[\"key-one\"]'", ("key-one",)),
        ("POE_API_KEYS=\nPOE_API_KEYS=key-two", ("key-two",)),
        ("POE_API_KEYS= # none\n", ()),
        ("PORT=3700\n#POE_API_KEYS=key-one\n", ()),
        ("poe_api_keys=key-one", ("key-one",)),
    ],
)
def test_keys_in_an_env(text: str, expected: tuple[str, ...]) -> None:
    assert importing.parse(".env", text).poe_keys == expected


def test_byte_order_marks_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / ".env"

    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes("# 端口\nPORT=3701\n".encode(encoding))
        assert importing.read(file).port == 3701


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("simulate-roles = 0", "simulate_roles", "off"),
        ("simulate-roles = 1", "simulate_roles", "on"),
        ("simulate-roles = 2", "simulate_roles", "auto"),
        ("simulate-roles = true", "simulate_roles", "on"),
        ("SIMULATE_ROLES=2", "simulate_roles", "auto"),
        ("rate-limit = 10", "rate_limit", 10),
        ("RATE_LIMIT=10", "rate_limit", 10),
        ("timeout = 1.5", "idle_seconds", 1.5),
        ("timeout = 9", "first_event_seconds", 9),
        ("timeout = 9\napi-timeout = 7", "first_event_seconds", 7),
        ('proxy = "127.0.0.1:7890"', "proxy", "http://127.0.0.1:7890"),
        ('proxy = "HTTP://127.0.0.1:7890/"', "proxy", "http://127.0.0.1:7890"),
        ('proxy = "socks://127.0.0.1:1080"', "proxy", "socks5://127.0.0.1:1080"),
        ('proxy = ""', "proxy", ""),
    ],
)
def test_single_values(text: str, field: str, expected: object) -> None:
    old = importing.parse("config.toml", text)

    assert getattr(old, field) == expected
    assert old.ignored == ()


@pytest.mark.parametrize(
    "text",
    [
        "simulate-roles = 3",
        "rate-limit = 0",
        "rate-limit = 1.5",
        "port = 65536",
        'port = "many"',
        "port = true",
        "timeout = 0",
        "timeout = nan",
        "timeout = []",
        "proxy = 5",
        "apikey = 5",
        "apikey = [5]",
        'apikey = "[1, "',
        'apikey = ["two words"]',
        'apikey = ["your-poe-api-key-1"]',
        'apikey = ["p-b=made0up1"]',
        'apikey = [""]',
        'accessTokens = [""]',
        'accessTokens = ["1234567"]',
        'accessTokens = ["your-access-token1"]',
        'accessTokens = ["sk-poe-without-our-checksum"]',
        'accessTokens = ["bell\\u0007bell"]',
        "bot = 'capybara'",
        "[bot]\ntimeout = 5",
        "[bot]\n'gpt-4' = ''",
        "cool-down = 3",
        "gateway-port = 5100",
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_reason(text: str) -> None:
    old = importing.parse("config.toml", text)

    assert len(old.ignored) == 1
    assert old == OldConfig(ignored=old.ignored)


def test_a_line_of_an_env_that_is_none_is_counted_and_not_shown() -> None:
    old = importing.parse(".env", "PORT=3700\n\nmade-up secret on a line\n")

    assert old.ignored == ("line 3: not of the form KEY=VALUE",)


@pytest.mark.parametrize(
    "token", ["sk-made-up-old-token", "12345678", "tok en with spaces", "访问令牌访问令牌", "p-b=%3D%3D"]
)
def test_access_tokens_are_kept_as_they_are(token: str) -> None:
    assert importing.parse("config.toml", f'accessTokens = ["{token}"]').access_tokens == (token,)


def test_models_that_differ_by_case_alone_are_one() -> None:
    old = importing.parse("config.toml", 'bot_names = ["gpt-4", "O3"]\n[bot]\n"gpt-4" = "a"\n"GPT-4" = "b"\n')

    assert old.bots == (("gpt-4", "a"), ("O3", "O3"))
    assert [reason.split(":")[0] for reason in old.ignored] == ["GPT-4 -> b", "gpt-4 -> gpt-4"]


def test_a_token_out_of_the_public_sample_is_warned_of() -> None:
    public = "sk-R6phF8lDbv4oFHdaEN8UFeD5569d4b248aBb87F16b597479"  # the sample's, on purpose

    old = importing.parse("config.toml", f'accessTokens = ["{public}", "{ONE}"]')

    assert old.access_tokens == (public, ONE)
    assert len(old.warnings) == 1
    assert "everybody knows it" in old.warnings[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.toml", b"", "is empty"),
        ("config.toml", b" \n\n", "is empty"),
        (".env", b"\xef\xbb\xbf", "is empty"),
        (".env", b"\x80\x81", "not a text file"),
        ("config.toml", b"port = \n", "not valid TOML.*line 1"),
        ("config.toml", b"[server]\nport = 3700\n", "holds no setting"),
        (".env", b"just some words", "holds no setting"),
        (".env", b"DATABASE_URL=x\n", "holds no setting"),
    ],
)
def test_it_refuses_a_file_that_is_none(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(OldConfigError, match=sentence) as refusal:
        importing.read(file)

    assert "\n" not in str(refusal.value)


# The command.


@pytest.mark.django_db
def test_everything_is_stored() -> None:
    out = run("importconfig", SAMPLES / "poe_to_gpt.toml")

    account = PoeAccount.objects.get()
    keys = list(PoeKey.objects.order_by("name"))
    assert (account.name, account.team, account.is_demo) == ("imported", None, False)
    assert [(key.name, vault.unseal(key.secret)) for key in keys] == [
        ("imported-1", FIRST),
        ("imported-2", SECOND),
    ]
    assert {key.proxy for key in keys} == {"http://127.0.0.1:7890"}
    owner = User.objects.get()
    assert (owner.username, owner.has_usable_password()) == ("imported", False)
    assert owner.team == Team.objects.default()
    assert {token.name: token.digest for token in AccessToken.objects.all()} == {
        "imported 1": token_digest(ONE),
        "imported 2": token_digest(TWO),
    }
    assert BotMapping.objects.count() == 3
    assert "[server]\n    port = 8700\n    [poe]\n    idle_seconds = 180\n" in out


@pytest.mark.django_db
def test_limits_and_roles_go_to_the_keys_and_mappings() -> None:
    run("importconfig", SAMPLES / "poe_to_gpt_bots.toml")

    assert PoeKey.objects.get().requests_per_minute == 60
    assert set(BotMapping.objects.values_list("simulate_roles", flat=True)) == {"auto"}
    assert BotMapping.objects.get(model_key="gpt-4-turbo-preview").bot == "Claude-3-Opus"


@pytest.mark.django_db
@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.iterdir()))
def test_a_second_run_changes_nothing_and_says_so(sample: str) -> None:
    def everything() -> list[object]:
        tables = (PoeAccount, PoeKey, BotMapping, Team, User, AccessToken, DirectoryVersion)
        return [list(table.objects.order_by("pk").values()) for table in tables]

    first = run("importconfig", SAMPLES / sample)
    before = everything()
    second = run("importconfig", SAMPLES / sample)

    assert "took:" in first
    assert "Nothing changed" not in first
    assert second.startswith("Nothing changed")
    assert "took:" not in second
    assert everything() == before


@pytest.mark.django_db
@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.iterdir()))
def test_no_secret_is_printed(sample: str) -> None:
    out = run("importconfig", SAMPLES / sample) + run("importconfig", SAMPLES / sample)

    assert "1111" in out or "AAAA" in out
    assert [
        secret for secret in IN_FULL if f"{secret}\n" in out or f" {secret}" in out or f":{secret}@" in out
    ] == []


@pytest.mark.django_db
def test_another_file_adds_only_what_is_new() -> None:
    run("importconfig", SAMPLES / "poe_to_gpt_bots.toml")

    out = run("importconfig", SAMPLES / "poe_to_gpt.env")

    assert list(PoeKey.objects.order_by("pk").values_list("name", flat=True)) == ["imported-1", "imported-2"]
    assert "Poe key …AAAA, stored already as imported-1" in out
    assert "Poe key …BBBB as imported-2" in out
    assert "access token …1111, stored already as 'imported 1' of imported" in out
    assert PoeAccount.objects.count() == User.objects.count() == 1


@pytest.mark.django_db
def test_a_mapping_that_exists_is_left_alone() -> None:
    run("setmapping", "GPT-4", "gpt-5.4")

    out = run("importconfig", SAMPLES / "poe_to_gpt_bots.toml")

    assert BotMapping.objects.get(model_key="gpt-4").bot == "gpt-5.4"
    assert "kept as it is:" in out
    assert "gpt-4 -> gpt-5.4, since it exists already (the file says GPT-4)" in out


@pytest.mark.django_db
def test_a_token_that_was_disabled_is_not_revived() -> None:
    run("importconfig", SAMPLES / "poe_to_gpt.env")
    AccessToken.objects.update(enabled=False)

    out = run("importconfig", SAMPLES / "poe_to_gpt.env")

    assert "which is disabled" in out
    assert not AccessToken.objects.get().enabled


@pytest.mark.django_db
def test_bots_of_the_former_web_site_are_taken_and_named() -> None:
    out = run("importconfig", SAMPLES / "poe_openai_proxy.toml")

    assert BotMapping.objects.get(model_key="gpt-4").bot == "beaver"
    assert "name a bot of today with `manage.py setmapping gpt-4 BOT`" in out
    run("setmapping", "gpt-4", "gpt-5.4")
    assert "setmapping gpt-4 BOT" not in run("importconfig", SAMPLES / "poe_openai_proxy.toml")


@pytest.mark.django_db
@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1:21", "http://[", "http://", f"http://{'h' * 200}.test"])
def test_a_proxy_that_is_none_is_ignored_and_the_keys_are_taken(tmp_path: Path, proxy: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'apikey = ["{FIRST}"]\nproxy = "{proxy}"\n')

    out = run("importconfig", file)

    assert PoeKey.objects.get().proxy == ""
    assert "ignored:\n  proxy: " in out


@pytest.mark.django_db
def test_a_mapping_that_cannot_be_stored_is_ignored_and_the_others_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('bot_names = ["fine", "bell\\u0007", "%s"]\n' % ("n" * 201))

    out = run("importconfig", file)

    assert [mapping.model for mapping in BotMapping.objects.all()] == ["fine"]
    assert out.count("\n  '") == 2


@pytest.mark.django_db
def test_names_in_use_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'apikey = ["{FIRST}"]\n')
    run("importconfig", file)
    file.write_text(f'apikey = ["{SECOND}", "{FIRST}"]\n')

    run("importconfig", file)

    names = {vault.unseal(key.secret): key.name for key in PoeKey.objects.all()}
    assert names == {FIRST: "imported-1", SECOND: "imported-2"}


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        run("importconfig", tmp_path / name)
