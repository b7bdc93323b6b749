#include "support/spawn.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "bootstrap/socket.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::test {
namespace {

std::string call(const std::function<std::string(Bootstrap&)>& fn, Bootstrap& bootstrap) {
  try {
    return fn(bootstrap);
  } catch (const Timeout& error) {
    return std::string("Timeout: ") + error.what();
  } catch (const Disagreement& error) {
    return std::string("Disagreement: ") + error.what();
  } catch (const InvalidArgument& error) {
    return std::string("InvalidArgument: ") + error.what();
  } catch (const std::exception& error) {
    return std::string("exception: ") + error.what();
  }
}

std::vector<std::string> spawn_processes(int world, const std::function<std::string(Bootstrap&)>& fn,
                                         Milliseconds timeout) {
  Fd listener = listen_on("127.0.0.1", 0);
  LaunchInfo info{"test", 0, world, "127.0.0.1", port_of(listener), random_hex(16)};
  struct Child {
    pid_t pid;
    Fd result;
  };
  std::vector<Child> children;
  for (int r = 0; r < world; ++r) {
    int ends[2];
    if (pipe(ends) != 0) throw SystemError("pipe");
    const pid_t pid = fork();
    if (pid == 0) {
      if (r == 0)
        setenv("MIXCOMM_LISTENER", std::to_string(listener.get()).c_str(), 1);
      else
        close(listener.get());
      info.rank = r;
      std::string result;
      try {
        const auto bootstrap = bootstrap_processes(info, timeout);
        result = call(fn, *bootstrap);
      } catch (const std::exception& error) {
        result = std::string("bootstrap: ") + error.what();
      }
      const ssize_t written = write(ends[1], result.data(), result.size());
      _exit(written == static_cast<ssize_t>(result.size()) ? 0 : 1);
    }
    close(ends[1]);
    children.push_back({pid, Fd(ends[0])});
  }
  listener.reset();  // it is rank 0's now, and free for survivors after that
  std::vector<std::string> results;
  for (Child& child : children) {
    std::string result;
    char buffer[4096];
    for (ssize_t n = 0; (n = read(child.result.get(), buffer, sizeof(buffer))) > 0;)
      result.append(buffer, static_cast<std::size_t>(n));
    int status = 0;
    waitpid(child.pid, &status, 0);
    if (WIFSIGNALED(status)) result = "killed by signal " + std::to_string(WTERMSIG(status));
    results.push_back(result);
  }
  return results;
}

}  // namespace

std::vector<std::string> spawn(Ranks kind, int world, const std::function<std::string(Bootstrap&)>& fn,
                               Milliseconds timeout) {
  if (kind == Ranks::processes) return spawn_processes(world, fn, timeout);
  std::vector<std::string> results(static_cast<std::size_t>(world));
  run_threads(
      world,
      [&](Bootstrap& bootstrap) {
        results[static_cast<std::size_t>(bootstrap.rank())] = call(fn, bootstrap);
      },
      timeout);
  return results;
}

std::string failures(const std::vector<std::string>& results) {
  std::string text;
  for (std::size_t r = 0; r < results.size(); ++r)
    if (!results[r].empty()) text += "rank " + std::to_string(r) + ": " + results[r] + "\n";
  return text;
}

}  // namespace mixcomm::test
