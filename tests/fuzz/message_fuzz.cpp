// message_from(): what a message of the rendezvous is, whoever sent the bytes.
#include "bootstrap/message.hpp"

#include "fuzz/target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input = mixcomm::fuzz::text_of(data, size);
  if (const auto message = mixcomm::message_from(input))
    mixcomm::fuzz::require(mixcomm::to_bytes(*message) == input, "only what to_bytes() makes is a message");
  return 0;
}
