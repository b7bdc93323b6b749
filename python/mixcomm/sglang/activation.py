"""The entry point: registers the hooks of this SGLang, where the plug-in is switched on."""

from __future__ import annotations

import logging

from . import settings, versions

logger = logging.getLogger("mixcomm.sglang")


def activate() -> None:
    """Called by SGLang in each of its processes, before models are loaded. Does nothing unless switched on.

    SGLang only logs what is thrown here, so all that may be wrong with the deployment or the settings is
    found by the hook that makes the communicator. With SGLANG_MIXED_COMM_STRICT=1 another release of SGLang
    ends the process.
    """
    if not settings.switched_on():
        return
    import sglang

    version = getattr(sglang, "__version__", "of unknown version")
    if version not in versions.known():
        text = versions.unknown_text(version)
        if settings.strict():
            raise SystemExit(f"mixcomm: {text}; {settings.STRICT} is set")
        logger.warning("mixcomm: %s. SGLang runs as it is", text)
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for hook in versions.hooks(version):
        HookRegistry.register(hook.target, hook.fn, HookType(hook.when))
