"""Which releases of SGLang are known, and what is hooked in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hook:
    """One function of SGLang's that is wrapped.

    when: "around" (fn(original, ...)), "before" (fn(...)) or "after" (fn(result, ...)), as SGLang's
    HookType has them. parameters: the names that the function must have, in order, for the hook to be right.
    """

    target: str
    when: str
    fn: Callable[..., Any]
    parameters: tuple[str, ...]


def known() -> dict[str, Callable[[], list[Hook]]]:
    """The hooks of each release that was tested, by its version."""
    from . import hooks_0_5_17, hooks_0_5_23

    return {"0.5.17": hooks_0_5_17.hooks, "0.5.23": hooks_0_5_23.hooks}


def unknown_text(version: str) -> str:
    """What to do about another release."""
    releases = " and ".join(sorted(known()))
    return (
        f"this is SGLang {version}, and mixcomm.sglang knows {releases}: other releases have other "
        f"functions at their "
        f"layer boundaries, and a hook on the wrong one would sum twice or not at all. Install one of "
        f"{releases}, or a "
        "mixcomm that knows yours"
    )
