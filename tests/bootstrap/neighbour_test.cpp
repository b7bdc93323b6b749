// A hostile or buggy neighbour: other programs and other users of the host, who come to the rendezvous,
// listen in its place, or reach for the memory.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "bootstrap/meeting_place.hpp"
#include "bootstrap/message.hpp"
#include "bootstrap/socket.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/held_port.hpp"
#include "support/spawn.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

LaunchInfo job(int rank, int world, int port, std::string secret) {
  return {"test", rank, world, "127.0.0.1", port, std::move(secret)};
}

/// Rank 0 of two on a thread, to whom strangers come before rank 1 does.
std::string meet_with(const LaunchInfo& rank_0, const std::function<void()>& strangers) {
  std::string zero = "?";
  std::thread host([&] {
    zero =
        error_of<Error>([&] { bootstrap_processes(rank_0, milliseconds(5000))->exchange("going on", ""); });
  });
  strangers();
  LaunchInfo rank_1 = rank_0;
  rank_1.rank = 1;
  const auto one =
      error_of<Error>([&] { bootstrap_processes(rank_1, milliseconds(5000))->exchange("going on", ""); });
  host.join();
  return zero == "no error" && one == "no error" ? "" : fmt::format("rank 0: {}; rank 1: {}", zero, one);
}

/// What another user of this host finds: the exit code of `fn`, run as "nobody"; -1 where this user may not.
int as_nobody(const std::function<int()>& fn) {
  if (geteuid() != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    constexpr uid_t nobody = 65534;
    if (setresgid(nobody, nobody, nobody) != 0 || setresuid(nobody, nobody, nobody) != 0) _exit(99);
    _exit(fn());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) != 99 ? WEXITSTATUS(status) : -1;
}

#define SKIP_UNLESS_ROOT(code) \
  if ((code) == -1) GTEST_SKIP() << "not root: this user cannot act as another one"

Endpoint unix_rendezvous(int port, uid_t user) {
  return abstract_endpoint(fmt::format("mixcomm-rendezvous-{}-{}", user, port));
}

/// Whether who is connected is challenged; false if the connection is closed.
bool challenged(const Fd& connection) {
  std::string message;
  return receive_message(connection, message, Deadline(milliseconds(2000))) == Received::message &&
         only<Challenge>(message).has_value();
}

Fd connect_soon(const Endpoint& there) {
  for (int i = 0; i < 200; ++i) {
    Fd fd = connect_to_first({&there, 1}, Deadline(milliseconds(1000)));
    if (fd.valid()) return fd;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return {};
}

// --- with a secret

TEST(Neighbours, WhoHeardAProofCannotUseItAgain) {
  const HeldPort held;
  const int port = held.number();
  const std::string secret = random_hex(16);
  std::string answer;
  const auto problems = meet_with(job(0, 2, port, secret), [&] {
    const Deadline deadline(milliseconds(3000));
    // It listens where rank 1 goes by mistake, hands it rank 0's challenge, and hears its hello ...
    Fd elsewhere = listen_on("127.0.0.1", 0);
    const Fd first = connect_by("127.0.0.1", port, deadline);
    std::string challenge;
    ASSERT_EQ(receive_message(first, challenge, deadline), Received::message);
    std::thread misled([&] {
      (void)error_of<Error>(
          [&] { (void)bootstrap_processes(job(1, 2, port_of(elsewhere), secret), milliseconds(1000)); });
    });
    Fd rank_1 = accept_by(elsewhere, deadline);
    ASSERT_TRUE(send_message(rank_1, challenge, deadline));
    std::string hello;
    ASSERT_EQ(receive_message(rank_1, hello, deadline), Received::message);
    // ... which is no answer to the challenge of another connection.
    const Fd second = connect_by("127.0.0.1", port, deadline);
    ASSERT_EQ(receive_message(second, challenge, deadline), Received::message);
    ASSERT_TRUE(send_message(second, hello, deadline));
    ASSERT_EQ(receive_message(second, answer, deadline), Received::message);
    rank_1.reset();
    elsewhere.reset();
    misled.join();
  });
  EXPECT_EQ(problems, "");
  const auto verdict = only<Verdict>(answer);
  ASSERT_TRUE(verdict.has_value());
  EXPECT_TRUE(contains(verdict->text, "another MIXCOMM_SECRET")) << verdict->text;
}

TEST(Neighbours, MalformedAndOversizedMessagesAreDropped) {
  const HeldPort held;
  const int port = held.number();
  const auto problems = meet_with(job(0, 2, port, random_hex(16)), [&] {
    const Deadline deadline(milliseconds(3000));
    Hello hello{.rank = 1, .world = 2, .nonce = {}, .proof = {}};
    std::string cut = to_bytes(hello);
    cut.pop_back();
    for (const std::string& bytes :
         {std::string(), std::string("\xff"), std::string(1 << 16, '\x91'), std::string(1 << 20, 'x'), cut,
          to_bytes(Verdict{}), to_bytes(Welcome{}), to_bytes(Challenge{})}) {
      const Fd peer = connect_by("127.0.0.1", port, deadline);
      ASSERT_TRUE(challenged(peer));
      (void)send_message(peer, bytes, deadline);
      std::string answer;
      EXPECT_EQ(receive_message(peer, answer, deadline), Received::closed) << bytes.size() << " bytes";
    }
    // Lengths that nobody means.
    const Fd peer = connect_by("127.0.0.1", port, deadline);
    ASSERT_TRUE(challenged(peer));
    ASSERT_EQ(send(peer.get(), "\xff\xff\xff\xff", 4, MSG_NOSIGNAL), 4);
    std::string answer;
    EXPECT_EQ(receive_message(peer, answer, deadline), Received::closed);
  });
  EXPECT_EQ(problems, "");
}

// --- without one

TEST(Neighbours, WithoutASecretNothingListensOnTheNetwork) {
  const HeldPort held;
  const int port = held.number();
  const auto problems = meet_with(job(0, 2, port, ""), [&] {
    EXPECT_TRUE(challenged(connect_soon(unix_rendezvous(port, geteuid())))) << "rank 0 does not listen";
    EXPECT_FALSE(connect_by("127.0.0.1", port, Deadline(milliseconds(100))).valid());
  });
  EXPECT_EQ(problems, "");
}

TEST(Neighbours, WithoutASecretRanksMeetOnThisHostOnly) {
  for (const int rank : {0, 1}) {
    const HeldPort held;
    LaunchInfo info = job(rank, 2, held.number(), "");
    info.host = "192.0.2.1";  // reserved for documentation
    const auto text = error_of<InvalidArgument>([&] { (void)bootstrap_processes(info, milliseconds(300)); });
    EXPECT_TRUE(contains(text, "set MIXCOMM_SECRET to the same random text")) << text;
  }
}

TEST(Neighbours, WithoutASecretAnotherUserIsTurnedAway) {
  const HeldPort held;
  const int port = held.number();
  const uid_t me = geteuid();
  int code = 0;
  const auto problems = meet_with(job(0, 2, port, ""), [&] {
    EXPECT_TRUE(challenged(connect_soon(unix_rendezvous(port, me))));  // this user is not
    code = as_nobody([&] {
      const Fd fd = connect_soon(unix_rendezvous(port, me));
      return !fd.valid() ? 1 : challenged(fd) ? 2 : 0;
    });
  });
  EXPECT_EQ(problems, "");
  SKIP_UNLESS_ROOT(code);
  EXPECT_EQ(code, 0) << "1: it could not connect, 2: it was challenged";
}

/// Another user listens in rank 0's place, and is found there by rank 1.
TEST(Neighbours, WithoutASecretAnotherUserIsNotRankZero) {
  const HeldPort held;
  const int port = held.number();
  const uid_t me = geteuid();
  std::string one;
  std::thread visitor([&] {
    one = error_of<Timeout>([&] { (void)bootstrap_processes(job(1, 2, port, ""), milliseconds(2000)); });
  });
  const int code = as_nobody([&] {
    const Endpoint here = unix_rendezvous(port, me);
    const Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&here.address), here.size) != 0 ||
        listen(listener.get(), 8) != 0)
      return 1;
    const Deadline deadline(milliseconds(1500));
    const Fd peer = accept_by(listener, deadline);
    if (!peer.valid()) return 2;
    (void)send_message(peer, to_bytes(Challenge{}), deadline);
    std::string message;
    return receive_message(peer, message, deadline) == Received::message ? 3 : 0;
  });
  visitor.join();
  EXPECT_TRUE(contains(one, "found nobody at the Unix socket")) << one;
  SKIP_UNLESS_ROOT(code);
  EXPECT_EQ(code, 0) << "1: it could not listen, 2: nobody came, 3: rank 1 told it something";
}

// --- memory

TEST(Neighbours, AnotherUserCannotReachTheMemory) {
  const auto results = spawn(Ranks::processes, 2, [](Bootstrap& bootstrap) -> std::string {
    const auto memory = bootstrap.share_memory(1 << 16);
    // The file behind the mapping, as /proc shows it to whoever may see it.
    const auto begin = reinterpret_cast<std::uintptr_t>(memory.get());
    const std::string path = fmt::format("/proc/{}/map_files/{:x}-{:x}", getpid(), begin, begin + (1 << 16));
    const Fd mine(open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!mine.valid()) return "not root";
    struct stat info {};
    if (fstat(mine.get(), &info) != 0 || (info.st_mode & 0777U) != 0600U)
      return fmt::format("its mode is {:o}", info.st_mode & 0777U);
    const int code = as_nobody([&] {
      const Fd theirs(open(path.c_str(), O_RDWR | O_CLOEXEC));
      return theirs.valid() ? 1 : 0;
    });
    if (code == -1) return "not root";
    return code == 0 ? "" : "another user opened it";
  });
  if (failures(results).find("not root") != std::string::npos)
    GTEST_SKIP() << "not root: this user cannot act as another one, or see files behind mappings";
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
