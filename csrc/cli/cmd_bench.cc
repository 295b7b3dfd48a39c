// pythia-cpu bench: the engine's speed beside this machine's limits.
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <vector>

#include "bench/limits.h"
#include "bench/machine.h"
#include "bench/workload.h"
#include "cli/commands.h"
#include "cli/io.h"
#include "cli/json_writer.h"
#include "cli/shipped_model.h"
#include "kernels/dispatch.h"
#include "model/model.h"

namespace pythia::cli {
namespace {

constexpr std::string_view kDescription =
    "Measures how fast a model runs on this machine, and how much of the machine that is.\n\n"
    "  prefill   reads a prompt of random tokens, logits of the last: bound by arithmetic\n"
    "  decode    writes on from one token, the most likely each time: bound by reading the weights\n"
    "  scoring   reads texts of random tokens, log-probabilities at every position: bound by arithmetic\n\n"
    "Figures are tokens per second of the best repetition, after one that does not count. Beside them stand\n"
    "the operations of the matmuls (two for each weight and token, without what the last layer need not do where\n"
    "no logits are asked for) and the bytes of weights read, as fractions of what the machine can do, measured\n"
    "in the same run with the same threads and instruction set: reading 1 GiB of memory, reading a working set\n"
    "of the weights' size (small models stay in cache), int8 dots and float32 multiply-adds on registers. Reading\n"
    "is measured between the repetitions of decode; the better of the two beside the best one counts. q8 and q4\n"
    "weights are held against int8, others against float32. Other programs on the machine lower all figures: look\n"
    "at the fractions, and run it twice. It takes 1 GiB of memory for a moment. PYTHIA_CPU_ISA=avx2 (portable,\n"
    "...) measures another instruction set.\n\n"
    "  pythia-cpu bench -m pythia-410m.pcpu\n"
    "  pythia-cpu bench -m pythia-410m.pcpu --json > record.json\n";

struct BenchOptions {
  std::string model_path;  // empty: the shipped model
  int64_t threads = 0;     // 0: all physical cores
  int64_t prompt_tokens = 512;
  int64_t decode_tokens = 128;
  int64_t score_texts = 8;  // 0: scoring is left out
  int64_t repetitions = 3;
  bool json = false;
};

// Per second: bytes and operations.
struct Limits {
  double read_1gib = 0;
  double read_weights = 0;  // a working set of the weights' size
  double int8 = 0;
  double fp32 = 0;
};

struct Report {
  std::string machine, date, model, isa, weights;
  int64_t threads = 0;
  MatmulCost cost;
  bool is_int8 = false;  // which arithmetic the matmuls use
  Limits limits;
  Timing prefill, decode;
  std::optional<Timing> scoring;

  double peak() const { return is_int8 ? limits.int8 : limits.fp32; }
  const char* peak_name() const { return is_int8 ? "int8" : "fp32"; }
};

// Times decoding and, between its repetitions, reading memory.
void measure_decode(const std::shared_ptr<Model>& model, const BenchOptions& options, ThreadPool& pool, Report& report) {
  const KernelTable& kernels = select_kernels(model->isa());
  ReadRate memory(kernels, pool, int64_t{1} << 30), weights(kernels, pool, report.cost.size_bytes);
  std::vector<double> memory_rates, weights_rates;
  report.decode = time_decode(model, options.decode_tokens, options.repetitions, [&] {
    memory_rates.push_back(memory.measure());
    weights_rates.push_back(weights.measure());
  });
  const std::size_t best = report.decode.best();
  report.limits.read_1gib = std::max(memory_rates[best], memory_rates[best + 1]);
  report.limits.read_weights = std::max(weights_rates[best], weights_rates[best + 1]);
}

Report measure(const BenchOptions& options) {
  const auto model = Model::open(chosen_model_path(options.model_path), static_cast<int>(options.threads));
  const PcpuFile& file = model->file();
  Report report;
  report.machine = machine_name();
  report.date = utc_timestamp();
  report.model = file.path();
  report.isa = model->isa();
  report.weights = name_of(file.weight_format());
  report.threads = model->threads();
  report.cost = matmul_cost(file);
  report.is_int8 = find_weight_format(file.header().weight_format)->quantized_activations;
  report.prefill = time_prefill(*model, options.prompt_tokens, options.repetitions);
  ThreadPool pool(model->threads());
  measure_decode(model, options, pool, report);
  if (options.score_texts > 0)
    report.scoring = time_scoring(*model, options.score_texts, options.prompt_tokens, options.repetitions);
  report.limits.int8 = measure_int8_rate(select_kernels(model->isa()), pool);
  report.limits.fp32 = measure_fp32_rate(select_kernels(model->isa()), pool);
  return report;
}

void write_timing(JsonWriter& json, const Timing& timing) {
  json.key("tokens").number(timing.tokens).key("seconds").begin_array();
  for (const double seconds : timing.seconds) json.number(seconds);
  json.end_array().key("tokens_per_second").number(timing.tokens_per_second());
}

void write_arithmetic(JsonWriter& json, const Report& report, const Timing& timing) {
  const double rate = timing.matmul_operations_per_second(report.cost);
  json.begin_object();
  write_timing(json, timing);
  json.key("matmul_operations_per_second").number(rate).key("limit").string(report.peak_name());
  json.key("fraction_of_limit").number(rate / report.peak()).end_object();
}

std::string to_json(const Report& report) {
  const Limits& limits = report.limits;
  const double read_rate = report.decode.weight_bytes_per_second(report.cost);
  JsonWriter json;
  json.begin_object();
  json.key("machine").string(report.machine).key("isa").string(report.isa).key("threads").number(report.threads);
  json.key("date").string(report.date).key("model").string(report.model).key("weights").string(report.weights);
  json.key("matmul_weights_bytes").number(report.cost.size_bytes);
  json.key("limits").begin_object();
  json.key("read_1gib_bytes_per_second").number(limits.read_1gib);
  json.key("read_weights_size_bytes_per_second").number(limits.read_weights);
  json.key("int8_operations_per_second").number(limits.int8);
  json.key("fp32_operations_per_second").number(limits.fp32).end_object();
  json.key("prefill");
  write_arithmetic(json, report, report.prefill);
  json.key("decode").begin_object();
  write_timing(json, report.decode);
  json.key("weights_bytes_per_second").number(read_rate);
  json.key("fraction_of_read_1gib").number(read_rate / limits.read_1gib);
  json.key("fraction_of_read_weights_size").number(read_rate / limits.read_weights).end_object();
  json.key("scoring");
  if (report.scoring)
    write_arithmetic(json, report, *report.scoring);
  else
    json.null();
  json.end_object();
  return json.text() + "\n";
}

// With one digit after the point, or none from 1000 on: the same in every locale.
std::string rounded(double value) {
  char digits[64];
  return {digits, std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed, value < 1000 ? 1 : 0).ptr};
}

std::string giga(double per_second, std::string_view unit) {
  return rounded(per_second * 1e-9) + " G" + std::string(unit) + "/s";
}
std::string percent(double fraction) { return rounded(fraction * 100) + "%"; }

// Columns: the first to the left, the others to the right, the last as it is.
std::string table_line(const std::array<std::string, 5>& cells) {
  static constexpr std::array<std::size_t, 4> kWidths = {10, 10, 12, 16};
  std::string line = cells[0];
  line.resize(std::max(line.size(), kWidths[0]), ' ');
  for (std::size_t i = 1; i < kWidths.size(); ++i)
    line.append(kWidths[i] > cells[i].size() ? kWidths[i] - cells[i].size() : 1, ' ') += cells[i];
  return line + (cells[4].empty() ? "" : "   " + cells[4]) + "\n";
}

std::string to_text(const Report& report) {
  const Limits& limits = report.limits;
  const auto arithmetic = [&](const char* name, const Timing& timing) {
    const double rate = timing.matmul_operations_per_second(report.cost);
    return table_line({name, std::to_string(timing.tokens), rounded(timing.tokens_per_second()), giga(rate, "OP"),
                       percent(rate / report.peak()) + " of " + report.peak_name()});
  };
  const double read_rate = report.decode.weight_bytes_per_second(report.cost);
  const std::string size = rounded(static_cast<double>(report.cost.size_bytes) * 1e-6) + " MB";
  return "machine   " + report.machine + ", " + report.isa + ", threads: " + std::to_string(report.threads) + "\n" +
         "date      " + report.date + "\n" + "model     " + report.model + "\n" + "weights   " + report.weights + ", " + size +
         " in matmuls\n\n" + "limits    read 1 GiB " + giga(limits.read_1gib, "B") + ", read " + size + " " +
         giga(limits.read_weights, "B") + ", int8 " + giga(limits.int8, "OP") + ", fp32 " + giga(limits.fp32, "OP") + "\n\n" +
         table_line({"", "tokens", "tokens/s", "rate", ""}) + arithmetic("prefill", report.prefill) +
         table_line({"decode", std::to_string(report.decode.tokens), rounded(report.decode.tokens_per_second()),
                     giga(read_rate, "B"),
                     percent(read_rate / limits.read_1gib) + " of read 1 GiB, " + percent(read_rate / limits.read_weights) +
                         " of read " + size}) +
         (report.scoring ? arithmetic("scoring", *report.scoring) : "");
}

int run_bench(const Command& command, std::span<const std::string_view> arguments) {
  constexpr int64_t kMostTokens = int64_t{1} << 24, kMostRepetitions = 1000;
  BenchOptions o;
  const std::vector<Option> table = {
      model_option(o.model_path),
      integer_option("--threads", 't', "N", "threads (default: all physical cores)", 1, kMaxThreads, o.threads),
      integer_option("--prompt-tokens", 0, "N", with_default("tokens of a prompt, and of a text to score", o.prompt_tokens), 1,
                     kMostTokens, o.prompt_tokens),
      integer_option("--decode-tokens", 0, "N", with_default("tokens to write", o.decode_tokens), 1, kMostTokens,
                     o.decode_tokens),
      integer_option("--score-texts", 0, "N", with_default("texts to score, 0: none", o.score_texts), 0, kMostTokens,
                     o.score_texts),
      integer_option("--repetitions", 0, "N", with_default("runs of each, of which the best counts", o.repetitions), 1,
                     kMostRepetitions, o.repetitions),
      flag("--json", 0, "print a JSON object, with every repetition's seconds", o.json),
  };
  if (wants_help(arguments, table)) {
    write_output(help_text(command, table));
    return 0;
  }
  if (const auto rest = parse(arguments, table); !rest.empty())
    throw UsageError("unexpected argument '" + std::string(rest[0]) + "'; name the model with -m");
  const Report report = measure(o);
  write_output(o.json ? to_json(report) : to_text(report));
  return 0;
}

}  // namespace

const Command kBenchCommand = {"bench", "[OPTION]...", "measure speed beside this machine's limits", kDescription, &run_bench};

}  // namespace pythia::cli
