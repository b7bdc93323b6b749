// All inline assembly: what PTX has and CUDA C++ has not, or not so that it stays one access.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {
namespace device::ptx {

/// Programmatic dependent launch: waits until the kernels before this one on the stream are complete and
/// their writes visible. Returns at once in a kernel that was launched without it.
__device__ inline void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel on the stream be brought onto the device; it waits for this one where it says so
/// itself.
__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// 8 bytes of data and the call's number, written and read as one: 16 bytes are a single access in PTX's
/// memory model.
struct Packet {
  unsigned __int128 both;
  [[nodiscard]] __device__ std::uint64_t data() const { return static_cast<std::uint64_t>(both); }
  [[nodiscard]] __device__ std::uint64_t number() const { return static_cast<std::uint64_t>(both >> 64U); }
};

__device__ inline void store_packet(void* address, std::uint64_t data, std::uint64_t number) {
  const unsigned __int128 packet = data | static_cast<unsigned __int128>(number) << 64U;
  asm volatile("st.relaxed.sys.global.b128 [%0], %1;" ::"l"(address), "q"(packet));
}

__device__ inline Packet load_packet(const void* address) {
  Packet packet;
  asm volatile("ld.relaxed.sys.global.b128 %0, [%1];" : "=q"(packet.both) : "l"(address));
  return packet;
}

/// load_packet() where `condition` holds, else nothing: without a branch.
__device__ inline void load_packet_if(bool condition, const void* address, Packet& packet) {
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p ld.relaxed.sys.global.b128 %0, [%1]; }"
               : "+q"(packet.both)
               : "l"(address), "r"(static_cast<std::uint32_t>(condition)));
}

/// 16 of the 128 bytes of a line. When the eight threads next to each other that have a line's parts store
/// them in one instruction, NVLink and the L2 cache keep the line together. (PTX does not promise that.)
__device__ inline void store_part(void* address, const std::uint32_t (&words)[4]) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

/// The same for a load, if `condition` holds; otherwise nothing is loaded. Without a branch.
__device__ inline void load_part_if(bool condition, const void* address, std::uint32_t (&words)[4]) {
  asm volatile(
      "{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4]; }"
      : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3])
      : "l"(address), "r"(static_cast<std::uint32_t>(condition)));
}

/// 8 bytes that another rank may be writing.
__device__ inline std::uint64_t load_number(const void* address) {
  std::uint64_t value = 0;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address));
  return value;
}

__device__ inline void store_release(std::uint32_t* address, std::uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ inline void store_relaxed(std::uint32_t* address, std::uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

/// When it has read what store_release wrote, what was written before that can be read.
__device__ inline std::uint32_t load_acquire(const std::uint32_t* address) {
  std::uint32_t value = 0;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

__device__ inline std::uint32_t load_relaxed(const std::uint32_t* address) {
  std::uint32_t value = 0;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address));
  return value;
}

/// 16 bytes that are read once: they take no place in L1.
__device__ inline void load_once(const void* address, std::uint32_t (&words)[4]) {
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "l"(address));
}

/// Has the 32 bytes around an address brought into L1. What it returns must be kept for a while: a load into
/// no register brings nothing.
[[nodiscard]] __device__ inline std::uint32_t expect(const void* somewhere) {
  const auto address = reinterpret_cast<std::uintptr_t>(somewhere) / 4 * 4;
  std::uint32_t value = 0;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(value) : "l"(address));
  return value;
}

/// 16 bytes from global to shared memory, both aligned: there when copies_done() has returned to this thread.
__device__ inline void start_copy(void* shared, const void* global) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
__device__ inline void copies_done() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// 16 bytes to this place of every rank, through a multicast address.
__device__ inline void store_multicast(void* address, const std::uint32_t (&words)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("multimem.st.weak.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address),
               "f"(__uint_as_float(words[0])), "f"(__uint_as_float(words[1])), "f"(__uint_as_float(words[2])),
               "f"(__uint_as_float(words[3]))
               : "memory");
#endif
}

#if __CUDA_ARCH__ >= 890
/// Two numbers as E4M3: the nearest, ties to even, at most 448; 7F for a NaN.
__device__ inline std::uint32_t to_fp8_pair(float low, float high) {
  std::uint16_t pair = 0;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

/// Has the compiler compute `value`, though nothing uses it.
__device__ inline void keep(std::uint32_t value) {
  asm volatile("" ::"r"(value));
}

/// Ends the calling thread. Barriers of its block no longer wait for it.
[[noreturn]] __device__ inline void leave() {
  asm volatile("exit;");
  __builtin_unreachable();
}

__device__ inline std::uint64_t nanoseconds() {
  std::uint64_t now = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

}  // namespace device::ptx
}  // namespace mixcomm
