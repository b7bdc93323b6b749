#include "tools/check/check_cases.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace mixcomm::tools {
namespace {

constexpr std::array all_buffers{verify::Buffers::plain, verify::Buffers::symmetric,
                                 verify::Buffers::in_place, verify::Buffers::symmetric_in_place};

verify::Buffers verify_buffers_from_name(std::string_view text) {
  for (const verify::Buffers each : all_buffers)
    if (name(each) == text) return each;
  throw InvalidArgument(fmt::format(
      "no kind of buffers is named '{}'; there are: plain, symmetric, in_place, symmetric_in_place", text));
}

/// The rows and the hidden size that were asked for, in place of the matrix's own.
std::vector<verify::Case> with_shapes(const std::vector<verify::Case>& cases,
                                      const std::vector<std::vector<std::size_t>>& row_counts,
                                      std::size_t hidden) {
  // Every kind of case occurs in the matrix with its first shape.
  std::vector<verify::Case> result;
  for (const auto& rows : row_counts)
    for (const verify::Case& each : cases) {
      if (each.rows != cases[0].rows || each.hidden != cases[0].hidden) continue;
      verify::Case shaped = each;
      shaped.rows = rows;
      shaped.hidden = hidden;
      shaped.seed += (result.size() + 1) << 16U;
      if (each.most != 0) {  // counts in device memory: as much room as those of the matrix had beyond them
        const std::size_t beyond = each.most - *std::max_element(each.rows.begin(), each.rows.end());
        shaped.most = std::max<std::size_t>(*std::max_element(rows.begin(), rows.end()) + beyond, 1);
        if (each.room != 0)
          shaped.room = std::max<std::size_t>(std::accumulate(rows.begin(), rows.end(), std::size_t{0}), 1);
      }
      result.push_back(shaped);
    }
  return result;
}

}  // namespace

void add_case_flags(Flags& flags, CaseFlags& values) {
  add_names(flags, op_flag(), values.ops);
  add_names(flags, {"--algorithm", "Algorithms (all)", algorithm_from_name, {}}, values.algorithms);
  add_names(flags, {"--dtype", "Element types (all)", dtype_from_name, {}}, values.dtypes);
  add_names(flags, {"--buffers", "Kinds of memory (all)", verify_buffers_from_name, {}}, values.buffers);
  add_row_flags(flags, values.rows);
  flags.number("--hidden", values.hidden, {1, most_rows}, "Elements of these rows (4096)");
  flags.yes("--epilogues", values.epilogues,
            "Calls with epilogues, each with one of them all in turn: residual, norm, FP8");
  flags.yes("--quick", values.quick, "Without the messages that are longer than the workspace");
}

std::vector<verify::Case> check_cases_of(const CaseFlags& flags, const verify::Matrix& grid) {
  if (std::find(flags.algorithms.begin(), flags.algorithms.end(), Algorithm::nccl) != flags.algorithms.end())
    throw InvalidArgument(
        "--algorithm nccl: NCCL sums in orders of its own, so its results have no bits to compare; check "
        "auto, one_shot, "
        "two_shot or composed");
  verify::Matrix matrix = grid;
  matrix.ops = flags.ops;
  matrix.algorithms = flags.algorithms;
  matrix.dtypes = flags.dtypes;
  matrix.large = !flags.quick;
  matrix.epilogues = flags.epilogues;
  auto cases = verify::cases_of(matrix);
  constexpr std::size_t default_hidden = 4096;
  const bool has_rows = !flags.rows.equal.empty() || !flags.rows.uneven.empty();
  if (flags.hidden != 0 && !has_rows) throw InvalidArgument("--hidden needs --rows or --uneven");
  if (has_rows)
    cases = with_shapes(cases, flags.rows.per_dp_rank(grid.dp),
                        flags.hidden != 0 ? flags.hidden : default_hidden);
  if (!flags.buffers.empty())
    std::erase_if(cases, [&](const verify::Case& each) {
      return std::find(flags.buffers.begin(), flags.buffers.end(), each.buffers) == flags.buffers.end();
    });
  constexpr std::size_t limit = std::size_t{1} << 30U;
  if (verify::most_elements(cases, grid.dp) > limit)
    throw InvalidArgument(
        fmt::format("the largest tensor would have more than {} elements; ask for fewer rows or a "
                    "smaller hidden",
                    limit));
  return cases;
}

}  // namespace mixcomm::tools
