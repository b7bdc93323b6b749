// Passes on what ranks write, each line with its rank before it.
#pragma once

#include <poll.h>

#include <string>
#include <vector>

#include "bootstrap/socket.hpp"

namespace mixcomm::tools {

/// A pipe for stdout and one for stderr of a process that is about to be started; or none.
struct OutputPipes {
  Fd read[2];
  Fd write[2];

  /// Throws SystemError.
  [[nodiscard]] static OutputPipes make();
  /// In the new process: its stdout and stderr are the pipes.
  void connect() const;
};

class TaggedLines {
 public:
  void add(int rank, OutputPipes pipes);
  /// What to wait on.
  void append_to(std::vector<pollfd>& fds) const;
  /// Passes on all whole lines that have come. Does not block.
  void forward();
  /// Passes on the last lines, which have no end.
  void finish();

 private:
  struct Stream {
    int rank;
    int to;  ///< stdout or stderr of this process
    Fd from;
    std::string rest;  ///< a line that has not ended yet
  };
  std::vector<Stream> streams_;
};

}  // namespace mixcomm::tools
