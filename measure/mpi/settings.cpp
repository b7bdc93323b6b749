#include "measure/mpi/settings.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace mixcomm::tools::mpi {
namespace {

// What matters on one host (docs/measuring.md says what was tried): how large messages are copied (once
// through the kernel, or through shared memory), which algorithm sums, and, where ranks share processors,
// when a waiting rank gives its processor up.
std::vector<Flavour> flavours(bool crowded) {
  const std::vector<std::string> open_mpi{"--oversubscribe", "--bind-to", "none",      "--mca", "pml", "ob1",
                                          "--mca",           "btl",       "self,vader"};
  const auto with = [](std::vector<std::string> base, const std::vector<std::string>& more) {
    base.insert(base.end(), more.begin(), more.end());
    return base;
  };
  Flavour openmpi{"openmpi", "mpiexec.openmpi", "mixcomm-mpi-openmpi", "openmpi-bin and libopenmpi-dev", {}};
  openmpi.settings.push_back({"default", open_mpi, {}});
  openmpi.settings.push_back(
      {"no kernel copies", with(open_mpi, {"--mca", "btl_vader_single_copy_mechanism", "none"}), {}});
  openmpi.settings.push_back({"no kernel copies, long eager messages",
                              with(open_mpi, {"--mca", "btl_vader_single_copy_mechanism", "none", "--mca",
                                              "btl_vader_eager_limit", "65536"}),
                              {}});
  if (crowded)
    openmpi.settings.push_back(
        {"yielding, unbound", with(open_mpi, {"--mca", "mpi_yield_when_idle", "1"}), {}, false});

  Flavour mpich{"mpich", "mpiexec.mpich", "mixcomm-mpi-mpich", "mpich and libmpich-dev", {}};
  mpich.settings.push_back({"default", {"-bind-to", "none"}, {}});
  if (crowded)
    mpich.settings.push_back({"yielding", {"-bind-to", "none"}, {{"MPIR_CVAR_POLLS_BEFORE_YIELD", "1"}}});
  // One setting each, but for oneCCL's: they have no others that matter on one host.
  const auto peer = [](std::string name, bool one_team_alone) {
    const char* python = std::getenv("MIXCOMM_PEER_PYTHON");
    std::error_code ignored;
    const auto here = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
    const std::string script = (here / "mixcomm-peer.py").string();
    return Flavour{.name = name,
                   .launcher = python != nullptr && *python != '\0' ? python : "python3",
                   .worker = "libmixcomm-peer.so",
                   .packages = "",
                   .settings = {{"default", {script, name}, {}}},
                   .is_mpi = false,
                   .one_team_alone = one_team_alone};
  };
  Flavour oneccl = peer("oneccl", false);
  oneccl.settings.push_back(
      {"no worker thread", oneccl.settings.front().arguments, {{"CCL_WORKER_OFFLOAD", "0"}}});
  return {openmpi, mpich, peer("deepspeed", true), peer("vllm", false), oneccl, peer("gloo", false)};
}

const std::vector<Flavour>& all_flavours(bool crowded) {
  static const std::vector<Flavour> all[] = {flavours(false), flavours(true)};
  return all[crowded ? 1 : 0];
}

}  // namespace

bool Flavour::can(const Cell& cell, int tp, int dp) const {
  if (is_mpi) return true;
  const bool even = std::all_of(cell.rows.begin(), cell.rows.end(),
                                [&](std::size_t rows) { return rows == cell.rows[0] && rows > 0; });
  const Grid team = grid_of(Grid::of(tp, dp, 0), shape_of(cell.op).team);
  return one_team_alone ? team.world.size == tp * dp : even;
}

std::vector<std::string> flavour_names() {
  std::vector<std::string> names;
  for (const Flavour& each : all_flavours(false)) names.push_back(each.name);
  return names;
}

const Flavour* flavour(std::string_view name, bool crowded) {
  const auto& some = all_flavours(crowded);
  const auto found = std::find_if(some.begin(), some.end(), [&](const Flavour& f) { return f.name == name; });
  return found == some.end() ? nullptr : &*found;
}

}  // namespace mixcomm::tools::mpi
