// Which calls are checked on one grid.
#include <algorithm>
#include <numeric>

#include "verify/numbers.hpp"
#include "verify/verify.hpp"

namespace mixcomm::verify {
namespace {

struct Shape {
  std::vector<std::size_t> rows;
  std::size_t hidden;
  bool large = false;  ///< more than the smallest workspace holds: fewer kinds of cases
};

template <class Count>
std::vector<std::size_t> per_dp_rank(int dp, const Count& count) {
  std::vector<std::size_t> rows;
  for (std::size_t d = 0; d < static_cast<std::size_t>(dp); ++d) rows.push_back(count(d));
  return rows;
}

std::vector<Shape> shapes_of(const Matrix& matrix) {
  const auto last = static_cast<std::size_t>(matrix.dp) - 1;
  const auto rows = [&](auto count) { return per_dp_rank(matrix.dp, count); };
  std::vector<Shape> shapes = {
      {rows([](std::size_t) { return 1; }), 1},
      {rows([](std::size_t) { return 0; }), 64},
      {rows([](std::size_t) { return 4; }), 128},
      {rows([](std::size_t) { return 3; }), 7},
      {rows([](std::size_t d) { return (d * 5 + 3) % 7; }), 130},
      {rows([](std::size_t d) { return d % 2 == 0 ? 2 : 0; }), 96},               // idle DP ranks
      {rows([&](std::size_t d) { return d == last ? std::size_t{5} : 0; }), 33},  // all rows on one
  };
  if (!matrix.large) return shapes;
  shapes.push_back({rows([](std::size_t d) { return 3 + d; }), 2880, true});
  shapes.push_back({rows([](std::size_t d) { return d == 0 ? 20 : 1; }), 2048, true});
  if (matrix.backend == BackendKind::cpu) return shapes;
  shapes.push_back({rows([](std::size_t) { return 1; }), 5120, true});
  shapes.push_back({rows([](std::size_t d) { return d % 3; }), 7168, true});
  shapes.push_back({rows([](std::size_t d) { return 1 + d % 2; }), 4096, true});
  return shapes;
}

bool in_place(Buffers buffers) {
  return buffers == Buffers::in_place || buffers == Buffers::symmetric_in_place;
}

/// Whether a case of the full product is worth its time.
bool is_wanted(const Case& c, const Shape& shape, BackendKind backend, DType first_dtype) {
  const bool cuda = backend == BackendKind::cuda;
  if (c.algorithm == Algorithm::nccl) return c.values == Values::integers;  // it sums in an order of its own
  if (c.values == Values::integers && (shape.large || (cuda && c.dtype != first_dtype))) return false;
  if (!shape.large) return true;
  if (in_place(c.buffers) && c.algorithm != Algorithm::two_shot) return false;
  return !cuda || (c.dtype == first_dtype && c.buffers != Buffers::mixed);
}

/// The same call with its counts in device memory, and room for more rows; none where that is not offered.
std::vector<Case> with_rows_on_device(const Case& c, int dp, std::uint64_t seed) {
  const bool one_block = c.op == Op::all_reduce || dp == 1;
  if (c.algorithm == Algorithm::composed || c.algorithm == Algorithm::nccl || c.values == Values::integers ||
      (in_place(c.buffers) && !one_block))
    return {};
  Case moved = c;
  moved.seed = seed;
  moved.most = *std::max_element(c.rows.begin(), c.rows.end()) + moved.seed % 3;
  if (moved.most == 0) moved.most = 2;
  // As much as all may have together, or what is needed now.
  const std::size_t needed = std::accumulate(c.rows.begin(), c.rows.end(), std::size_t{0});
  if (moved.seed % 2 == 0) moved.room = std::max<std::size_t>(needed, 1);
  return {moved};
}

template <class T>
std::vector<T> or_all(const std::vector<T>& chosen, std::vector<T> all) {
  return chosen.empty() ? std::move(all) : chosen;
}

std::vector<Steps> steps_of(Quantize quantize) {
  return {
      {.adds = true, .keeps = true, .norms = true, .quantize = quantize},
      {.norms = true, .plus_one = true, .quantize = quantize, .eps = 1e-5F},
      {.adds = true, .keeps = true, .norms = true, .plus_one = true, .in_place = true, .quantize = quantize},
      {.adds = true, .quantize = quantize},
      {.adds = true, .norms = true, .quantize = quantize, .eps = 0.25F},
      {.keeps = true, .norms = true, .quantize = quantize},
      {.adds = true, .keeps = true, .in_place = true, .quantize = quantize},
      {.adds = true, .keeps = true, .quantize = quantize}};
}

/// The same calls, with every epilogue beside every operation, algorithm, dtype, shape and kind of buffers.
/// On CUDA `composed` has none that makes FP8 between its two operations.
std::vector<Case> with_epilogues(const std::vector<Case>& cases, BackendKind backend) {
  std::vector<Case> finished;
  for (const Case& each : cases) {
    // Of squares no order gives the same as another: what integers are for is shown without.
    if (each.algorithm == Algorithm::nccl || each.values == Values::integers) continue;
    finished.push_back(each);
    Steps& steps = finished.back().steps;
    steps = some_steps(each.seed, each.buffers);
    if (backend == BackendKind::cuda && each.algorithm == Algorithm::composed)
      steps.quantize = Quantize::none;
  }
  return finished;
}

}  // namespace

Steps some_steps(std::uint64_t seed, Buffers buffers) {
  static const std::vector<Steps> all = [] {
    std::vector<Steps> steps;
    for (const Quantize quantize :
         {Quantize::none, Quantize::per_token, Quantize::none, Quantize::per_128_columns, Quantize::fixed})
      for (const Steps& each : steps_of(quantize)) steps.push_back(each);
    return steps;
  }();
  Steps steps = all[mix(seed) % all.size()];
  if (in_place(buffers)) steps.quantize = Quantize::none;
  return steps;
}

std::vector<Case> cases_of(const Matrix& matrix) {
  const auto ops = or_all(matrix.ops, {Op::all_reduce, Op::all_gather, Op::reduce_scatter,
                                       Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce});
  const auto algorithms = or_all(matrix.algorithms, {Algorithm::automatic, Algorithm::one_shot,
                                                     Algorithm::two_shot, Algorithm::composed});
  const auto dtypes = or_all(matrix.dtypes, {DType::bf16, DType::fp16, DType::fp32});
  std::vector<Case> cases;
  std::uint64_t index = 0;
  // Spread, because buffers depend on it as well.
  const auto next_seed = [&] {
    return (static_cast<std::uint64_t>(matrix.tp * 64 + matrix.dp) << 32U) + (mix(++index) >> 32U);
  };
  for (const Shape& shape : shapes_of(matrix))
    for (const Op op : ops)
      for (const DType dtype : dtypes)
        for (const Algorithm algorithm : algorithms)
          for (const Buffers buffers : {Buffers::plain, Buffers::symmetric, Buffers::mixed, Buffers::in_place,
                                        Buffers::symmetric_in_place})
            for (const Values values : {Values::integers, Values::floats}) {
              const Case c{op, algorithm, dtype, buffers, values, shape.rows, shape.hidden, next_seed()};
              if (!is_wanted(c, shape, matrix.backend, dtypes.front())) continue;
              cases.push_back(c);
              if (matrix.backend != BackendKind::cuda) continue;
              for (Case& moved : with_rows_on_device(c, matrix.dp, next_seed()))
                cases.push_back(std::move(moved));
            }
  return matrix.epilogues ? with_epilogues(cases, matrix.backend) : cases;
}

std::size_t most_elements(const std::vector<Case>& cases, int dp) {
  std::size_t most = 1;
  for (const Case& c : cases) {
    const std::size_t all = std::accumulate(c.rows.begin(), c.rows.begin() + dp, std::size_t{0});
    const std::size_t room = c.most * static_cast<std::size_t>(dp);  // 'room' is no more than that
    most = std::max(most, std::max(all, room) * c.hidden);
  }
  return most;
}

}  // namespace mixcomm::verify
