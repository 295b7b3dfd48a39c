// The model that is used when none is named.
#pragma once

#include <string>

namespace pythia::cli {

inline constexpr const char* kModelVariable = "PYTHIA_CPU_MODEL";

// The file PYTHIA_CPU_MODEL names, or mini-pythia.pcpu where an installation puts it: ../share/pythia-cpu from the executable,
// or the Python package in ../lib/python3*/site-packages or beside the executable's folder. Throws std::invalid_argument saying
// where it looked.
std::string shipped_model_path();

// `named`, or if that is empty shipped_model_path(). Throws std::invalid_argument for what pythia-convert takes in place of a
// .pcpu file: a folder, or the name of a model.
std::string chosen_model_path(const std::string& named);

}  // namespace pythia::cli
