// The framing of the rendezvous: bytes that come over a socket, in pieces, as a stranger may send them. The
// input's first byte is how long a piece is.
#include <sys/socket.h>

#include <array>
#include <string>
#include <vector>

#include "bootstrap/message.hpp"
#include "bootstrap/socket.hpp"
#include "fuzz/target.hpp"

namespace {

using mixcomm::fuzz::require;

constexpr std::size_t longest_message = 1024;  // as for those whom rank 0 does not know yet

/// The messages that the stream holds, up to the end or to what is none.
std::vector<std::string> messages_in(std::string_view stream) {
  std::vector<std::string> all;
  while (stream.size() >= 4) {
    std::size_t size = 0;
    for (std::size_t i = 4; i-- > 0;) size = size << 8U | static_cast<unsigned char>(stream[i]);
    if (size > longest_message || size > stream.size() - 4) break;
    all.emplace_back(stream.substr(4, size));
    stream.remove_prefix(4 + size);
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view input = mixcomm::fuzz::text_of(data, size);
  if (input.empty() || size > 65536) return 0;  // the socket holds so much
  const std::size_t piece = static_cast<unsigned char>(input[0]) + std::size_t{1};
  input.remove_prefix(1);
  const std::vector<std::string> expected = messages_in(input);

  std::array<int, 2> ends{};
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0, "there are sockets");
  const mixcomm::Fd here(ends[0]);
  mixcomm::Fd there(ends[1]);
  std::size_t received = 0;
  mixcomm::PartialMessage partial;
  const auto receive = [&] {
    for (;;) {
      const mixcomm::Received result = mixcomm::receive_part(here, partial, longest_message);
      require(partial.bytes.size() <= longest_message, "no more room is made than a message may take");
      if (result != mixcomm::Received::message) return result;
      require(received < expected.size() && partial.bytes == expected[received],
              "messages are as they were sent");
      (void)mixcomm::message_from(partial.bytes);
      partial = {};
      ++received;
    }
  };
  auto result = mixcomm::Received::late;
  while (!input.empty() && result == mixcomm::Received::late) {
    const std::string_view now = input.substr(0, piece);
    require(send(there.get(), now.data(), now.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(now.size()),
            "a piece can be sent");
    input.remove_prefix(now.size());
    result = receive();
  }
  there.reset();
  if (result == mixcomm::Received::late) result = receive();
  require(result == mixcomm::Received::closed, "a stream ends");
  require(received == expected.size(), "all messages come");
  return 0;
}
