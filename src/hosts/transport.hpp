// What carries messages between ranks that share no memory: one of the transports that there are (MPI), as
// the library uses it. Nothing here waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

namespace mixcomm {

/// One rank's end. Messages of one rank to another with one tag come in the order in which they were sent.
class Transport {
 public:
  virtual ~Transport() = default;

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int world() const = 0;

  /// A message under way.
  struct Ticket {
    std::uint64_t word = 0;
  };
  /// `data` must stay as it is until the message is complete. Throws SystemError.
  virtual Ticket send(int to, int tag, std::span<const std::byte> data) = 0;
  /// `room` must stay until the message is complete.
  virtual Ticket receive(int from, int tag, std::span<std::byte> room) = 0;
  /// Nothing until the message is complete; then how many bytes have come. Throws SystemError.
  virtual std::optional<std::size_t> test(Ticket& ticket) = 0;

  /// A rank of which a message with that tag has come that nobody receives yet. Throws SystemError.
  virtual std::optional<int> probe(int tag) = 0;

  /// A tag that nobody else has been given. All ranks ask in the same order.
  virtual int new_tag() = 0;

  /// Messages are under way that nobody will wait for: what would wait for all ranks is to be left out.
  virtual void abandon() = 0;
};

/// A message under way and its memory. If that ends before the message is complete, the memory is never given
/// back: the transport may still read or write it.
class Letter {
 public:
  explicit Letter(std::size_t room) : memory_(new std::byte[room]), room_(room) {}
  ~Letter() {
    if (transport_ != nullptr) static_cast<void>(memory_.release());
  }
  Letter(const Letter&) = delete;
  Letter& operator=(const Letter&) = delete;
  Letter(Letter&& other) noexcept
      : memory_(std::move(other.memory_)),
        room_(other.room_),
        bytes_(other.bytes_),
        transport_(std::exchange(other.transport_, nullptr)),
        ticket_(other.ticket_) {}
  Letter& operator=(Letter&& other) noexcept {  // what was here ends with `other`
    std::swap(memory_, other.memory_);
    std::swap(room_, other.room_);
    std::swap(bytes_, other.bytes_);
    std::swap(transport_, other.transport_);
    std::swap(ticket_, other.ticket_);
    return *this;
  }

  [[nodiscard]] std::byte* data() const { return memory_.get(); }
  [[nodiscard]] std::size_t room() const { return room_; }
  /// Once complete: how many bytes have come.
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  void send(Transport& transport, int to, int tag, std::size_t bytes) {
    ticket_ = transport.send(to, tag, {memory_.get(), bytes});
    transport_ = &transport;
  }
  void receive(Transport& transport, int from, int tag) {
    ticket_ = transport.receive(from, tag, {memory_.get(), room_});
    transport_ = &transport;
  }
  /// Whether nothing is under way with it. Does not wait.
  [[nodiscard]] bool complete() {
    if (transport_ == nullptr) return true;
    const std::optional<std::size_t> come = transport_->test(ticket_);
    if (!come) return false;
    bytes_ = *come;
    transport_ = nullptr;
    return true;
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t room_;
  std::size_t bytes_ = 0;
  Transport* transport_ = nullptr;  ///< while it is under way
  Transport::Ticket ticket_;
};

}  // namespace mixcomm
