// How many threads are worth while.
#pragma once

namespace pythia {

// Physical cores that this process may run on (its affinity mask and cgroup limit), at least 1.
int available_physical_cores();

}  // namespace pythia
