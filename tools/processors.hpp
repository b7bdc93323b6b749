// On which processors the ranks of a measurement run.
#pragma once

namespace mixcomm::tools {

/// Processors that this process may run on.
[[nodiscard]] int usable_processors();

/// The calling thread runs on the usable processor number `rank` modulo their number from here on, as ranks
/// do that a launcher binds. Of no effect where that is refused.
void bind_to_processor_of(int rank);

}  // namespace mixcomm::tools
