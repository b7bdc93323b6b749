// One rank that runs examples/scaled_all_reduce.cuh, and knows what must come of it.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "cuda/device_kernels.hpp"
#include "verify/device.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {

struct ScaledKind {
  device::Wire wire;
  DType dtype;
  friend std::ostream& operator<<(std::ostream& out, const ScaledKind& kind) {
    return out << (kind.wire == device::Wire::lines ? "lines_" : "packets_") << name(kind.dtype);
  }
};

/// Element i of rank `rank`'s input in round `round`: halves of whole numbers, of several sizes, so that the
/// order of a sum shows.
inline std::uint32_t input_bits(DType dtype, int rank, std::size_t i, std::uint64_t round) {
  const std::uint64_t bits = verify::mix((round * 64 + static_cast<std::uint64_t>(rank)) << 32U | i);
  const auto whole = static_cast<float>(static_cast<int>(bits % 4001) - 2000);
  return verify::encode(dtype, whole * (bits >> 40U & 1U ? 0.5F : 16.25F));
}

/// Collective: from here on nobody loads kernels, allocates or captures, which may wait for kernels that run.
inline void all_are_ready(Bootstrap& bootstrap) {
  (void)bootstrap.exchange("being ready to launch", "");
}

/// One rank's buffers, and what must be in them.
class ScaledRank {
 public:
  static constexpr std::size_t most = 20'000;
  static constexpr float scale = 0.3F;

  ScaledRank(verify::Device& device, ScaledKind kind, const Team& team)
      : device_(device),
        kind_(kind),
        team_(team),
        in_(device.allocate(most * size_of(kind.dtype))),
        out_(device.allocate(most * size_of(kind.dtype))) {}

  void prepare(std::size_t count, std::uint64_t round) {
    std::vector<std::byte> bytes(count * size_of(kind_.dtype));
    for (std::size_t i = 0; i < count; ++i)
      verify::store(kind_.dtype, bytes.data(), i,
                    input_bits(kind_.dtype, team_.rank(team_.member), i, round));
    device_.write(in_.get(), bytes.data(), bytes.size());
  }
  void launch(const DeviceLanes& lanes, std::size_t count, bool in_place = false) {
    test::launch(
        {&lanes, lanes.lanes(), 1, device_.stream()},
        ScaledSum{kind_.wire, kind_.dtype, in_.get(), in_place ? in_.get() : out_.get(), count, scale});
  }
  /// Waits for the stream.
  [[nodiscard]] std::string check(std::size_t count, std::uint64_t round, bool in_place = false) {
    std::vector<std::byte> bytes(count * size_of(kind_.dtype));
    device_.read(bytes.data(), in_place ? in_.get() : out_.get(), bytes.size());
    for (std::size_t i = 0; i < count; ++i) {
      float sum = -0.0F;
      for (int m = 0; m < team_.size; ++m)
        sum += verify::decode(kind_.dtype, input_bits(kind_.dtype, team_.rank(m), i, round));
      const std::uint32_t want = verify::encode(kind_.dtype, sum * scale);
      if (const std::uint32_t got = verify::load(kind_.dtype, bytes.data(), i); got != want)
        return "round " + std::to_string(round) + ", element " + std::to_string(i) + " of " +
               std::to_string(count) + ": bits " + std::to_string(got) + " instead of " +
               std::to_string(want);
    }
    return "";
  }

 private:
  verify::Device& device_;
  ScaledKind kind_;
  Team team_;
  std::shared_ptr<std::byte> in_;
  std::shared_ptr<std::byte> out_;
};

}  // namespace mixcomm::test
