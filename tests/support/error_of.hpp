// What an error says.
#pragma once

#include <functional>
#include <string>

namespace mixcomm::test {

/// The text of the E that `fn` throws; "no error" if it throws nothing.
template <class E>
std::string error_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const E& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace mixcomm::test
