// Instruction sets, and single kernels over numpy arrays for tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "common/aligned_buffer.h"
#include "common/fp_environment.h"
#include "kernels/attention_scratch.h"
#include "kernels/dispatch.h"
#include "model/kv_cache.h"

namespace py = pybind11;

namespace pythia {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// One kernel table; every call checks its arrays' shapes.
struct Kernels {
  const KernelTable* table;

  // Of a row of QuantizedRows.
  int64_t quantized_row_bytes(int64_t inputs) const {
    return ceil_div(inputs, kQuantGroup) * quantized_group_bytes(table->code_layout);
  }

  // Code i of a group.
  int8_t code_at(const std::byte* group, int64_t i) const {
    if (table->code_layout == CodeLayout::kInt8) return static_cast<int8_t>(group[i]);
    constexpr int64_t kPlaces[] = {0, 2, 1, 3};
    int16_t code;
    std::memcpy(&code, group + 2 * (i / 4 * 4 + kPlaces[i % 4]), sizeof code);
    return static_cast<int8_t>(code);
  }

  Floats matmul(const Floats& x, const Bytes& packed, const std::string& format, int64_t outputs,
                const std::optional<Floats>& bias) const {
    const auto parsed = parse_weight_format(format);
    require(parsed.has_value(), "[matmul] unknown weight format");
    require(x.ndim() == 2, "[matmul] x must be [rows, inputs]");
    const int64_t rows = x.shape(0), inputs = x.shape(1);
    require(packed.size() == packed_size_bytes(*parsed, outputs, inputs), "[matmul] packed weights have another size");
    require(!bias || bias->size() == outputs, "[matmul] bias must be [outputs]");
    AlignedBuffer<std::byte> weights(packed.size());
    std::copy_n(reinterpret_cast<const std::byte*>(packed.data()), packed.size(), weights.data());
    const int64_t row_bytes = quantized_row_bytes(inputs);
    AlignedBuffer<std::byte> quantized(rows * row_bytes);
    Floats y({rows, outputs});
    const FpEnvironment environment;
    for (int64_t r = 0; r < rows; ++r) table->quantize_row(x.data() + r * inputs, inputs, quantized.data() + r * row_bytes);
    table->matmul({.weights = {*parsed, weights.data(), outputs, inputs},
                   .panel_begin = 0,
                   .panel_end = num_panels(outputs),
                   .num_rows = rows,
                   .x = x.data(),
                   .x_stride = inputs,
                   .quantized_x = {quantized.data(), row_bytes},
                   .bias = bias ? bias->data() : nullptr,
                   .y = y.mutable_data(),
                   .y_stride = outputs});
    return y;
  }

  // Queries [n, head_dim] at positions first_position.. against keys and values [positions, head_dim], stored as `kv`
  // ("f32" or "i16") in pieces of `piece` positions; (attention [n, head_dim], scores [n, first_position + n], zero where
  // masked).
  py::tuple attention(const Floats& queries, const Floats& keys, const Floats& values, int64_t first_position, float scale,
                      const std::string& kv, int64_t piece) const {
    require(queries.ndim() == 2 && keys.ndim() == 2 && values.ndim() == 2, "[attention] arrays must be [n, head_dim]");
    const int64_t n = queries.shape(0), head_dim = queries.shape(1), positions = keys.shape(0);
    require(keys.shape(1) == head_dim && values.shape(1) == head_dim && values.shape(0) == positions,
            "[attention] queries, keys and values differ in shape");
    require(first_position >= 0 && first_position + n <= positions, "[attention] a query's position has no key");
    require(kv == "f32" || kv == "i16", "[attention] kv must be f32 or i16");
    require(piece >= 1, "[attention] a piece must hold a position");
    Config config;
    config.num_hidden_layers = config.num_attention_heads = 1;
    config.hidden_size = static_cast<int32_t>(head_dim);
    config.max_position_embeddings = static_cast<int32_t>(positions);
    const KvCache cache({config, kv == "i16" ? KvFormat::kI16 : KvFormat::kF32}, positions);
    AlignedBuffer<float> scratch(attention_scratch_floats(head_dim));
    Floats out({n, head_dim}), scores({n, first_position + n});
    std::fill_n(scores.mutable_data(), scores.size(), 0.0f);
    const FpEnvironment environment;
    for (int64_t begin = 0; begin < positions; begin += piece)
      table->store_keys_values({.keys = keys.data() + begin * head_dim,
                                .values = values.data() + begin * head_dim,
                                .stride = head_dim,
                                .num_positions = std::min(piece, positions - begin),
                                .first_position = begin,
                                .head_dim = head_dim,
                                .cache = cache.head(0, 0)});
    AttentionArgs args = {.queries = queries.data(),
                          .queries_stride = head_dim,
                          .num_queries = n,
                          .first_position = first_position,
                          .cache = cache.head(0, 0),
                          .head_dim = head_dim,
                          .scale = scale,
                          .out = out.mutable_data(),
                          .out_stride = head_dim,
                          .scratch = scratch.data()};
    table->attention(args);
    args.out = scores.mutable_data();
    args.out_stride = first_position + n;
    table->attention_scores(args);
    return py::make_tuple(out, scores);
  }

  py::tuple summarize_logits(const Floats& logits, float bound) const {
    require(logits.size() >= 1, "[summarize_logits] needs a logit");
    const FpEnvironment environment;
    const LogitSummary summary = table->summarize_logits(logits.data(), logits.size(), bound);
    return py::make_tuple(summary.largest, summary.reference, summary.sum, summary.weighted, summary.squared, summary.above);
  }

  float divergence(const Floats& p_logits, const Floats& q_logits, const std::array<float, 5>& totals) const {
    require(p_logits.size() == q_logits.size(), "[divergence] needs as many logits of both");
    const FpEnvironment environment;
    return table->divergence(p_logits.data(), q_logits.data(), p_logits.size(),
                             {totals[0], totals[1], totals[2], totals[3], totals[4]});
  }

  int64_t first_above(const Floats& x, float bound) const {
    require(x.size() >= 1, "[first_above] needs a number");
    return table->first_above(x.data(), x.size(), bound);
  }

  int32_t count_above(const Floats& x, float bound) const {
    const FpEnvironment environment;
    return table->count_above(x.data(), x.size(), bound);
  }

  Floats block_maxima(const Floats& x) const {
    Floats maxima(ceil_div(x.size(), kScoreBlock));
    const FpEnvironment environment;
    table->block_maxima(x.data(), x.size(), maxima.mutable_data(), nullptr);
    return maxima;
  }

  Floats group_maxima(const Floats& x) const {
    const int64_t blocks = ceil_div(x.size(), kScoreBlock);
    Floats maxima(blocks), group_maxima({blocks, kScoreGroups});
    const FpEnvironment environment;
    table->block_maxima(x.data(), x.size(), maxima.mutable_data(), group_maxima.mutable_data());
    return group_maxima;
  }

  // (indices, values) of the scores above the bound.
  py::tuple collect_above(const Floats& scores, const Floats& maxima, float bound) const {
    require(maxima.size() == ceil_div(scores.size(), kScoreBlock), "[collect_above] needs a maximum for each block");
    std::vector<int32_t> ids(static_cast<std::size_t>(scores.size()));
    std::vector<float> found(ids.size());
    const FpEnvironment environment;
    const int64_t count = table->collect_above(scores.data(), scores.size(), maxima.data(), bound, ids.data(), found.data());
    return py::make_tuple(py::array_t<int32_t>(count, ids.data()), Floats(count, found.data()));
  }

  Floats softmax_exps(const Floats& scores, float largest, float steepness) const {
    Floats exps(scores.size());
    const FpEnvironment environment;
    table->softmax_exps(scores.data(), scores.size(), {largest, steepness}, exps.mutable_data());
    return exps;
  }

  // Sums of integer weights, one for each chunk of 1,024 scores.
  py::array_t<int64_t> softmax_totals(const Floats& scores, float largest, float steepness) const {
    py::array_t<int64_t> totals(ceil_div(scores.size(), kSoftmaxChunk));
    const FpEnvironment environment;
    table->softmax_totals(scores.data(), scores.size(), {largest, steepness}, totals.mutable_data());
    return totals;
  }

  py::tuple softmax_moments(const Floats& scores, float largest, float steepness) const {
    const py::ssize_t chunks = ceil_div(scores.size(), kSoftmaxChunk);
    py::array_t<int64_t> totals(chunks);
    Floats moments(chunks);
    const FpEnvironment environment;
    table->softmax_moments(scores.data(), scores.size(), {largest, steepness}, totals.mutable_data(), moments.mutable_data());
    return py::make_tuple(totals, moments);
  }

  py::tuple softmax_estimate(const Floats& scores, float largest, float steepness, float high, float low) const {
    require(scores.size() <= kMaxEstimated, "[softmax_estimate] takes at most 65,536 scores");
    const FpEnvironment environment;
    const SoftmaxEstimate sums = table->softmax_estimate(scores.data(), scores.size(), {largest, steepness}, high, low);
    return py::make_tuple(sums.all, sums.above_high, sums.above_low);
  }

  // Bounds of integer weights, and their sums for each 128.
  py::tuple softmax_bounds(const Floats& scores, float largest, float steepness, float bound) const {
    py::array_t<int32_t> bounds(scores.size()), totals(ceil_div(scores.size(), kBoundsPart));
    const FpEnvironment environment;
    table->softmax_bounds(scores.data(), scores.size(), {largest, steepness}, bound, bounds.mutable_data(),
                          totals.mutable_data());
    return py::make_tuple(bounds, totals);
  }

  int64_t softmax_total_above(const Floats& scores, float largest, float steepness, float bound) const {
    require(scores.size() <= kSoftmaxChunk, "[softmax_total_above] takes at most a chunk of scores");
    const Floats maxima = block_maxima(scores);
    const FpEnvironment environment;
    return table->softmax_total_above(scores.data(), scores.size(), {largest, steepness}, maxima.data(), bound);
  }

  Floats layer_norm(const Floats& x, const Floats& weight, const Floats& bias, float eps) const {
    require(weight.size() == x.size() && bias.size() == x.size(), "[layer_norm] x, weight and bias must have one length");
    Floats y(x.size());
    const FpEnvironment environment;
    table->layer_norm(x.data(), weight.data(), bias.data(), x.size(), eps, y.mutable_data());
    return y;
  }

  Floats activation(uint32_t act, const Floats& x) const {
    require(act < kNumActivations, "[activation] unknown activation");
    Floats y(x.size());
    std::copy_n(x.data(), x.size(), y.mutable_data());
    const FpEnvironment environment;
    table->activation(static_cast<Activation>(act), y.mutable_data(), y.size());
    return y;
  }

  Floats rotary(const Floats& x, const Floats& cos, const Floats& sin) const {
    require(cos.size() == sin.size() && x.size() >= 2 * cos.size(), "[rotary] x must hold twice the length of cos and sin");
    Floats y(x.size());
    std::copy_n(x.data(), x.size(), y.mutable_data());
    const FpEnvironment environment;
    table->rotary(y.mutable_data(), cos.data(), sin.data(), cos.size());
    return y;
  }

  Floats add(const Floats& a, const Floats& b) const {
    require(a.size() == b.size(), "[add] a and b must have one length");
    Floats y(a.size());
    const FpEnvironment environment;
    table->add(a.data(), b.data(), a.size(), y.mutable_data());
    return y;
  }

  Floats to_float(const std::string& format, const Bytes& source) const {
    const auto parsed = parse_weight_format(format);
    require(parsed && find_weight_format(static_cast<uint32_t>(*parsed))->lossless_container,
            "[to_float] needs f32, f16 or bf16");
    Floats y(source.size() / element_size_bytes(*parsed));
    table->to_float(*parsed, source.data(), y.size(), y.mutable_data());
    return y;
  }

  py::tuple quantize_row(const Floats& x) const {
    const int64_t groups = ceil_div(x.size(), kQuantGroup);
    AlignedBuffer<std::byte> stored(quantized_row_bytes(x.size()));
    py::array_t<int8_t> codes(groups * kQuantGroup);
    Floats scales(groups);
    py::array_t<int32_t> offsets(groups);
    const FpEnvironment environment;
    table->quantize_row(x.data(), x.size(), stored.data());
    for (int64_t group = 0; group < groups; ++group) {
      const std::byte* at = stored.data() + group * quantized_group_bytes(table->code_layout);
      for (int64_t i = 0; i < kQuantGroup; ++i) codes.mutable_at(group * kQuantGroup + i) = code_at(at, i);
      at += scale_offset_bytes(table->code_layout);
      std::memcpy(scales.mutable_data(group), at, sizeof(float));
      std::memcpy(offsets.mutable_data(group), at + sizeof(float), sizeof(int32_t));
    }
    return py::make_tuple(codes, scales, offsets);
  }

  using Elementwise = void (*KernelTable::*)(const float*, int64_t, float*) noexcept;
  template <Elementwise kFunction>
  Floats elementwise(const Floats& x) const {
    Floats y(x.size());
    const FpEnvironment environment;
    (table->*kFunction)(x.data(), x.size(), y.mutable_data());
    return y;
  }
};

}  // namespace

void bind_kernels(py::module_& m) {
  m.def(
      "supported_isas",
      [] {
        std::vector<std::string> names;
        for (const KernelTable* table : supported_kernels()) names.emplace_back(table->isa);
        return names;
      },
      "Kernel tables this machine can run, best first.");
  py::class_<Kernels>(m, "Kernels", "One instruction set's kernels, for tests.")
      .def(py::init([](const std::string& isa) { return Kernels{&select_kernels(isa)}; }), py::arg("isa") = "")
      .def_property_readonly(
          "isa", [](const Kernels& k) { return std::string(k.table->isa); }, "Its name, one of supported_isas().")
      .def("matmul", &Kernels::matmul, py::arg("x"), py::arg("packed"), py::arg("format"), py::arg("outputs"),
           py::arg("bias") = py::none(),
           "x [rows, inputs] by a packed matrix [outputs, inputs], plus a bias [outputs]; float32 [rows, outputs]. Raises "
           "ValueError.")
      .def("attention", &Kernels::attention, py::arg("queries"), py::arg("keys"), py::arg("values"), py::arg("first_position"),
           py::arg("scale"), py::arg("kv") = "f32", py::arg("piece") = 16,
           "Attention [n, head_dim] and scores [n, first_position + n] of keys and values that are stored as \"f32\" or "
           "\"i16\", "
           "`piece` positions at a time.")
      .def("divergence", &Kernels::divergence, py::arg("p_logits"), py::arg("q_logits"), py::arg("totals"),
           "KL divergence of one chunk of two rows of logits, given the LogTotals of the rows.")
      .def("summarize_logits", &Kernels::summarize_logits, py::arg("logits"), py::arg("bound") = 0.0f,
           "(largest, reference, sum of exp(logit - reference), the same times (reference - logit), times its square, how many "
           "are above `bound`) of one chunk.")
      .def("block_maxima", &Kernels::block_maxima, py::arg("x"), "The largest of each 128 numbers, ignoring NaN.")
      .def("group_maxima", &Kernels::group_maxima, py::arg("x"),
           "[blocks of 128, 16]: the largest of every 16th number from each of a block's first 16 on, ignoring NaN.")
      .def("collect_above", &Kernels::collect_above, py::arg("scores"), py::arg("maxima"), py::arg("bound"),
           "Indices int32 and values of the scores above the bound.")
      .def("softmax_exps", &Kernels::softmax_exps, py::arg("scores"), py::arg("largest"), py::arg("steepness"),
           "2^((scores - largest) steepness), float32; 2^-40 where it is less, and for NaN.")
      .def("softmax_totals", &Kernels::softmax_totals, py::arg("scores"), py::arg("largest"), py::arg("steepness"),
           "For each 1,024 scores the sum of their weights, round_half_even(2^38 softmax_exps), int64.")
      .def("softmax_moments", &Kernels::softmax_moments, py::arg("scores"), py::arg("largest"), py::arg("steepness"),
           "softmax_totals, and for each 1,024 scores the sum of softmax_exps * (largest - score) * steepness of those with a "
           "weight, float32.")
      .def("softmax_estimate", &Kernels::softmax_estimate, py::arg("scores"), py::arg("largest"), py::arg("steepness"),
           py::arg("high"), py::arg("low"),
           "Estimates of the sums of the weights of scores, of those above high and of those above low, times 2^-38.")
      .def("softmax_bounds", &Kernels::softmax_bounds, py::arg("scores"), py::arg("largest"), py::arg("steepness"),
           py::arg("bound"),
           "Upper bounds of the weights of scores above the bound in units of 2^16, 0 for others, int32, and their sums for "
           "each 128 scores.")
      .def("softmax_total_above", &Kernels::softmax_total_above, py::arg("scores"), py::arg("largest"), py::arg("steepness"),
           py::arg("bound"), "The sum of the weights of those of at most 1,024 scores that are above the bound.")
      .def("first_above", &Kernels::first_above, py::arg("x"), py::arg("bound"),
           "The index of the first number above the bound; the last one's if there is none before it.")
      .def("count_above", &Kernels::count_above, py::arg("x"), py::arg("bound"), "How many numbers are above the bound.")
      .def("layer_norm", &Kernels::layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"),
           "torch.nn.LayerNorm of one row.")
      .def("activation", &Kernels::activation, py::arg("act"), py::arg("x"), "The activation ACTIVATIONS[act] of each number.")
      .def("rotary", &Kernels::rotary, py::arg("x"), py::arg("cos"), py::arg("sin"),
           "One head with its first 2 len(cos) numbers rotated, in half-split form (transformers' apply_rotary_pos_emb).")
      .def("add", &Kernels::add, py::arg("a"), py::arg("b"), "a + b.")
      .def("to_float", &Kernels::to_float, py::arg("format"), py::arg("source"),
           "The values of elements of f32, f16 or bf16, given as bytes.")
      .def("quantize_row", &Kernels::quantize_row, py::arg("x"),
           "(codes int8 [groups * 32], scales float32 [groups], offsets int32 [groups]) of a row.")
      .def("exp", &Kernels::elementwise<&KernelTable::exp>, py::arg("x"), "e^x.")
      .def("exp2", &Kernels::elementwise<&KernelTable::exp2>, py::arg("x"), "2^x, x clamped to [-126, 1].")
      .def("log", &Kernels::elementwise<&KernelTable::log>, py::arg("x"), "The natural logarithm.")
      .def("tanh", &Kernels::elementwise<&KernelTable::tanh>, py::arg("x"), "The hyperbolic tangent.");
}

}  // namespace pythia
