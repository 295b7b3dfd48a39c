// How far one distribution over the vocabulary is from another.
#pragma once

#include <span>

#include "kernels/kernels.h"

namespace pythia {

// The log of the sum of exp(logit); -infinity if all logits are, NaN if one is NaN or infinity.
double log_sum_exp(const KernelTable& kernels, std::span<const float> logits) noexcept;

// KL(P || Q) = sum of P log(P / Q) in nats, of two rows of as many logits: not negative, and as precise where P and Q hardly
// differ, because its terms are those of P log(P / Q) + Q - P. Infinity where P has a token that Q never gives; NaN where a
// logit is NaN or infinity, or all of a row are -infinity.
float kl_divergence(const KernelTable& kernels, std::span<const float> p_logits, std::span<const float> q_logits) noexcept;

}  // namespace pythia
