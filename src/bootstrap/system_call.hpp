// What it means that a system call failed, and what to do about it.
#pragma once

#include <string>
#include <string_view>

namespace mixcomm {

/// "memfd_create: Operation not permitted; ...": the call, the error, and where it is one of this process's
/// limits, or of what a container may do, the way out.
[[nodiscard]] std::string failure_of(std::string_view call, int error);

/// Whether the call failed because too many files are open, or there is no memory: then what was looked for
/// may well be there.
[[nodiscard]] bool is_shortage(int error);

/// Whether the call failed because it is not allowed here, or not known: it will not be the next time either.
[[nodiscard]] bool is_forbidden(int error);

/// Throws SystemError: `what`, and failure_of(`call`, errno).
[[noreturn]] void throw_failed(std::string_view what, std::string_view call);

/// How many files this process may still open, as far as `enough`. Opens none: another thread may need them.
[[nodiscard]] int descriptors_left(int enough);

/// Throws SystemError unless this process may open that many files more: `what` says for what.
void need_descriptors(int needed, std::string_view what);

}  // namespace mixcomm
