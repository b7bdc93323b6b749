#include "cpu/kernels.hpp"

#include <cstring>

namespace mixcomm::cpu {
namespace baseline {
void ordered_sum(const OrderedSum& sum);
}
#if defined(__x86_64__)
namespace avx2 {
void ordered_sum(const OrderedSum& sum);
}
namespace avx512 {
void ordered_sum(const OrderedSum& sum);
}
#endif

namespace {

struct Implementation {
  std::string_view name;
  void (*ordered_sum)(const OrderedSum&);
};

Implementation best_implementation() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return {"AVX-512", avx512::ordered_sum};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) return {"AVX2", avx2::ordered_sum};
#endif
  return {"baseline", baseline::ordered_sum};
}

const Implementation& implementation() {
  static const Implementation chosen = best_implementation();
  return chosen;
}

}  // namespace

void ordered_sum(const OrderedSum& sum) {
  if (sum.size == 0) return;
  if (sum.inner * sum.outer > 1) return implementation().ordered_sum(sum);
  for (int k = 0; k < sum.destination_count; ++k)
    if (sum.destinations[k] != sum.sources[0])
      std::memcpy(sum.destinations[k], sum.sources[0], sum.size * size_of(sum.dtype));
}

std::string_view instruction_set() {
  return implementation().name;
}

}  // namespace mixcomm::cpu
