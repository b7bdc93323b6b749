// A ncclComm_t of the test's own, as an engine has one.
#pragma once

#include <dlfcn.h>

#include <string>
#include <type_traits>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::test {

/// The little of NCCL that makes a communicator; the same in every NCCL 2. The tests build without its
/// headers, too.
struct Nccl {
  struct Id {
    char bytes[128];
  };
  int (*get_unique_id)(Id*);
  int (*comm_init_rank)(void**, int, Id, int);
  int (*comm_destroy)(void*);

  /// Loads it, as Python does: not visible to others unless they look for it. Null where there is none.
  static const Nccl* load() {
    static Nccl nccl{};
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    const auto look_up = [library](const char* name, auto& function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    };
    look_up("ncclGetUniqueId", nccl.get_unique_id);
    look_up("ncclCommInitRank", nccl.comm_init_rank);
    look_up("ncclCommDestroy", nccl.comm_destroy);
    return &nccl;
  }
};

/// One rank's ncclComm_t. Collective.
class NcclComm {
 public:
  NcclComm(const Nccl& nccl, Bootstrap& bootstrap) : nccl_(nccl) {
    Nccl::Id id{};
    if (bootstrap.rank() == 0 && nccl.get_unique_id(&id) != 0) throw SystemError("ncclGetUniqueId failed");
    const auto all = bootstrap.exchange("sharing NCCL's id", std::string(id.bytes, sizeof(id.bytes)));
    all[0].copy(id.bytes, sizeof(id.bytes));
    if (nccl.comm_init_rank(&comm_, bootstrap.world(), id, bootstrap.rank()) != 0)
      throw SystemError("ncclCommInitRank failed; NCCL_DEBUG=WARN says why");
  }
  ~NcclComm() { (void)nccl_.comm_destroy(comm_); }
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  [[nodiscard]] void* get() const { return comm_; }

 private:
  const Nccl& nccl_;
  void* comm_ = nullptr;
};

}  // namespace mixcomm::test
