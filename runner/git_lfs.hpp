// What a clone without Git LFS has in place of large files: three lines of text that name them.
#pragma once

#include <filesystem>
#include <string_view>

namespace mixcomm::runner {

/// Throws InvalidArgument, naming the file, if that text is its beginning and the file such a pointer.
void refuse_lfs_pointer(std::string_view file, std::string_view text);

/// Looks into the file, if it is a regular one; what else is wrong with it, its reader finds.
void refuse_lfs_pointer(const std::filesystem::path& file);

}  // namespace mixcomm::runner
