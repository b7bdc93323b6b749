// Everything: #include <mixcomm/mixcomm.hpp>
#pragma once

#include "mixcomm/bootstrap.hpp"           // IWYU pragma: export
#include "mixcomm/choice.hpp"              // IWYU pragma: export
#include "mixcomm/communicator.hpp"        // IWYU pragma: export
#include "mixcomm/device/lanes.hpp"        // IWYU pragma: export
#include "mixcomm/epilogue.hpp"            // IWYU pragma: export
#include "mixcomm/error.hpp"               // IWYU pragma: export
#include "mixcomm/grid.hpp"                // IWYU pragma: export
#include "mixcomm/interrupt.hpp"           // IWYU pragma: export
#include "mixcomm/layer_communicator.hpp"  // IWYU pragma: export
#include "mixcomm/mpi.hpp"                 // IWYU pragma: export
#include "mixcomm/operation.hpp"           // IWYU pragma: export
#include "mixcomm/plan.hpp"                // IWYU pragma: export
#include "mixcomm/tensor.hpp"              // IWYU pragma: export
#include "mixcomm/tuning.hpp"              // IWYU pragma: export
