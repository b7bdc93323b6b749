// Safetensors of a single file. The input's first byte says how the rest becomes the file: "r": it is the
// file; anything else: it is the header's text and, behind a NUL byte, the data, and the length in front is
// made to fit, which mutation seldom does.
#include "runner/safetensors.hpp"

#include <limits>
#include <string>

#include "fuzz/scratch_directory.hpp"
#include "fuzz/target.hpp"
#include "runner/mapped_file.hpp"
#include "runner/safetensors_header.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__has_feature)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(address)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(address)
#endif

namespace {

using mixcomm::fuzz::may_refuse;
using mixcomm::fuzz::require;
using namespace mixcomm::runner;

std::string file_of(std::string_view input) {
  if (input.empty()) return {};
  const std::string_view rest = input.substr(1);
  if (input[0] == 'r') return std::string(rest);
  const std::size_t end = std::min(rest.find('\0'), rest.size());
  std::string file;
  for (unsigned i = 0; i < 8; ++i) file += static_cast<char>(end >> (8 * i));
  file += rest.substr(0, end);
  if (end < rest.size()) file += rest.substr(end + 1);
  return file;
}

/// Nobody may read on from the end of the file to the end of the page that maps it.
class Fence {
 public:
  explicit Fence(const MappedFile& file)
      : end_(file.bytes().data() + file.bytes().size()), size_((page - file.bytes().size() % page) % page) {
    ASAN_POISON_MEMORY_REGION(end_, size_);
  }
  ~Fence() { ASAN_UNPOISON_MEMORY_REGION(end_, size_); }
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;

 private:
  static constexpr std::size_t page = 4096;
  const std::byte* end_;
  std::size_t size_;
};

/// Each tensor lies in the file, and together they are its data.
void check_header(const MappedFile& file) {
  std::size_t covered = 0;
  for (const DeclaredTensor& tensor : read_safetensors_header(file)) {
    const std::byte* const begin = tensor.bytes.data();
    require(
        tensor.bytes.empty() || (begin >= file.bytes().data() &&
                                 begin + tensor.bytes.size() <= file.bytes().data() + file.bytes().size()),
        "a tensor's bytes are in the file");
    covered += tensor.bytes.size();
    if (!tensor.dtype) continue;
    std::size_t bytes = mixcomm::size_of(*tensor.dtype);
    for (const std::size_t extent : tensor.shape) bytes *= extent;
    require(bytes == tensor.bytes.size(), "a tensor has the bytes of its shape");
  }
  require(covered <= file.bytes().size(), "no byte belongs to two tensors");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const mixcomm::fuzz::ScratchDirectory scratch;
  scratch.write("model.safetensors", file_of(mixcomm::fuzz::text_of(data, size)));
  bool taken = false;
  may_refuse([&] {
    const MappedFile file(scratch.path() / "model.safetensors");
    const Fence fence(file);
    check_header(file);
    taken = true;
  });
  may_refuse([&] {
    const Safetensors tensors(scratch.path());
    require(taken, "what the header's reader refuses is refused");
    for (const std::string& name : tensors.names()) {
      require(tensors.contains(name), "names are contained");
      may_refuse([&] { (void)tensors.at(name, {}); });  // another shape, or a scalar
    }
  });
  return 0;
}
