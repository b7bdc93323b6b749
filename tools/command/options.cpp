#include "tools/command/options.hpp"

#include <cstdint>
#include <cstdio>

namespace mixcomm::tools {

NamesFlag<Op> op_flag() {
  return {"--op",
          "Operations (all)",
          op_from_name,
          {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
           Op::reduce_scatter_all_reduce}};
}

NamesFlag<Algorithm> algorithms_flag() {
  return {"--algorithm",
          "Algorithms, or auto (all)",
          algorithm_from_name,
          {Algorithm::one_shot, Algorithm::two_shot, Algorithm::composed}};
}

Milliseconds RankFlags::timeout() const {
  return Milliseconds(static_cast<std::int64_t>(timeout_s * 1000));
}

void add_rank_flags(Flags& flags, RankFlags& values) {
  flags.yes("--processes", values.processes, "Ranks as processes, not as threads of this one");
  flags.seconds("--timeout", values.timeout_s, {0.1, 86400}, "No rank waits longer for another (30)");
}

void add_row_flags(Flags& flags, RowFlags& values) {
  const Integers count{0, most_rows};
  const Flag equal = flags.numbers("--rows", values.equal, count,
                                   "Rows of each DP rank, the same for all; several: one after the other");
  flags.numbers("--uneven", values.uneven, count, "Rows of each DP rank, one count for each, 0 allowed")
      .excludes(equal);
}

std::vector<std::vector<std::size_t>> RowFlags::per_dp_rank(int dp) const {
  const auto ranks = static_cast<std::size_t>(dp);
  if (!uneven.empty()) {
    if (uneven.size() != ranks)
      throw InvalidArgument(fmt::format("--uneven has {} counts for {} DP rank{}; give one for each",
                                        uneven.size(), dp, dp == 1 ? "" : "s"));
    return {uneven};
  }
  std::vector<std::vector<std::size_t>> all;
  for (const std::size_t rows : equal) all.emplace_back(ranks, rows);
  return all;
}

int world_of(int tp, int dp, int most) {
  if (tp < 1 || dp < 1 || static_cast<std::int64_t>(tp) * dp > most)
    throw InvalidArgument(
        fmt::format("a grid of {} x {} ranks cannot be: both must be at least 1, and there may be at most {} "
                    "ranks",
                    tp, dp, most));
  return tp * dp;
}

std::vector<GridSize> grids_from_texts(const std::vector<std::string>& texts) {
  std::vector<GridSize> grids;
  for (const std::string& text : texts) {
    GridSize grid;
    int length = 0;
    if (std::sscanf(text.c_str(), "%dx%d%n", &grid.tp, &grid.dp, &length) != 2 ||
        static_cast<std::size_t>(length) != text.size())
      throw InvalidArgument(fmt::format("--grids: '{}' is no grid; write TPxDP, as in 4x2", text));
    (void)world_of(grid.tp, grid.dp);
    grids.push_back(grid);
  }
  return grids;
}

void add_grids_flag(Flags& flags, std::vector<std::string>& texts, std::initializer_list<Flag> excluded) {
  const Flag grids = flags.list("--grids,--grid", texts, "TPxDP,...", "Several grids");
  for (const Flag& other : excluded) grids.excludes(other);
}

}  // namespace mixcomm::tools
