// Safetensors of several files: the input is model.safetensors.index.json, beside two shards that are in
// order.
#include <string>

#include "fuzz/scratch_directory.hpp"
#include "fuzz/target.hpp"
#include "runner/safetensors.hpp"

namespace {

/// A shard with a tensor of two bf16 numbers for each of two names.
std::string shard(std::string_view first, std::string_view second) {
  std::string header = "{\"";
  header += first;
  header += R"(":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},")";
  header += second;
  header += R"(":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]}})";
  return std::string{static_cast<char>(header.size()), 0, 0, 0, 0, 0, 0, 0} + header + "01234567";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const mixcomm::fuzz::ScratchDirectory scratch;
  static const bool written = [] {
    scratch.write("1.safetensors", shard("a", "b"));
    scratch.write("2.safetensors", shard("c", "d"));
    return true;
  }();
  (void)written;
  scratch.write("model.safetensors.index.json", mixcomm::fuzz::text_of(data, size));
  mixcomm::fuzz::may_refuse([&] {
    const mixcomm::runner::Safetensors tensors(scratch.path());
    mixcomm::fuzz::require(!tensors.names().empty(), "an index names a tensor");
    for (const std::string& name : tensors.names())
      mixcomm::fuzz::require(name.size() == 1 && name[0] >= 'a' && name[0] <= 'd',
                             "tensors come from files beside the index");
  });
  return 0;
}
