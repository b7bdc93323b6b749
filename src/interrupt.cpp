#include "mixcomm/interrupt.hpp"

#include <utility>

namespace mixcomm {
namespace {

thread_local InterruptCheck current = nullptr;

}  // namespace

InterruptScope::InterruptScope(InterruptCheck check) : before_(std::exchange(current, check)) {}

InterruptScope::~InterruptScope() {
  current = before_;
}

bool interrupted() {
  return current != nullptr && current();
}

}  // namespace mixcomm
