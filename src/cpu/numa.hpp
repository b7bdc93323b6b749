// On which NUMA node a rank's memory lies.
#pragma once

#include <cstddef>

namespace mixcomm::cpu {

/// Pages of [data, data + bytes) that are not in use yet shall come from the NUMA nodes that the calling
/// thread is bound to: to be called by the rank that owns them, before anyone touches them. `data` is page
/// aligned. Does nothing where there is one node, where the thread may run on all, or without hwloc: then
/// they come from where they are touched first. Advice, so a failure is none.
void place_on_my_node(void* data, std::size_t bytes);

/// How many NUMA nodes this host has, as far as is known here; 1 without hwloc.
[[nodiscard]] int numa_nodes();

}  // namespace mixcomm::cpu
