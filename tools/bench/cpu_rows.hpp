// From what `mixcomm bench --backend cpu` measured to the rows of its result.
#pragma once

#include <string>
#include <vector>

#include "measure/bench_cpu.hpp"
#include "tools/bench/bench_rows.hpp"

namespace mixcomm::tools {

/// The objects of one cell in the JSON of the results (docs/measuring.md says what is in them): what was
/// measured at the distance at which most was, and beside it what there is of the other one. Of each MPI the
/// setting counts that was quickest in this cell.
[[nodiscard]] Json cpu_cell_json(const BenchOptions& options, const Row& row, const CellResult& result,
                                 const std::vector<std::unique_ptr<mpi::Job>>& jobs);

/// The columns that only CPU results have, below the table: the machine's bound and other MPIs.
void print_cpu_table(const Json& results);

}  // namespace mixcomm::tools
