#include "tools/mpi/settings.hpp"

#include <algorithm>

namespace mixcomm::tools::mpi {
namespace {

// What matters on one host (docs/performance.md says what was tried): how large messages are copied (once
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
  return {openmpi, mpich};
}

}  // namespace

const Flavour* flavour(std::string_view name, bool crowded) {
  static const std::vector<Flavour> all[] = {flavours(false), flavours(true)};
  const auto& some = all[crowded ? 1 : 0];
  const auto found = std::find_if(some.begin(), some.end(), [&](const Flavour& f) { return f.name == name; });
  return found == some.end() ? nullptr : &*found;
}

}  // namespace mixcomm::tools::mpi
