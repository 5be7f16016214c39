"""Which mapping answers a model, as this caller may see it, and why."""

from __future__ import annotations

from dataclasses import replace

from relay.directory import Caller, Directory, Mapping, matches
from relay.errors import UnknownModel


def resolve(directory: Directory, model: str, caller: Caller) -> Mapping:
    """The mapping that answers this model, or UnknownModel. Exact before wildcard; the longest wildcard first.

    A wildcard's bot may be `*`: the bot is then named as the model is.
    """
    exact = directory.find_exact(model)
    for mapping in [exact] if exact else directory.find_wildcards(model):
        if may_use(mapping, model, caller):
            return replace(mapping, bot=model) if mapping.bot == "*" else mapping
    raise UnknownModel(
        f"The model {model!r} does not exist or you may not use it. `GET /v1/models` lists yours.",
        param="model",
    )


def may_use(mapping: Mapping, model: str, caller: Caller) -> bool:
    if mapping.team_ids and caller.team_id not in mapping.team_ids:
        return False
    return not caller.allowed_models or matches(model, caller.allowed_models)


def listed(directory: Directory, caller: Caller) -> list[Mapping]:
    """What `GET models` shows: wildcards have no name of their own to show."""
    seen = [mapping for mapping in directory.listed_mappings() if may_use(mapping, mapping.model, caller)]
    return sorted(seen, key=lambda mapping: mapping.key)
