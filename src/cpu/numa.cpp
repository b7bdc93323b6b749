#include "cpu/numa.hpp"

#if defined(MIXCOMM_HAS_HWLOC)
#include <hwloc.h>

#include <memory>
#endif

namespace mixcomm::cpu {

#if defined(MIXCOMM_HAS_HWLOC)
namespace {

/// Read once: it takes milliseconds. Null where it cannot be read.
hwloc_topology_t topology() {
  struct Owner {
    Owner() {
      if (hwloc_topology_init(&topology) != 0) {
        topology = nullptr;
        return;
      }
      // Nodes and processing units alone.
      hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
      if (hwloc_topology_load(topology) == 0) return;
      hwloc_topology_destroy(topology);
      topology = nullptr;
    }
    ~Owner() {
      if (topology != nullptr) hwloc_topology_destroy(topology);
    }
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;
    hwloc_topology_t topology = nullptr;
  };
  static const Owner owner;
  return owner.topology;
}

struct FreeBitmap {
  void operator()(hwloc_bitmap_t set) const { hwloc_bitmap_free(set); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, FreeBitmap>;

}  // namespace

void place_on_my_node(void* data, std::size_t bytes) {
  if (numa_nodes() < 2) return;
  const Bitmap processors(hwloc_bitmap_alloc());
  const Bitmap nodes(hwloc_bitmap_alloc());
  if (hwloc_get_cpubind(topology(), processors.get(), HWLOC_CPUBIND_THREAD) != 0) return;
  hwloc_cpuset_to_nodeset(topology(), processors.get(), nodes.get());
  if (hwloc_bitmap_isequal(nodes.get(), hwloc_topology_get_topology_nodeset(topology())) != 0) return;
  (void)hwloc_set_area_membind(topology(), data, bytes, nodes.get(), HWLOC_MEMBIND_BIND,
                               HWLOC_MEMBIND_BYNODESET);
}

int numa_nodes() {
  return topology() == nullptr ? 1 : hwloc_get_nbobjs_by_type(topology(), HWLOC_OBJ_NUMANODE);
}

#else

void place_on_my_node(void* /*data*/, std::size_t /*bytes*/) {}

int numa_nodes() {
  return 1;
}

#endif

}  // namespace mixcomm::cpu
