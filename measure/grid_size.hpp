// A grid that is to be measured or checked.
#pragma once

namespace mixcomm::tools {

struct GridSize {
  int tp = 1;
  int dp = 1;
  [[nodiscard]] int world() const { return tp * dp; }
};

}  // namespace mixcomm::tools
