#include "all_or_none.hpp"

#include <fmt/format.h>

#include <exception>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

constexpr std::size_t longest_text = 4096;  // an exchange takes no more than twice that

/// What a rank sends: one of these, then its result, or its error's text.
enum Outcome : char {
  done = '+',
  invalid_argument = 'I',
  unsupported = 'U',
  disagreement = 'D',
  cuda_error = 'C',
  system_error = 'S',
};

std::string failure(Outcome outcome, const std::exception& error) {
  return static_cast<char>(outcome) + std::string(error.what()).substr(0, longest_text);
}

std::string outcome_of(const std::function<std::string()>& mine) {
  try {
    return static_cast<char>(done) + mine();
  } catch (const InvalidArgument& error) {
    return failure(invalid_argument, error);
  } catch (const Unsupported& error) {
    return failure(unsupported, error);
  } catch (const Disagreement& error) {
    return failure(disagreement, error);
  } catch (const CudaError& error) {
    return failure(cuda_error, error);
  } catch (const std::exception& error) {
    return failure(system_error, error);
  }
}

[[noreturn]] void raise(char outcome, const std::string& text) {
  switch (outcome) {
    case invalid_argument:
      throw InvalidArgument(text);
    case unsupported:
      throw Unsupported(text);
    case disagreement:
      throw Disagreement(text);
    case cuda_error:
      throw CudaError(text);
    default:
      throw SystemError(text);
  }
}

}  // namespace

std::vector<std::string> all_or_none(Meeting& meeting, std::string_view step,
                                     const std::function<std::string()>& mine) {
  std::vector<std::string> all = meeting.exchange(step, outcome_of(mine));
  for (std::size_t r = 0; r < all.size(); ++r) {
    const char outcome = all[r].empty() ? char{system_error} : all[r].front();
    all[r].erase(0, 1);
    if (outcome != done)
      raise(outcome,
            fmt::format("rank {}, {}: {}", meeting.rank_in_whole(static_cast<int>(r)), step, all[r]));
  }
  return all;
}

}  // namespace mixcomm
