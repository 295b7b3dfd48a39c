// Every kernel body, over the Vec type of the instruction set whose vec_<name>.h was included before, and the table of them.
// Only intrinsics and plain headers: a container template instantiated here could carry this file's instruction set into
// portable code.
#pragma once

#include <cfloat>

#include "kernels/attention.inl"
#include "kernels/elementwise.inl"
#include "kernels/kernels.h"
#include "kernels/matmul.inl"
#include "kernels/peak.inl"
#include "kernels/quantize.inl"
#include "kernels/rows.inl"
#include "kernels/sampling.inl"
#include "kernels/scoring.inl"

// Every float operation is rounded to float (16: and those of 16-bit floats, of which there are none, to theirs).
static_assert(FLT_EVAL_METHOD == 0 || FLT_EVAL_METHOD == 16, "x87 arithmetic gives other bits: compile with -mfpmath=sse");

namespace pythia {
namespace {

constexpr KernelTable make_table(const char* isa) {
  return {.isa = isa,
          .matmul = matmul_kernel,
          .store_keys_values = store_keys_values_kernel,
          .attention = attention_kernel,
          .attention_scores = attention_scores_kernel,
          .summarize_logits = summarize_logits_kernel,
          .divergence = divergence_kernel,
          .first_above = first_above_kernel,
          .count_above = count_above_kernel,
          .layer_norm = layer_norm_kernel,
          .activation = activation_kernel,
          .rotary = rotary_kernel,
          .add = add_kernel,
          .to_float = to_float_kernel,
          .quantize_row = quantize_row_kernel,
          .code_layout = kCodeLayout,
          .block_maxima = block_maxima_kernel,
          .collect_above = collect_above_kernel,
          .softmax_exps = softmax_exps_kernel,
          .softmax_totals = softmax_totals_kernel,
          .softmax_moments = softmax_moments_kernel,
          .softmax_estimate = softmax_estimate_kernel,
          .softmax_bounds = softmax_bounds_kernel,
          .softmax_total_above = softmax_total_above_kernel,
          .exp = exp_kernel,
          .exp2 = exp2_kernel,
          .log = log_kernel,
          .tanh = tanh_kernel,
          .peak_fma = peak_fma_kernel,
          .peak_int8 = peak_int8_kernel,
          .peak_read = peak_read_kernel};
}

}  // namespace
}  // namespace pythia
