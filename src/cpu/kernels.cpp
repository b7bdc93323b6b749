#include "cpu/kernels.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "mixcomm/error.hpp"

namespace mixcomm::cpu {

#define MIXCOMM_DECLARE_KERNELS(isa)                                     \
  namespace isa {                                                        \
  void ordered_sum(const OrderedSum& sum);                               \
  void stream(void* destination, const void* source, std::size_t lines); \
  void finish_row(const RowEpilogue& row);                               \
  }
MIXCOMM_DECLARE_KERNELS(baseline)
#if defined(__x86_64__)
MIXCOMM_DECLARE_KERNELS(avx2)
MIXCOMM_DECLARE_KERNELS(avx512)
MIXCOMM_DECLARE_KERNELS(avx512_bf16)
#endif
#undef MIXCOMM_DECLARE_KERNELS

namespace {

#if defined(__x86_64__)
/// Not every compiler knows its name. What AVX-512 itself needs of the system is looked at beside it.
bool has_avx512_bf16() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5U & 1U) != 0;
}
#endif

std::vector<Implementation> find_implementations() {
  std::vector<Implementation> found;
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512 && has_avx512_bf16())
    found.push_back({"AVX-512 BF16", avx512_bf16::ordered_sum, avx512_bf16::stream, avx512_bf16::finish_row});
  if (has_avx512) found.push_back({"AVX-512", avx512::ordered_sum, avx512::stream, avx512::finish_row});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
    found.push_back({"AVX2", avx2::ordered_sum, avx2::stream, avx2::finish_row});
#endif
  found.push_back({"baseline", baseline::ordered_sum, baseline::stream, baseline::finish_row});
  return found;
}

Implementation chosen_implementation() {
  const auto usable = usable_implementations();
  const char* wanted = std::getenv("MIXCOMM_INSTRUCTION_SET");
  if (wanted == nullptr || *wanted == '\0') return usable.front();
  std::string names;
  for (const Implementation& each : usable) {
    if (each.name == wanted) return each;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", each.name);
  }
  throw InvalidArgument(
      fmt::format("MIXCOMM_INSTRUCTION_SET is '{}'; this processor has: {}", wanted, names));
}

const Implementation& implementation() {
  static const Implementation chosen = chosen_implementation();
  return chosen;
}

}  // namespace

std::span<const Implementation> usable_implementations() {
  static const std::vector<Implementation> found = find_implementations();
  return found;
}

void ordered_sum(const OrderedSum& sum) {
  if (sum.size == 0) return;
  if (sum.inner * sum.outer > 1 || sum.out != sum.dtype) return implementation().ordered_sum(sum);
  for (int k = 0; k < sum.destination_count; ++k)
    copy(sum.destinations[k], sum.sources[0], sum.size * size_of(sum.dtype),
         k < sum.destination_count - sum.streamed_count ? Stores::cached : Stores::streamed);
}

void finish_row(RowEpilogue row) {
  thread_local std::vector<std::byte> scratch;
  const std::size_t needed = 2 * row.sum.size * size_of(row.sum.out);
  if (scratch.size() < needed) scratch.resize(needed);
  row.scratch = scratch.data();
  implementation().finish_row(row);
}

void copy(void* destination, const void* source, std::size_t bytes, Stores stores) {
  if (destination == source || bytes == 0) return;
  constexpr std::size_t line = 64;
  std::size_t done = 0;
  if (stores == Stores::streamed && reinterpret_cast<std::uintptr_t>(destination) % line == 0) {
    done = bytes / line * line;
    implementation().stream(destination, source, done / line);
  }
  std::memcpy(static_cast<std::byte*>(destination) + done, static_cast<const std::byte*>(source) + done,
              bytes - done);
}

std::string_view instruction_set() {
  return implementation().name;
}

}  // namespace mixcomm::cpu
