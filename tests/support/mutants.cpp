#include "support/mutants.hpp"

namespace mixcomm {

namespace test {
Broken& broken() {
  static Broken instance;
  return instance;
}
}  // namespace test

// What the library calls.
namespace cpu {
bool drops_barrier(int index) {
  return index == test::broken().dropped_barrier;
}
bool alternates() {
  return !test::broken().one_workspace;
}
}  // namespace cpu

namespace cuda {
int mutant() {
  return test::broken().on_cuda;
}
}  // namespace cuda

}  // namespace mixcomm
