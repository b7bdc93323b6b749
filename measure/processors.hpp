// On which processors the ranks of a measurement run.
#pragma once

namespace mixcomm::tools {

/// How many processors this process may use, counted as the library does (cpu::usable_processors(): no more
/// than the control group grants), as the first call finds it: it must come before any rank is bound.
[[nodiscard]] int processors_at_start();

/// The calling thread, and those that it starts, run on `threads` usable processors from here on, as ranks do
/// that a launcher binds: those from number rank * threads on, counted node by node, and around where there
/// are fewer. Of no effect where that is refused.
void bind_to_processors_of(int rank, int threads = 1);

}  // namespace mixcomm::tools
