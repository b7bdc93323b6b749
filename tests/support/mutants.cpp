#include "support/mutants.hpp"

namespace mixcomm {

std::atomic<Mutant>& test::broken() {
  static std::atomic<Mutant> instance{Mutant::none};
  return instance;
}

Mutant current_mutant() {  // what the library asks
  return test::broken();
}

}  // namespace mixcomm
