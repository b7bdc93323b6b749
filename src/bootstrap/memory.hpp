// Zeroed memory that several ranks map.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace mixcomm {

/// Maps `bytes` of `fd` (or anonymous memory for -1) shared; unmapped with the last pointer. Throws
/// SystemError.
[[nodiscard]] std::shared_ptr<std::byte> map_shared(std::size_t bytes, int fd);

/// Gives the pages of shared memory back to the system, of all who have mapped them: they read as zeros, and
/// take memory again when they are touched. Throws SystemError.
void give_back(std::byte* data, std::size_t bytes);

/// Throws Disagreement unless all ranks, each of which said how many bytes, ask for the same.
void check_same_size(const std::vector<std::string>& bytes_by_rank);

}  // namespace mixcomm
