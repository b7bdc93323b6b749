// On which processors the ranks of a measurement run.
#pragma once

namespace mixcomm::tools {

/// Processors that this process may run on, before any of its ranks is bound.
[[nodiscard]] int usable_processors();

/// The calling thread, and those that it starts, run on `threads` usable processors from here on, as ranks do
/// that a launcher binds: those from number rank * threads on, counted node by node, and around where there
/// are fewer. Of no effect where that is refused.
void bind_to_processors_of(int rank, int threads = 1);

}  // namespace mixcomm::tools
