// Waiting a moment.
#pragma once

namespace mixcomm::cpu {

/// Between two looks at what another processor writes.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace mixcomm::cpu
