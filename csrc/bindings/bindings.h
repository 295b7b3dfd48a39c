// One function per layer, each in bind_<layer>.cc.
#pragma once

#include <pybind11/pybind11.h>

#include <span>
#include <string>
#include <string_view>

#include "model/scoring.h"

namespace pythia {

void bind_format(pybind11::module_& m);      // PcpuFile, PcpuWriter, pack_matrix
void bind_system(pybind11::module_& m);      // processors, memory and threads
void bind_kernels(pybind11::module_& m);     // supported ISAs; single kernels, for tests
void bind_text(pybind11::module_& m);        // Tokenizer
void bind_model(pybind11::module_& m);       // Model, KvCache, forward
void bind_inspection(pybind11::module_& m);  // activations of a forward pass
void bind_generate(pybind11::module_& m);    // Generator, sampling
void bind_score(pybind11::module_& m);       // scores of sequences, windows of perplexity

// (log-probabilities float32, most likely ids int32, ranks int32, entropies and varentropies float32), one entry for each
// score.
pybind11::tuple score_arrays(std::span<const TokenScore> scores);

// A path as the system has it: Linux allows bytes that are not UTF-8, which Python holds as lone surrogates. Throws Python's
// ValueError where no file can have the name.
std::string path_from_python(const pybind11::str& path);

// A path, or a message that may have one in it.
pybind11::str path_to_python(std::string_view text);

}  // namespace pythia
