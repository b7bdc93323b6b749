#include "tools/bench_cells.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <numeric>

#include "verify/numbers.hpp"

namespace mixcomm::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t calls_per_turn = 32;
constexpr std::size_t warm_up_calls = 16;
constexpr std::size_t least_calls = 2 * calls_per_turn;  ///< however slow, so that a p50 means something
constexpr std::size_t most_calls = 1'000'000;
constexpr std::size_t alignment = 4096;  ///< of symmetric memory, and so of plain
constexpr std::size_t shifts = 8;        ///< different inputs, a cache line apart in the source

void fill(std::vector<std::byte>& memory, DType dtype, std::uint64_t seed) {
  std::array<std::uint32_t, 9> integers{};
  for (std::size_t i = 0; i < integers.size(); ++i)
    integers[i] = verify::encode(dtype, static_cast<float>(i) - 4);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
  for (std::size_t i = 0; i + size_of(dtype) <= memory.size(); i += size_of(dtype)) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    std::memcpy(memory.data() + i, &integers[(state >> 33U) % integers.size()], size_of(dtype));
  }
}

std::byte* aligned(std::vector<std::byte>& memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (alignment - address % alignment) % alignment;
}

bool gathers(Op op) {
  return op == Op::all_gather || op == Op::all_reduce_all_gather;
}

}  // namespace

std::string_view name(Buffers buffers) {
  return buffers == Buffers::plain ? "plain" : "symmetric";
}

Buffers buffers_from_name(std::string_view name) {
  if (name == "plain") return Buffers::plain;
  if (name == "symmetric") return Buffers::symmetric;
  throw InvalidArgument(fmt::format("no kind of buffers is named '{}'; there are: symmetric, plain", name));
}

std::string to_string(const Variant& variant) {
  return variant.protocol == Protocol::automatic
             ? std::string(name(variant.algorithm))
             : fmt::format("{}/{}", name(variant.algorithm), name(variant.protocol));
}

std::size_t tensor_bytes(const Cell& cell, std::size_t hidden, DType dtype) {
  const std::size_t rows = cell.op == Op::all_reduce
                               ? *std::max_element(cell.rows.begin(), cell.rows.end())
                               : std::accumulate(cell.rows.begin(), cell.rows.end(), std::size_t{0});
  return rows * hidden * size_of(dtype);
}

Bench::Bench(Bootstrap& bootstrap, Communicator& communicator, std::size_t hidden, DType dtype,
             std::size_t most_bytes)
    : communicator_(communicator),
      hidden_(hidden),
      dtype_(dtype),
      meeting_(bootstrap, calls_per_turn, communicator.options().timeout),
      in_(communicator.allocate(std::max<std::size_t>(most_bytes, 1))),
      out_(communicator.allocate(std::max<std::size_t>(most_bytes, 1))),
      plain_in_(most_bytes + alignment),
      plain_out_(most_bytes + alignment),
      source_(most_bytes + shifts * 64) {
  fill(source_, dtype, static_cast<std::uint64_t>(bootstrap.rank()) + 1);
}

std::vector<Latencies> Bench::measure(const Cell& cell, const Effort& effort) {
  const bool symmetric = cell.buffers == Buffers::symmetric;
  const Memory memory =
      symmetric ? Memory{in_.data(), out_.data()} : Memory{aligned(plain_in_), aligned(plain_out_)};
  const std::size_t count = cell.variants.size();
  std::vector<Latencies> latencies(count);
  for (const Variant& variant : cell.variants) turn(cell, variant.algorithm, memory, warm_up_calls);

  const auto start = Clock::now();
  std::size_t calls = 0;
  for (bool more = true; more;) {
    const std::size_t now =
        effort.iterations == 0 ? calls_per_turn : std::min(calls_per_turn, effort.iterations - calls);
    for (std::size_t i = 0; i < count; ++i) {
      // None is always first, or always behind the same other one.
      const std::size_t which = (i + calls / calls_per_turn) % count;
      turn(cell, cell.variants[which].algorithm, memory, now);
      meeting_.barrier();
      collect(now, latencies[which]);
    }
    calls += now;
    const std::chrono::duration<double> spent = Clock::now() - start;
    more = effort.iterations != 0
               ? calls < effort.iterations
               : calls < least_calls || (spent.count() < effort.seconds && calls < most_calls);
    more = meeting_.decided_by_rank_0(more);
  }
  return latencies;
}

void Bench::turn(const Cell& cell, Algorithm algorithm, const Memory& memory, std::size_t calls) {
  const Grid& grid = communicator_.grid();
  const std::size_t own = cell.rows[static_cast<std::size_t>(grid.dp.member)];
  const std::size_t all = std::accumulate(cell.rows.begin(), cell.rows.end(), std::size_t{0});
  const bool one_block = cell.op == Op::all_reduce;
  const Tensor in{memory.in, one_block || gathers(cell.op) ? own : all, hidden_, dtype_};
  const Tensor out{memory.out, one_block || !gathers(cell.op) ? own : all, hidden_, dtype_};
  const RowCounts rows{std::span<const std::size_t>(cell.rows)};
  const std::span<float> mine = meeting_.latencies(grid.rank());
  for (std::size_t i = 0; i < calls; ++i) {
    std::memcpy(memory.in, source_.data() + written_++ % shifts * 64, in.bytes());
    meeting_.barrier();
    const auto begin = Clock::now();
    communicator_.run(cell.op, in, out, rows, {.algorithm = algorithm});
    mine[i] = std::chrono::duration<float, std::micro>(Clock::now() - begin).count();
  }
}

void Bench::collect(std::size_t calls, Latencies& into) const {
  // The others' next turn begins with a barrier, which this rank comes to after this; but its latencies are
  // written only behind that barrier.
  const Grid& grid = communicator_.grid();
  if (grid.rank() != 0) return;
  for (std::size_t i = 0; i < calls; ++i) {
    float longest = 0;
    for (int r = 0; r < grid.world.size; ++r) longest = std::max(longest, meeting_.latencies(r)[i]);
    into.push_back(static_cast<double>(longest));
  }
}

}  // namespace mixcomm::tools
