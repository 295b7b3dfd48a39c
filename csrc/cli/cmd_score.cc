// pythia-cpu score: log-likelihood and perplexity of a text.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/io.h"
#include "cli/json_writer.h"
#include "cli/shipped_model.h"
#include "score/windows.h"
#include "text/tokenizer.h"

namespace pythia::cli {
namespace {

constexpr std::string_view kDescription =
    "Prints how likely a model finds a text: the log-likelihood of its tokens in nats, and the perplexity.\n"
    "FILE is read whole, a newline at its end included; - reads standard input.\n\n"
    "A text longer than the context is cut into windows. By default every token is scored once, the first\n"
    "after the end-of-text token: the rolling windows of lm-evaluation-harness. With --stride, windows begin\n"
    "every N tokens and score what those before did not hold, as in Hugging Face's guide to perplexity; the\n"
    "text's first token is then not scored.\n\n"
    "  pythia-cpu score book.txt\n"
    "  pythia-cpu score -m pythia-160m.pcpu --stride 512 --per-token book.txt > tokens.tsv\n";

struct ScoreOptions {
  std::string model_path;      // empty: the shipped model
  int64_t threads = 0;         // 0: all physical cores
  int64_t context_length = 0;  // 0: the model's
  int64_t stride = 0;          // 0: rolling windows
  bool per_token = false;
  bool json = false;
};

struct ScoredToken {
  int32_t id;
  TokenScore score;
};

struct Summary {
  std::vector<ScoredToken> tokens;  // in the text's order
  double log_likelihood = 0;
  int64_t num_text_tokens = 0;
  int64_t num_bytes = 0;
  bool interrupted = false;

  double perplexity() const { return std::exp(-log_likelihood / static_cast<double>(tokens.size())); }
  double bits_per_byte() const { return -log_likelihood / std::log(2.0) / static_cast<double>(num_bytes); }
  int64_t num_greedy() const {
    return std::ranges::count_if(tokens, [](const ScoredToken& t) { return t.id == t.score.argmax; });
  }
};

std::vector<ScoreRequest> make_windows(const ScoreOptions& options, const Config& config, std::span<const int32_t> ids) {
  const int64_t longest = config.max_position_embeddings;
  if (options.context_length > longest)
    throw UsageError("--context-length is " + std::to_string(options.context_length) + ", expected 2 to " +
                     std::to_string(longest) + ", the model's");
  const int64_t length = options.context_length == 0 ? longest : options.context_length;
  if (options.stride > length)
    throw UsageError("--stride is " + std::to_string(options.stride) + ", expected 1 to " + std::to_string(length) +
                     ", the context length");
  if (options.stride > 0) return strided_windows(ids, length, options.stride);
  if (config.eos_token_id < 0)
    throw std::invalid_argument("the model has no end-of-text token to begin the text with; give --stride");
  return rolling_windows(ids, config.eos_token_id, length);
}

Summary score_text(const ScoreOptions& options, std::shared_ptr<Model> model, const Tokenizer& tokenizer,
                   const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  const std::vector<ScoreRequest> windows = make_windows(options, model->config(), ids);
  Scorer scorer(std::move(model), windows);
  while (!scorer.done() && !interrupted()) scorer.step();
  Summary summary = {.tokens = {},
                     .num_text_tokens = static_cast<int64_t>(ids.size()),
                     .num_bytes = static_cast<int64_t>(text.size()),
                     .interrupted = !scorer.done()};
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const std::vector<TokenScore>& scores = scorer.scores()[w];
    for (std::size_t i = 0; i < scores.size(); ++i) {
      summary.tokens.push_back({windows[w].tokens[static_cast<std::size_t>(windows[w].first_target) + i], scores[i]});
      summary.log_likelihood += static_cast<double>(scores[i].logprob);
    }
  }
  if (summary.tokens.empty())
    throw std::invalid_argument("the text has " + std::to_string(ids.size()) +
                                " tokens, none of which has one before it; expected a longer text");
  return summary;
}

std::string number_text(double value) {
  char digits[64];
  return {digits, std::to_chars(digits, digits + sizeof digits, value, std::chars_format::general, 8).ptr};
}

void write_summary(const Summary& summary) {
  const auto line = [](std::string name, const std::string& value) {
    name.resize(16, ' ');
    return name + value + "\n";
  };
  write_output(line("tokens", std::to_string(summary.num_text_tokens)) + line("scored", std::to_string(summary.tokens.size())) +
               line("log-likelihood", number_text(summary.log_likelihood)) +
               line("perplexity", number_text(summary.perplexity())) +
               line("bits per byte", number_text(summary.bits_per_byte())) +
               line("greedy tokens", std::to_string(summary.num_greedy())));
}

// One line a token: id, log-probability, 1 if it is the most likely one, and its text as a JSON string.
void write_tokens(const Summary& summary, const Tokenizer& tokenizer) {
  std::string lines;
  for (const ScoredToken& token : summary.tokens) {
    char digits[32];
    JsonWriter piece;
    piece.string(tokenizer.token_bytes(token.id));
    lines += std::to_string(token.id) + "\t";
    lines.append(digits, std::to_chars(digits, digits + sizeof digits, token.score.logprob).ptr);
    lines += token.id == token.score.argmax ? "\t1\t" : "\t0\t";
    lines += piece.text() + "\n";
  }
  write_output(lines);
}

void write_json(const Summary& summary, bool per_token) {
  JsonWriter json;
  json.begin_object().key("num_text_tokens").number(summary.num_text_tokens).key("num_tokens").number(summary.tokens.size());
  json.key("num_bytes").number(summary.num_bytes).key("log_likelihood").number(summary.log_likelihood);
  json.key("perplexity").number(summary.perplexity()).key("bits_per_byte").number(summary.bits_per_byte());
  json.key("num_greedy").number(summary.num_greedy());
  if (per_token) {
    json.key("tokens").begin_array();
    for (const ScoredToken& token : summary.tokens) json.number(token.id);
    json.end_array().key("logprobs").begin_array();
    for (const ScoredToken& token : summary.tokens) json.number(token.score.logprob);
    json.end_array().key("is_greedy").begin_array();
    for (const ScoredToken& token : summary.tokens) json.boolean(token.id == token.score.argmax);
    json.end_array();
  }
  json.end_object();
  write_output(json.text() + "\n");
}

int run_score(const Command& command, std::span<const std::string_view> arguments) {
  ScoreOptions options;
  const std::vector<Option> table = {
      model_option(options.model_path),
      integer_option("--context-length", 'c', "N", "tokens of a window (default: the model's context)", 2, INT32_MAX,
                     options.context_length),
      integer_option("--stride", 's', "N", "begin a window every N tokens (default: rolling windows)", 1, INT32_MAX,
                     options.stride),
      flag("--per-token", 'p',
           "print a line for each token instead: id, log-probability, 1 if it is\nthe most likely one, text",
           options.per_token),
      flag("--json", 0, "print a JSON object; with --per-token it has all tokens", options.json),
      integer_option("--threads", 't', "N", "use N threads (default: all physical cores); the result is the same", 1, 4096,
                     options.threads),
  };
  if (wants_help(arguments)) {
    write_output(help_text(command, table));
    return 0;
  }
  const std::vector<std::string_view> rest = parse(arguments, table);
  if (rest.size() != 1)
    throw UsageError("found " + std::to_string(rest.size()) + " files, expected one, or - for standard input");

  const std::string text = read_all(std::string(rest[0]));
  const auto model =
      Model::open(options.model_path.empty() ? shipped_model_path() : options.model_path, static_cast<int>(options.threads));
  const Tokenizer tokenizer(model->file().tokenizer());
  catch_interrupt();
  const Summary summary = score_text(options, model, tokenizer, text);
  if (summary.interrupted) return kInterruptedStatus;
  if (options.json)
    write_json(summary, options.per_token);
  else if (options.per_token)
    write_tokens(summary, tokenizer);
  else
    write_summary(summary);
  return 0;
}

}  // namespace

const Command kScoreCommand = {"score", "[OPTION]... FILE", "log-likelihood and perplexity of a text", kDescription,
                               &run_score};

}  // namespace pythia::cli
