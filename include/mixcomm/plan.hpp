// The decision layer: which collective belongs between two layouts (transition.hpp, layer_plan.hpp), and
// which algorithm runs it (choice.hpp). Pure host code.
#pragma once

#include "mixcomm/choice.hpp"      // IWYU pragma: export
#include "mixcomm/layer_plan.hpp"  // IWYU pragma: export
#include "mixcomm/layout.hpp"      // IWYU pragma: export
#include "mixcomm/rows.hpp"        // IWYU pragma: export
#include "mixcomm/transition.hpp"  // IWYU pragma: export
