#include "verify/verify.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

namespace mixcomm::verify {
namespace {

// --- numbers, in plain scalar code that shares nothing with the library's
// ------------------------------------------------

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

float decode(DType dtype, std::uint32_t bits) {
  if (dtype == DType::fp32) return std::bit_cast<float>(bits);
  if (dtype == DType::bf16) return std::bit_cast<float>(bits << 16U);
  const std::uint32_t exponent = (bits >> 10U) & 31U;
  const auto mantissa = static_cast<float>(bits & 1023U);
  const float sign = (bits & 0x8000U) != 0 ? -1.0F : 1.0F;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(mantissa, -24)
                               : std::ldexp(1024.0F + mantissa, static_cast<int>(exponent) - 25));
}

/// Rounds to the nearest, ties to even, by looking at the two neighbours.
std::uint32_t encode(DType dtype, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (dtype == DType::fp32) return bits;
  if (dtype == DType::bf16) {
    const std::uint32_t below = bits >> 16U;
    const std::uint32_t rest = bits & 0xFFFFU;
    return rest > 0x8000U || (rest == 0x8000U && (below & 1U) != 0) ? below + 1 : below;
  }
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const double steps = std::nearbyint(std::ldexp(magnitude, 10 - exponent));  // ties to even
  if (exponent > 15 || (exponent == 15 && steps >= 2048)) return sign | 0x7C00U;
  // A carry into the next exponent falls out of the addition.
  return sign | (static_cast<std::uint32_t>(exponent + 14) * 1024U + static_cast<std::uint32_t>(steps));
}

std::uint32_t load(DType dtype, const std::byte* data, std::size_t i) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, data + i * size_of(dtype), size_of(dtype));
  return bits;
}
void store(DType dtype, std::byte* data, std::size_t i, std::uint32_t bits) {
  std::memcpy(data + i * size_of(dtype), &bits, size_of(dtype));
}

// --- the oracle
// -----------------------------------------------------------------------------------------------------------

/// Element i of what rank r puts in, for any rank: so that each rank knows all inputs without communication.
float input(const Case& c, int rank, std::size_t i) {
  const std::uint64_t h = mix(mix(c.seed * 64 + static_cast<std::uint64_t>(rank)) + i);
  if (c.values == Values::integers) return static_cast<float>(static_cast<int>(h % 9) - 4);
  const float value =
      std::ldexp(static_cast<float>(static_cast<std::int32_t>(h >> 32U)), -31 + static_cast<int>(h % 5));
  return decode(c.dtype, encode(c.dtype, value));
}

/// What rank (t, d) must find at element i of block `block`: written down from the definition of each
/// operation.
struct Oracle {
  const Case& c;
  Grid grid;
  std::size_t offset(int d) const {
    return std::accumulate(c.rows.begin(), c.rows.begin() + d, std::size_t{0}) * c.hidden;
  }
  float at(int t, int d, std::size_t i) const { return input(c, d * grid.tp.size + t, i); }
  float round(float x) const { return decode(c.dtype, encode(c.dtype, x)); }

  float sum_over_tp(int d, std::size_t i) const {
    float sum = at(0, d, i);
    for (int t = 1; t < grid.tp.size; ++t) sum += at(t, d, i);
    return sum;
  }
  float sum_over_dp(int t, std::size_t i) const {
    float sum = at(t, 0, i);
    for (int d = 1; d < grid.dp.size; ++d) sum += at(t, d, i);
    return sum;
  }
  float expected(int block, std::size_t i) const {
    switch (c.op) {
      case Op::all_reduce:
        return round(sum_over_tp(grid.dp.member, i));
      case Op::all_gather:
        return at(grid.tp.member, block, i);
      case Op::reduce_scatter:
        return round(sum_over_dp(grid.tp.member, offset(block) + i));
      case Op::all_reduce_all_gather:
        return round(sum_over_tp(block, i));
      case Op::reduce_scatter_all_reduce:
        break;
    }
    const std::size_t j = offset(block) + i;
    if (c.algorithm == Algorithm::composed && grid.tp.size > 1 && grid.dp.size > 1) {
      float sum = round(sum_over_dp(0, j));  // two operations, so two roundings
      for (int t = 1; t < grid.tp.size; ++t) sum += round(sum_over_dp(t, j));
      return round(sum);
    }
    float sum = sum_over_tp(0, j);
    for (int d = 1; d < grid.dp.size; ++d) sum += sum_over_tp(d, j);
    return round(sum);
  }
};

bool gathers(Op op) {
  return op == Op::all_reduce || op == Op::all_gather || op == Op::all_reduce_all_gather;
}

constexpr std::size_t guard = 64;  // bytes around `out` that must stay as they are
constexpr std::byte poison{0xA5};

}  // namespace

std::string_view name(Buffers buffers) {
  switch (buffers) {
    case Buffers::plain:
      return "plain";
    case Buffers::symmetric:
      return "symmetric";
    case Buffers::mixed:
      return "mixed";
    case Buffers::in_place:
      return "in_place";
    case Buffers::symmetric_in_place:
      break;
  }
  return "symmetric_in_place";
}

std::string describe(const Case& c) {
  return fmt::format("{} {} {} rows [{}] hidden {} {} {} seed {}", name(c.op), name(c.algorithm),
                     name(c.dtype), fmt::join(c.rows, ", "), c.hidden, name(c.buffers),
                     c.values == Values::integers ? "integers" : "floats", c.seed);
}

Verifier::Verifier(Communicator& communicator, std::size_t most_elements)
    : communicator_(communicator),
      in_(communicator.allocate(most_elements * 4 + 2 * guard)),
      out_(communicator.allocate(most_elements * 4 + 2 * guard)) {}

std::string Verifier::run(const Case& c) {
  const Grid& grid = communicator_.grid();
  const Oracle oracle{c, grid};
  const int d = grid.dp.member;
  const std::size_t esize = size_of(c.dtype);
  const bool gather = gathers(c.op);
  const bool one_block = c.op == Op::all_reduce;  // both tensors are the own block
  const std::size_t own = c.rows[static_cast<std::size_t>(d)] * c.hidden;
  const std::size_t all = one_block ? own : oracle.offset(grid.dp.size);
  const std::size_t in_elements = gather ? own : all;
  const std::size_t out_elements = gather ? all : own;

  const bool all_symmetric = c.buffers == Buffers::symmetric || c.buffers == Buffers::symmetric_in_place;
  const bool in_symmetric = all_symmetric || (c.buffers == Buffers::mixed && c.seed % 2 == 0);
  const bool out_symmetric = all_symmetric || (c.buffers == Buffers::mixed && c.seed % 2 == 1);
  const bool in_place = c.buffers == Buffers::in_place || c.buffers == Buffers::symmetric_in_place;
  // Plain buffers start at an odd place, so that unaligned data is the normal case.
  const auto shift_of = [&](bool symmetric) { return symmetric ? guard : guard + esize * (1 + c.seed % 7); };
  const auto prepare = [&](bool symmetric, SymmetricBuffer& shared, std::vector<std::byte>& plain,
                           std::size_t elements) {
    plain.resize(2 * guard + 8 * esize + elements * esize);
    std::byte* begin = symmetric ? shared.data() : plain.data();
    std::fill_n(begin, elements * esize + 2 * guard, poison);
    return begin + shift_of(symmetric);
  };
  std::byte* out = prepare(out_symmetric, out_, plain_out_, in_place ? all : out_elements);
  std::byte* in = nullptr;
  if (in_place) {
    // The smaller tensor is this rank's block of the larger one.
    std::byte* block = out + (one_block ? 0 : oracle.offset(d) * esize);
    in = gather ? block : out;
    if (!gather) out = block;
  } else {
    in = prepare(in_symmetric, in_, plain_in_, in_elements);
  }
  for (std::size_t i = 0; i < in_elements; ++i)
    store(c.dtype, in, i, encode(c.dtype, input(c, grid.rank(), i)));

  const std::size_t in_rows = c.hidden == 0 ? 0 : in_elements / c.hidden;
  const std::size_t out_rows = c.hidden == 0 ? 0 : out_elements / c.hidden;
  // Ranks without rows pass null as often as not.
  const bool null = c.seed % 2 == 0 && !in_place;
  const ConstTensor in_view{null && in_elements == 0 ? nullptr : in, in_rows, c.hidden, c.dtype};
  const Tensor out_view{null && out_elements == 0 ? nullptr : out, out_rows, c.hidden, c.dtype};
  communicator_.run(c.op, in_view, out_view, std::span<const std::size_t>(c.rows),
                    {.algorithm = c.algorithm});

  const auto wrong = [&](std::size_t i, std::uint32_t got, std::uint32_t want) {
    return fmt::format("rank {} (t {}, d {}): {}: element {} is {} (bits {:x}), expected {} (bits {:x})",
                       grid.rank(), grid.tp.member, d, describe(c), i, decode(c.dtype, got), got,
                       decode(c.dtype, want), want);
  };
  std::size_t i = 0;
  const int first = gather && !one_block ? 0 : d;
  const int last = gather && !one_block ? grid.dp.size : d + 1;
  for (int block = first; block < last; ++block) {
    const std::size_t n = c.rows[static_cast<std::size_t>(block)] * c.hidden;
    for (std::size_t k = 0; k < n; ++k, ++i) {
      const std::uint32_t got = load(c.dtype, out, i);
      const float expected = oracle.expected(block, k);
      const std::uint32_t want = encode(c.dtype, expected);
      const bool equal = c.values == Values::integers ? decode(c.dtype, got) == expected : got == want;
      if (!equal) return wrong(i, got, want);
    }
  }
  if (in_place) return "";
  const std::byte* after = out + out_elements * esize;
  if (std::any_of(out - guard, out, [](std::byte b) { return b != poison; }) ||
      std::any_of(after, after + guard - (shift_of(out_symmetric) - guard),
                  [](std::byte b) { return b != poison; }))
    return fmt::format("rank {}: {}: bytes beside 'out' were overwritten", grid.rank(), describe(c));
  return "";
}

std::vector<Case> cases_of(const Matrix& matrix) {
  const auto or_all = [](auto chosen, auto all) { return chosen.empty() ? all : chosen; };
  const auto ops =
      or_all(matrix.ops, std::vector<Op>{Op::all_reduce, Op::all_gather, Op::reduce_scatter,
                                         Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce});
  const auto algorithms =
      or_all(matrix.algorithms, std::vector<Algorithm>{Algorithm::automatic, Algorithm::one_shot,
                                                       Algorithm::two_shot, Algorithm::composed});
  const auto dtypes = or_all(matrix.dtypes, std::vector<DType>{DType::bf16, DType::fp16, DType::fp32});

  struct Shape {
    std::vector<std::size_t> rows;
    std::size_t hidden;
  };
  const auto dp = static_cast<std::size_t>(matrix.dp);
  const auto per_dp = [&](auto count) {
    std::vector<std::size_t> rows;
    for (std::size_t d = 0; d < dp; ++d) rows.push_back(count(d));
    return rows;
  };
  std::vector<Shape> shapes = {
      {per_dp([](std::size_t) { return 1; }), 1},
      {per_dp([](std::size_t) { return 0; }), 64},
      {per_dp([](std::size_t) { return 4; }), 128},
      {per_dp([](std::size_t) { return 3; }), 7},
      {per_dp([](std::size_t d) { return (d * 5 + 3) % 7; }), 130},
      {per_dp([](std::size_t d) { return d % 2 == 0 ? 2 : 0; }), 96},                 // idle DP ranks
      {per_dp([&](std::size_t d) { return d + 1 == dp ? std::size_t{5} : 0; }), 33},  // all rows on one
  };
  if (matrix.large) {
    shapes.push_back({per_dp([](std::size_t d) { return 3 + d; }), 2880});
    shapes.push_back({per_dp([](std::size_t d) { return d == 0 ? 20 : 1; }), 2048});
  }
  std::vector<Case> cases;
  std::uint64_t seed = static_cast<std::uint64_t>(matrix.tp * 64 + matrix.dp) << 32U;
  for (const Shape& shape : shapes)
    for (const Op op : ops)
      for (const DType dtype : dtypes)
        for (const Algorithm algorithm : algorithms)
          for (const Buffers buffers : {Buffers::plain, Buffers::symmetric, Buffers::mixed, Buffers::in_place,
                                        Buffers::symmetric_in_place}) {
            const bool big = shape.hidden >= 2048;
            if (big && (buffers == Buffers::in_place || buffers == Buffers::symmetric_in_place) &&
                algorithm != Algorithm::two_shot)
              continue;
            for (const Values values : {Values::integers, Values::floats}) {
              if (big && values == Values::integers) continue;
              cases.push_back({op, algorithm, dtype, buffers, values, shape.rows, shape.hidden, ++seed});
            }
          }
  return cases;
}

std::size_t most_elements(const std::vector<Case>& cases, int dp) {
  std::size_t most = 1;
  for (const Case& c : cases)
    most = std::max(most, std::accumulate(c.rows.begin(), c.rows.begin() + dp, std::size_t{0}) * c.hidden);
  return most;
}

}  // namespace mixcomm::verify
