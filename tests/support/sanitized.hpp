// Whether a sanitizer looks on, under which all is slower by ten and more: tests then take their small
// shapes.
#pragma once

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
