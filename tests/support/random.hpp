// Random numbers of tests that try operations at random.
#pragma once

#include <cstddef>
#include <cstdint>

#include "verify/numbers.hpp"

namespace mixcomm::test {

/// The same on every rank that begins with the same seed.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(verify::mix(seed)) {}
  std::uint64_t next() { return verify::mix(++state_ * 0x9E3779B97F4A7C15ULL); }
  std::size_t below(std::size_t n) { return next() % n; }
  bool once_in(std::size_t n) { return below(n) == 0; }
  template <class T, std::size_t n>
  T one_of(const T (&choices)[n]) {
    return choices[below(n)];
  }

 private:
  std::uint64_t state_;
};

}  // namespace mixcomm::test
