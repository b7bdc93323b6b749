// The measuring of `mixcomm bench --backend cpu`: one rank's part.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "measure/bench_cells.hpp"
#include "measure/epilogues.hpp"
#include "measure/exact_inputs.hpp"
#include "measure/flag_probe.hpp"
#include "measure/machine_bound.hpp"
#include "measure/meeting.hpp"
#include "measure/mpi/job.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools {

/// Some calls in a row, and how far apart the processors were around them.
struct Chunk {
  Distance distance = Distance::near;
  Latencies latencies;
};
/// What was measured of one contestant.
struct Measured {
  bool takes_part = true;  ///< else there are no chunks: it cannot do that
  std::vector<Chunk> chunks;
  /// Of the chunks at that distance; for `mixed`, of all.
  [[nodiscard]] Latencies at(Distance distance) const;
};

/// What came of a cell; filled on rank 0 alone, but for `wrong`.
struct CellResult {
  std::vector<Measured> variants;  ///< by variant of the cell
  std::vector<Measured> jobs;      ///< by MPI job
  Measured bound;                  ///< MachineBound
  std::vector<double> flags_ns;    ///< the probes between the chunks
  double copy_us = 0;              ///< all ranks at once, each with all threads: as many bytes as the tensor
  std::string wrong;               ///< which result was not the exact sum, on the rank that had it
};

class CpuBench {
 public:
  struct Options {
    std::size_t hidden = 4096;
    DType dtype = DType::bf16;
    std::size_t most_bytes = 0;  ///< of tensor_bytes() of the cells to come
    int threads = 1;             ///< of each rank, which has a processor for each
    bool probes = true;          ///< how far apart processors are, where ranks 0 and 1 are bound to two
    bool epilogues = false;      ///< some cells to come have one
  };
  /// Collective.
  CpuBench(Bootstrap& bootstrap, Communicator& communicator, const Options& options,
           const std::vector<std::unique_ptr<mpi::Job>>& jobs);

  /// Before each call every rank writes new inputs, then all meet; then each measures its call, and reads its
  /// result. Variants, the bound and MPI jobs take turns of some calls each, so that noise of the machine
  /// meets them alike; while one is at work, the others' ranks sleep or are in it. Collective.
  [[nodiscard]] CellResult measure(const Cell& cell, const Effort& effort);

 private:
  struct Memory {
    std::byte* in;
    std::byte* out;
    std::byte* sums;  ///< with epilogues: for those in separate steps, where they are not `out`
  };
  /// Contestants are numbered: variants, then the bound, then jobs.
  void turn(const Cell& cell, std::size_t contestant, std::uint64_t calls);
  void call(const Cell& cell, const Variant& variant);
  void turn_of_job(const Cell& cell, const mpi::Job& job, std::uint64_t calls, bool check);
  [[nodiscard]] Latencies collect(const Cell& cell, std::size_t contestant, std::uint64_t calls) const;
  /// How many calls make a chunk.
  [[nodiscard]] std::uint64_t chunk_calls(const Cell& cell, std::size_t contestant);
  [[nodiscard]] std::string check(const Cell& cell);
  [[nodiscard]] double copy_us(const Cell& cell);
  [[nodiscard]] Memory memory_of(const Cell& cell) const;

  Bootstrap& bootstrap_;
  Communicator& communicator_;
  Options options_;
  const std::vector<std::unique_ptr<mpi::Job>>& jobs_;
  Meeting meeting_;
  FlagProbe probe_;
  MachineBound bound_;
  ExactInputs inputs_;
  std::unique_ptr<verify::Device> host_;
  std::unique_ptr<Epilogues> epilogues_;  ///< none where no cell has one
  SymmetricBuffer in_;
  SymmetricBuffer out_;
  SymmetricBuffer sums_;
  std::vector<std::byte> plain_in_;
  std::vector<std::byte> plain_out_;
  std::vector<std::byte> plain_sums_;
  std::uint64_t round_ = 0;
};

}  // namespace mixcomm::tools
