#include "cpu/openmp_workers.hpp"

#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <string_view>

#include "mixcomm/error.hpp"

namespace mixcomm::cpu {
namespace {

/// void GOMP_parallel(function, its argument, threads, flags): runs function(argument) once on each thread.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

int look_at(dl_phdr_info* info, std::size_t /*bytes*/, void* found) {
  const std::string_view path = info->dlpi_name == nullptr ? "" : info->dlpi_name;
  const std::string_view file = path.substr(path.rfind('/') + 1);
  if (!file.starts_with("libgomp") && !file.starts_with("libiomp5") && !file.starts_with("libomp")) return 0;
  void* library = dlopen(info->dlpi_name, RTLD_NOLOAD | RTLD_LAZY);
  if (library == nullptr) return 0;
  void* function = dlsym(library, "GOMP_parallel");
  dlclose(library);  // which only takes back what dlopen() counted
  *static_cast<void**>(found) = function;
  return function != nullptr ? 1 : 0;
}

Parallel find_parallel() {
  // One that is visible to all comes first: it may have been preloaded to take the place of others.
  void* function = dlsym(RTLD_DEFAULT, "GOMP_parallel");
  if (function == nullptr) dl_iterate_phdr(look_at, &function);
  return reinterpret_cast<Parallel>(function);
}

}  // namespace

RunPieces openmp_workers(int threads) {
  const Parallel parallel = find_parallel();
  if (parallel == nullptr)
    throw InvalidArgument(
        "MIXCOMM_WORKERS is openmp, but no OpenMP runtime is loaded in this process (libgomp, libiomp5 or "
        "libomp); load what brings it first (import torch), or leave the variable out");
  return [parallel, threads](int pieces, const std::function<void(int)>& piece) {
    struct Region {
      const std::function<void(int)>& piece;
      int pieces;
      std::atomic<int> next{0};
    } region{piece, pieces};
    // Always as many threads, so that the runtime keeps them; whoever comes takes the next piece.
    parallel(
        [](void* argument) {
          auto& mine = *static_cast<Region*>(argument);
          for (int i = 0; (i = mine.next.fetch_add(1)) < mine.pieces;) mine.piece(i);
        },
        &region, static_cast<unsigned>(threads), 0);
  };
}

}  // namespace mixcomm::cpu
