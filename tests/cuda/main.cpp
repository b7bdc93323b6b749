// The tests on a GPU: one executable for ranks as streams of one process, one for ranks as processes.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "verify/device.hpp"

int main(int argc, char** argv) {
  // Streams of one process share its hardware queues, 8 unless told otherwise: with fewer queues than
  // streams, a kernel may have to wait for one that waits for it. Read when CUDA starts, which it has not.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  if (argc == 2 && std::string_view(argv[1]) == "--why-no-cuda") {
    std::puts(mixcomm::verify::why_no_cuda().c_str());
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
