// pythia-cpu score: log-likelihood and perplexity of texts.
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/io.h"
#include "cli/json_writer.h"
#include "cli/line_reader.h"
#include "cli/model_tokenizer.h"
#include "cli/progress.h"
#include "cli/score_lines.h"
#include "cli/score_result.h"
#include "cli/shipped_model.h"
#include "model/model.h"
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
    "text's first token is then not scored, nor, where N is the context, is that of any window. Bits per byte\n"
    "are over the bytes of scored tokens.\n\n"
    "A FILE.jsonl, or any with --jsonl, has a JSON object a line: {\"text\": ...}, scored so, or {\"context\": ...,\n"
    "\"continuation\": ...}, of which the continuation is scored; white space at the context's end counts as the\n"
    "continuation's, as in lm-evaluation-harness. An object a line is written, with the \"id\" of the one read,\n"
    "before more input is waited for.\n\n"
    "  pythia-cpu score book.txt\n"
    "  pythia-cpu score -m pythia-160m.pcpu questions.jsonl > scores.jsonl\n"
    "  pythia-cpu score -m pythia-160m.pcpu --stride 512 --per-token book.txt > tokens.tsv\n";

struct ScoreOptions {
  std::string model_path;      // empty: the shipped model
  int64_t threads = 0;         // 0: all physical cores
  int64_t context_length = 0;  // 0: the model's
  int64_t stride = 0;          // 0: rolling windows
  bool per_token = false;
  bool json = false;
  bool jsonl = false;
};

int64_t window_length(const ScoreOptions& options, const Config& config) {
  return options.context_length == 0 ? config.max_position_embeddings : options.context_length;
}

void check_windows(const ScoreOptions& options, const Config& config) {
  const int64_t longest = config.max_position_embeddings, length = window_length(options, config);
  if (length > longest)
    throw UsageError("--context-length is " + std::to_string(length) + ", expected 2 to " + std::to_string(longest) +
                     ", the model's");
  if (options.stride > length)
    throw UsageError("--stride is " + std::to_string(options.stride) + ", expected 1 to " + std::to_string(length) +
                     ", the context length");
}

std::vector<ScoreRequest> make_windows(const ScoreOptions& options, const Config& config, std::span<const int32_t> ids) {
  const int64_t length = window_length(options, config);
  if (options.stride > 0) return strided_windows(ids, length, options.stride);
  if (config.eos_token_id < 0)
    throw std::invalid_argument("the model has no end-of-text token to begin the text with; give --stride");
  return rolling_windows(ids, config.eos_token_id, length);
}

// Empty if it was interrupted.
std::optional<ScoreResult> score_text(const ScoreOptions& options, std::shared_ptr<Model> model, const Tokenizer& tokenizer,
                                      const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  const std::vector<ScoreRequest> windows = make_windows(options, model->config(), ids);
  Scorer scorer(std::move(model), windows);
  {
    Progress progress("scoring", scorer.num_inputs(), "tokens");
    while (!scorer.done()) {
      if (interrupted()) return std::nullopt;
      scorer.step();
      progress.update(scorer.num_inputs_done());
    }
  }
  ScoreResult result;
  result.set_text(text, static_cast<int64_t>(ids.size()), windows, tokenizer);
  for (std::size_t w = 0; w < windows.size(); ++w) result.add(windows[w], scorer.scores()[w]);
  if (result.tokens.empty())
    throw std::invalid_argument("the text has " + std::to_string(ids.size()) +
                                " tokens, none of which has one before it; expected a longer text");
  return result;
}

void write_result(const ScoreOptions& options, const ScoreResult& result, const Tokenizer& tokenizer) {
  if (options.json) {
    JsonWriter json;
    json.begin_object();
    write_members(json, result, options.per_token);
    write_output(json.end_object().text() + "\n");
  } else {
    write_output(options.per_token ? token_lines(result, tokenizer) : summary_lines(result));
  }
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
           "print a line for each token instead: id, log-probability, 1 if it is\nthe most likely one, text as a JSON string "
           "(in pandas: quoting=3)",
           options.per_token),
      flag("--json", 0, "print a JSON object; with --per-token it has all tokens", options.json),
      flag("--jsonl", 0, "read and write JSON lines", options.jsonl),
      integer_option("--threads", 't', "N", "use N threads (default: all physical cores); the result is the same", 1,
                     kMaxThreads, options.threads),
  };
  if (wants_help(arguments, table)) {
    write_output(help_text(command, table));
    return 0;
  }
  const std::vector<std::string_view> rest = parse(arguments, table);
  if (rest.size() != 1)
    throw UsageError("found " + std::to_string(rest.size()) + " files, expected one, or - for standard input");

  const std::string path(rest[0]);
  const bool has_lines = options.jsonl || path.ends_with(".jsonl");
  std::optional<LineReader> lines;
  std::string text;
  has_lines ? void(lines.emplace(path)) : void(text = read_text(path));
  const auto model = Model::open(chosen_model_path(options.model_path), static_cast<int>(options.threads));
  check_windows(options, model->config());
  const auto its_tokenizer = open_tokenizer(model->file());
  const Tokenizer& tokenizer = *its_tokenizer;
  catch_interrupt();
  if (has_lines) {
    const auto windows = [&](std::span<const int32_t> ids) { return make_windows(options, model->config(), ids); };
    with_text_of(path, [&] { score_lines({model, tokenizer, windows, options.per_token}, *lines); });
    return exit_status();
  }
  const std::optional<ScoreResult> result = with_text_of(path, [&] { return score_text(options, model, tokenizer, text); });
  if (!result) return exit_status();
  write_result(options, *result, tokenizer);
  return 0;
}

}  // namespace

const Command kScoreCommand = {"score", "[OPTION]... FILE", "log-likelihood and perplexity of texts", kDescription, &run_score};

}  // namespace pythia::cli
