// The threads of this machine on which the blocks of a launch run.
#pragma once
#include <functional>
#include <vector>

#include "block.h"

namespace kt {

int worker_count();
// Runs a grid to its end; programs[w] is worker w's copy. Returns the first failure, or status 0.
Failure run_grid(const Launch& launch, const std::vector<Program>& programs);
// body(i) for i in [0, count) on all workers.
void parallel(int count, const std::function<void(int)>& body);

}  // namespace kt
