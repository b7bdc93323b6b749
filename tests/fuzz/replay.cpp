// Gives a target the inputs of files and folders, one after the other: what the tests run, with any compiler.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fuzz/target.hpp"

int main(int count, char** arguments) {
  namespace fs = std::filesystem;
  std::vector<fs::path> inputs;
  for (int i = 1; i < count; ++i) {
    const fs::path path(arguments[i]);
    if (fs::is_directory(path))
      for (const fs::directory_entry& entry : fs::directory_iterator(path)) inputs.push_back(entry.path());
    else
      inputs.push_back(path);
  }
  std::sort(inputs.begin(), inputs.end());
  for (const fs::path& path : inputs) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    if (!file.is_open()) {
      std::fprintf(stderr, "replay: cannot read %s\n", path.c_str());
      return 2;
    }
    // Named before it is tried, so that whoever reads of a crash knows the input.
    std::fprintf(stderr, "%s\n", path.c_str());
    // A copy on the heap of that very size: a sanitizer sees the first byte read behind it.
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  }
  std::fprintf(stderr, "replay: %zu inputs\n", inputs.size());
  return inputs.empty() ? 2 : 0;
}
