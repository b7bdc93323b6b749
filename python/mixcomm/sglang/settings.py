"""What the environment says; the variables are SGLang's style, since SGLang's users set them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidArgument

# The largest tensor with all rows, in bytes, that was measured: there the fused operations take 20 us, two
# NCCL calls 53 (four H100, docs/performance.md). bench/sglang/limit.py measures larger ones.
DEFAULT_MAX_BYTES = 4 << 20
# As SGLang's own --watchdog-timeout: ranks may be minutes apart while kernels are compiled at the first
# batch.
DEFAULT_TIMEOUT = 300.0

SWITCH = "SGLANG_USE_MIXED_COMM"
STRICT = "SGLANG_MIXED_COMM_STRICT"
CHECK = "SGLANG_MIXED_COMM_CHECK"
MAX_BYTES = "SGLANG_MIXED_COMM_MAX_BYTES"
TIMEOUT = "SGLANG_MIXED_COMM_TIMEOUT"
NORM = "SGLANG_MIXED_COMM_NORM"
# What an unset SGLANG_MIXED_COMM_NORM means.
DEFAULT_NORM = "0"

_YES = ("1", "true")
_NO = ("", "0", "false")


@dataclass(frozen=True)
class Norms:
    """Which operations add the residual and compute the RMSNorm behind their sum."""

    gather: bool = False
    exit: bool = False


_BOTH, _NEITHER = Norms(gather=True, exit=True), Norms()
_NORMS = {
    "1": _BOTH,
    "true": _BOTH,
    "0": _NEITHER,
    "false": _NEITHER,
    "gather": Norms(gather=True),
    "exit": Norms(exit=True),
}


@dataclass(frozen=True)
class Settings:
    """What was asked for; the same on all ranks, which is checked."""

    strict: bool = False
    check: bool = False
    max_bytes: int = DEFAULT_MAX_BYTES
    timeout: float = DEFAULT_TIMEOUT
    norm: Norms = _NORMS[DEFAULT_NORM]


def switched_on(environ: Mapping[str, str] | None = None) -> bool:
    """Whether SGLANG_USE_MIXED_COMM is 1 or true; of anything else it is off."""
    environ = os.environ if environ is None else environ
    return environ.get(SWITCH, "").strip().lower() in _YES


def _flag(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").strip().lower()
    if value not in _YES + _NO:
        raise InvalidArgument(
            f"{name}={environ[name]!r} is neither 1 or true nor 0 or false; set one of them"
        )
    return value in _YES


def _norms(environ: Mapping[str, str]) -> Norms:
    value = environ.get(NORM, "").strip().lower() or DEFAULT_NORM
    if value not in _NORMS:
        raise InvalidArgument(
            f"{NORM}={environ[NORM]!r} is none of {', '.join(_NORMS)}; set 1 for gathers and exits, or "
            f"one of the two, or unset it for {DEFAULT_NORM}"
        )
    return _NORMS[value]


def _number(environ: Mapping[str, str], name: str, default: float, least: float, unit: str) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (least <= value < float("inf")):
        raise InvalidArgument(
            f"{name}={text!r} is no number of {unit}, {least:g} or more; unset it for {default:g}"
        )
    return value


def strict(environ: Mapping[str, str] | None = None) -> bool:
    """Whether what cannot be fused ends the server; an unreadable value counts as yes."""
    environ = os.environ if environ is None else environ
    return environ.get(STRICT, "").strip().lower() not in _NO


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings. Raises InvalidArgument for values that cannot be read."""
    environ = os.environ if environ is None else environ
    return Settings(
        strict=_flag(environ, STRICT),
        check=_flag(environ, CHECK),
        max_bytes=int(_number(environ, MAX_BYTES, DEFAULT_MAX_BYTES, 0, "bytes")),
        timeout=_number(environ, TIMEOUT, DEFAULT_TIMEOUT, 1, "seconds"),
        norm=_norms(environ),
    )
