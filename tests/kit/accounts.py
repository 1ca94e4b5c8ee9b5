"""Accounts at providers, as the configuration has them."""

from typing import get_args, get_type_hints

import msgspec

from shared.config.providers import ProviderSection


def smallest_account(provider: str) -> str:
    """The section with its required keys alone, all of them texts; empty if the provider has no account."""
    if provider not in ProviderSection.__struct_fields__:
        return ""
    (section, _) = get_args(get_type_hints(ProviderSection)[provider])
    required = [field.encode_name for field in msgspec.structs.fields(section) if field.required]
    return "".join([f"[provider.{provider}]\n", *(f'{key} = "x"\n' for key in required)])
