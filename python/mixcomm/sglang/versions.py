"""Which releases of SGLang are known, and what is hooked in each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hook:
    """One function of SGLang's that is wrapped.

    when: "around" (fn(original, ...)), "before" (fn(...)) or "after" (fn(result, ...)), as SGLang's
    HookType has them. parameters: the names that the function must have, in order, for the hook to be right;
    "**name" for those that it takes by any name.
    """

    target: str
    when: str
    fn: Callable[..., Any]
    parameters: tuple[str, ...]


# The releases that were tested, and the modules with their hooks.
_MODULES = {"0.5.17": "hooks_0_5_17", "0.5.23": "hooks_0_5_23"}


def known() -> list[str]:
    """The releases that were tested."""
    return sorted(_MODULES)


def hooks(version: str) -> list[Hook]:
    """What is hooked in this release, which must be a known one."""
    return importlib.import_module(f".{_MODULES[version]}", __package__).hooks()


def unknown_text(version: str) -> str:
    """What to do about another release."""
    releases = " and ".join(known())
    return (
        f"this is SGLang {version}, and mixcomm.sglang knows {releases}: other releases have other "
        f"functions at their "
        f"layer boundaries, and a hook on the wrong one would sum twice or not at all. Install one of "
        f"{releases}, or a "
        "mixcomm that knows yours"
    )
