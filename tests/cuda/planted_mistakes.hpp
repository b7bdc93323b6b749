// Mistakes that compute-sanitizer must find, or it was not looking.
#pragma once

namespace mixcomm::test {

/// On the current device: a kernel that writes behind an allocation, and reads from shared memory what
/// another thread may not have written yet. CUDA's own checks find neither.
void make_planted_mistakes();

}  // namespace mixcomm::test
