// The kernels of every instruction set that this processor has, against sums made one element at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "cpu/kernels.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::cpu {
namespace {

struct Memory {
  alignas(64) std::byte bytes[4096 * 4 + 64];
};

/// Any bits at all: subnormal numbers, infinities and NaN included, and more of those than chance would
/// bring.
std::uint32_t random_bits(DType dtype, std::mt19937_64& random) {
  const auto bits = static_cast<std::uint32_t>(random());
  const bool wide = dtype == DType::fp32;
  switch (random() % 8) {
    case 0:  // subnormal, or zero
      return wide ? bits & 0x807FFFFFU : bits & (dtype == DType::bf16 ? 0x807FU : 0x83FFU);
    case 1:  // infinite, or NaN
      return wide ? bits | 0x7F800000U : (bits | (dtype == DType::bf16 ? 0x7F80U : 0x7C00U)) & 0xFFFFU;
    default:
      return wide ? bits : bits & 0xFFFFU;
  }
}

float value(DType dtype, const void* memory, std::size_t i) {
  return verify::decode(dtype, verify::load(dtype, static_cast<const std::byte*>(memory), i));
}

/// The bits of `expected`; where that is NaN, any NaN: which one depends on the order of an addition's
/// operands.
bool is(DType dtype, std::uint32_t bits, float expected) {
  return std::isnan(expected) ? std::isnan(verify::decode(dtype, bits))
                              : bits == verify::encode(dtype, expected);
}

/// Neighbours are added, level by level; who has none waits for the next level.
template <class Term>
float tree_sum(int count, const Term& term) {
  std::vector<float> sums;
  for (int n = 0; n < count; ++n) sums.push_back(term(n));
  while (sums.size() > 1) {
    std::vector<float> above;
    for (std::size_t n = 0; n < sums.size(); n += 2)
      above.push_back(n + 1 < sums.size() ? sums[n] + sums[n + 1] : sums[n]);
    sums = above;
  }
  return sums[0];
}

TEST(Kernels, AllGiveTheBitsOfTheDefinition) {
  std::mt19937_64 random(1);
  constexpr int most_sources = 16;
  const auto memories = std::make_unique<Memory[]>(most_sources + 3);
  for (const Implementation& implementation : usable_implementations())
    for (const DType dtype : {DType::bf16, DType::fp16, DType::fp32})
      for (int round = 0; round < 150; ++round) {
        const int inner = 1 + static_cast<int>(random() % (round % 3 == 0 ? most_sources : 4));
        const int least = inner == 1 ? 2 : 1;
        const int outer =
            least + static_cast<int>(random() % static_cast<unsigned>(most_sources / inner - least + 1));
        const int destination_count = 1 + static_cast<int>(random() % 3);
        const std::size_t size = 1 + random() % (round % 2 == 0 ? 4096 : 100);
        const std::size_t shift = random() % 3 == 0 ? size_of(dtype) : 0;
        std::vector<const void*> sources;
        for (int s = 0; s < inner * outer; ++s) {
          std::byte* memory = memories[static_cast<std::size_t>(s)].bytes + shift;
          for (std::size_t i = 0; i < size; ++i) verify::store(dtype, memory, i, random_bits(dtype, random));
          sources.push_back(memory);
        }
        std::vector<void*> destinations;
        for (int k = 0; k < destination_count; ++k) {
          Memory& memory = memories[most_sources + static_cast<std::size_t>(k)];
          std::memset(memory.bytes, 0x5A, sizeof(memory.bytes));
          destinations.push_back(memory.bytes + shift);
        }
        implementation.ordered_sum(
            {.dtype = dtype,
             .sources = sources.data(),
             .inner = inner,
             .outer = outer,
             .destinations = destinations.data(),
             .destination_count = destination_count,
             .streamed_count = static_cast<int>(random() % static_cast<unsigned>(destination_count + 1)),
             .size = size});
        const auto source = [&](int index, std::size_t i) {
          return value(dtype, sources[static_cast<std::size_t>(index)], i);
        };
        for (std::size_t i = 0; i < size; ++i) {
          const float total = tree_sum(
              outer, [&](int o) { return tree_sum(inner, [&](int s) { return source(o * inner + s, i); }); });
          for (const void* destination : destinations) {
            const std::uint32_t got = verify::load(dtype, static_cast<const std::byte*>(destination), i);
            ASSERT_TRUE(is(dtype, got, total))
                << implementation.name << ", " << name(dtype) << ", element " << i << " of " << size << ", "
                << inner << " x " << outer << " sources: " << std::hex << got << " instead of "
                << std::bit_cast<std::uint32_t>(total);
          }
        }
        for (int k = 0; k < destination_count; ++k) {
          const Memory& memory = memories[most_sources + static_cast<std::size_t>(k)];
          for (std::size_t i = shift + size * size_of(dtype); i < sizeof(memory.bytes); ++i)
            ASSERT_EQ(memory.bytes[i], std::byte{0x5A}) << implementation.name << " wrote behind the end";
        }
      }
}

/// What crosses between hosts: sums of 16 bits in fp32, not rounded, and such sums rounded to 16 bits; with a
/// residual behind them as well.
TEST(Kernels, SumsMayStayInFp32AndBeRoundedLater) {
  std::mt19937_64 random(4);
  const auto memories = std::make_unique<Memory[]>(8);
  for (const Implementation& implementation : usable_implementations())
    for (const DType dtype : {DType::bf16, DType::fp16})
      for (const int count : {1, 2, 3, 4, 7})
        for (const std::size_t size : {1UL, 100UL, 777UL}) {
          const std::string which = std::string(implementation.name) + ", " + std::string(name(dtype)) +
                                    ", " + std::to_string(count) + " sources of " + std::to_string(size);
          std::vector<const void*> sources;
          for (int s = 0; s < count; ++s) {
            Memory& memory = memories[static_cast<std::size_t>(s)];
            for (std::size_t i = 0; i < size; ++i)
              verify::store(dtype, memory.bytes, i,
                            verify::encode(dtype, std::normal_distribution<float>()(random)));
            sources.push_back(memory.bytes);
          }
          std::vector<float> wide(size);
          void* destination = wide.data();
          const auto value_of = [&](int s, std::size_t i) {
            return value(dtype, static_cast<const std::byte*>(sources[static_cast<std::size_t>(s)]), i);
          };
          implementation.ordered_sum({.dtype = dtype,
                                      .sources = sources.data(),
                                      .inner = count,
                                      .destinations = &destination,
                                      .size = size,
                                      .out = DType::fp32});
          for (std::size_t i = 0; i < size; ++i)
            ASSERT_EQ(wide[i], tree_sum(count, [&](int s) { return value_of(s, i); })) << which;
          // Three such sums, and a residual.
          const std::vector<const void*> sums(3, wide.data());
          const Memory& residual = memories[0];
          for (const bool adds : {false, true}) {
            std::vector<std::byte> rounded(size * 2);
            std::vector<std::byte> scratch(size * 4);
            destination = rounded.data();
            const OrderedSum sum{.dtype = DType::fp32,
                                 .sources = sums.data(),
                                 .outer = 3,
                                 .destinations = &destination,
                                 .size = size,
                                 .out = dtype};
            if (adds)
              implementation.finish_row({.sum = sum, .residual = residual.bytes, .scratch = scratch.data()});
            else
              implementation.ordered_sum(sum);
            for (std::size_t i = 0; i < size; ++i) {
              float expected = wide[i] + wide[i] + wide[i];
              if (adds) expected += value(dtype, residual.bytes, i);
              ASSERT_TRUE(is(dtype, verify::load(dtype, rounded.data(), i), expected)) << which;
            }
          }
        }
}

/// What lets a host add up its own ranks and pass on the sum.
TEST(Kernels, GroupsOfNeighboursAreSubtrees) {
  constexpr std::size_t size = 300;
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> memory(24, std::vector<float>(size));
  for (std::vector<float>& each : memory)
    for (float& x : each) x = normal(random);
  for (const Implementation& implementation : usable_implementations()) {
    const auto sum = [&](const std::vector<const float*>& of, int inner) {
      const std::vector<const void*> sources(of.begin(), of.end());
      std::vector<float> result(size);
      void* destination = result.data();
      implementation.ordered_sum({.dtype = DType::fp32,
                                  .sources = sources.data(),
                                  .inner = inner,
                                  .outer = static_cast<int>(of.size()) / inner,
                                  .destinations = &destination,
                                  .size = size});
      return result;
    };
    for (const int tp : {1, 2, 3, 8})
      for (const int dp : {2, 3, 4, 5, 8}) {
        if (tp * dp > 24) continue;
        std::vector<const float*> all;
        for (int s = 0; s < tp * dp; ++s) all.push_back(memory[static_cast<std::size_t>(s)].data());
        const std::vector<float> expected = sum(all, tp);
        for (const int groups : {1, 2, 4}) {  // DP ranks of a host
          if (tp * groups == 1 || groups >= dp) continue;
          std::vector<std::vector<float>> partial;
          for (int d = 0; d < dp; d += groups) {
            const auto first = all.begin() + d * tp;
            const std::vector<const float*> mine(first, first + std::min(groups, dp - d) * tp);
            partial.push_back(mine.size() == 1 ? std::vector<float>(mine[0], mine[0] + size) : sum(mine, tp));
          }
          std::vector<const float*> sums;
          for (const std::vector<float>& each : partial) sums.push_back(each.data());
          EXPECT_EQ(sum(sums, 1), expected) << implementation.name << ", tp " << tp << ", dp " << dp << ", "
                                            << groups << " DP ranks on each host";
        }
      }
  }
}

TEST(Kernels, CopiesWithEitherStoresAndAnyAlignment) {
  std::mt19937_64 random(2);
  const auto from = std::make_unique<Memory>();
  const auto to = std::make_unique<Memory>();
  for (std::byte& b : from->bytes) b = static_cast<std::byte>(random());
  for (const Stores stores : {Stores::cached, Stores::streamed})
    for (int round = 0; round < 300; ++round) {
      const std::size_t source = random() % 64;
      const std::size_t destination = round % 2 == 0 ? 0 : random() % 64;
      const std::size_t size = random() % (round % 3 == 0 ? 16000 : 200);
      std::memset(to->bytes, 0x5A, sizeof(to->bytes));
      copy(to->bytes + destination, from->bytes + source, size, stores);
      ASSERT_EQ(std::memcmp(to->bytes + destination, from->bytes + source, size), 0);
      for (std::size_t i = 0; i < sizeof(to->bytes); ++i) {
        const bool outside = i < destination || i >= destination + size;
        ASSERT_TRUE(!outside || to->bytes[i] == std::byte{0x5A}) << i;
      }
    }
}

TEST(Kernels, TheBaselineIsAlwaysThere) {
  EXPECT_EQ(usable_implementations().back().name, "baseline");
}

}  // namespace
}  // namespace mixcomm::cpu
