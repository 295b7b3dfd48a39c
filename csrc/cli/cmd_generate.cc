// pythia-cpu generate: text from a prompt.
#include <algorithm>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/generate_options.h"
#include "cli/io.h"
#include "cli/json_reader.h"
#include "cli/json_writer.h"
#include "cli/line_reader.h"
#include "cli/model_tokenizer.h"
#include "cli/shipped_model.h"
#include "common/errors.h"
#include "generate/generator.h"
#include "generate/stop_strings.h"
#include "model/model.h"

namespace pythia::cli {
namespace {

constexpr std::string_view kDescription =
    "Writes on from a prompt. The text goes to standard output as it is written, and nothing else does.\n\n"
    "By default every token is the most likely one. Tokens are drawn at random as soon as --temperature,\n"
    "--top-k, --top-p, --min-p, --typical-p or --seed is given, unless the temperature is 0; the steps run in\n"
    "the order logit bias, penalties, temperature, top-k, top-p, min-p, typical-p.\n\n"
    "PROMPT is the text itself; - reads it from standard input (one newline at its end is left out).\n\n"
    "  pythia-cpu generate \"Once upon a time\"\n"
    "  pythia-cpu generate -n 200 --temperature 0.8 --top-p 0.95 --seed 1 --stop \"THE END\" \"Chapter I.\"\n"
    "  pythia-cpu generate --batch --prompt-file prompts.txt > texts.jsonl\n";

struct Run {
  const GenerateOptions& options;
  std::shared_ptr<Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int32_t> eos_token_ids;
};

// What ends a text: of several ids in config.json the header has the first. Throws FormatError for metadata that is none.
std::vector<int32_t> read_eos_token_ids(const PcpuFile& file) {
  std::vector<int32_t> ids;
  if (const auto stored = file.metadata().find("config"); stored != file.metadata().end()) {
    try {
      const JsonValue config = parse_json(stored->second);
      if (config.kind != JsonValue::Kind::kObject) throw std::invalid_argument("expected an object in { }");
      if (const JsonValue* several = config.find("eos_token_id"))
        for (const JsonValue& item : several->items)
          ids.push_back(static_cast<int32_t>(parse_integer("eos_token_id", item.text)));
    } catch (const std::exception& error) {
      throw FormatError(file.path() + ": metadata config is not the text of a config.json (" + error.what() +
                        "); convert the checkpoint again");
    }
  }
  if (const int32_t id = file.config().eos_token_id; ids.empty() && id >= 0) ids = {id};
  return ids;
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32 | device()) >> 11;  // 53 bits: a whole number for every reader of JSON
}

void drop_last_newline(std::string& text) {
  if (!text.ends_with('\n')) return;
  text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
}

// Where the prompt is: the text itself, or the file that has it ("-": standard input).
struct PromptPlace {
  std::optional<std::string> text;
  std::string path;
};

PromptPlace prompt_place(const GenerateOptions& options, const std::vector<std::string_view>& arguments) {
  if (arguments.size() > 1)
    throw UsageError("found " + std::to_string(arguments.size()) + " prompts, expected one: put it in quotes, or use --batch");
  if (!options.prompt_path.empty() && !arguments.empty())
    throw UsageError("found both a prompt and --prompt-file, expected one of them");
  if (options.prompt_path.empty() && arguments.empty()) throw UsageError("no prompt given; - reads it from standard input");
  if (!arguments.empty() && arguments[0] != "-") return {std::string(arguments[0]), {}};
  return {std::nullopt, arguments.empty() ? options.prompt_path : "-"};
}

std::string read_prompt(const PromptPlace& place) {
  if (place.text) return *place.text;
  std::string text = read_text(place.path);
  drop_last_newline(text);
  return text;
}

GenerationRequest make_request(const Run& run, const std::string& prompt) {
  GenerationRequest request;
  const int32_t eos_token_id = run.model->config().eos_token_id;
  request.prompt = run.tokenizer->encode(prompt);
  if (request.prompt.empty())
    throw std::invalid_argument("the prompt is empty, expected text; to start from nothing give '" +
                                std::string(run.tokenizer->token_bytes(std::max(eos_token_id, 0))) + "'");
  request.sampling = run.options.sampling;
  request.max_new_tokens = run.options.max_new_tokens;
  request.stop = run.options.stop;
  if (!run.options.ignore_eos) request.eos_token_ids = run.eos_token_ids;
  request.seed = run.options.seed ? *run.options.seed : random_seed();
  request.num_logprobs = run.options.num_logprobs;
  return request;
}

void write_ids(JsonWriter& json, std::string_view key, std::span<const int32_t> ids) {
  json.key(key).begin_array();
  for (const int32_t id : ids) json.number(id);
  json.end_array();
}

// One line: the names are those of Python's Generation. finish_reason is null if Ctrl-C came before the end.
std::string to_json(const Run& run, std::optional<int64_t> index, const std::string& prompt, const GenerationRequest& request,
                    const GenerationResult& result) {
  JsonWriter json;
  json.begin_object();
  if (index) json.key("index").number(*index);
  json.key("prompt").string(prompt).key("text").string(result.text);
  write_ids(json, "prompt_tokens", request.prompt);
  write_ids(json, "tokens", result.tokens);
  json.key("finish_reason");
  result.finish_reason ? json.string(name_of(*result.finish_reason)) : json.null();
  json.key("seed");
  run.options.sampling.do_sample ? json.number(request.seed) : json.null();
  if (request.num_logprobs >= 0) {
    json.key("logprobs").begin_array();
    for (const float logprob : result.logprobs) json.number(logprob);
    json.end_array();
  }
  if (request.num_logprobs > 0) {
    json.key("top_logprobs").begin_array();
    for (const auto& top : result.top) {
      json.begin_array();
      for (const auto& [id, logprob] : top) json.begin_array().number(id).number(logprob).end_array();
      json.end_array();
    }
    json.end_array();
  }
  json.end_object();
  return json.text() + "\n";
}

// Streams the text, or one JSON object at the end.
int run_one(const Run& run, const std::string& prompt) {
  const GenerationRequest request = make_request(run, prompt);
  Generator generator(run.model, run.tokenizer);
  generator.add(request);
  const bool stream = !run.options.json;
  if (stream && run.options.echo) write_output(prompt);
  GenerationResult result;
  while (!generator.done() && !interrupted()) {
    for (GeneratedToken& token : generator.step()) {
      if (stream) write_output(token.text);
      result.append(std::move(token), request.num_logprobs);
    }
  }
  write_output(stream ? "\n" : to_json(run, std::nullopt, prompt, request, result));
  return exit_status();
}

// One prompt a line in, one JSON object a line out, in the same order and as soon as all before it are written.
class Batch {
 public:
  Batch(const Run& run, LineReader& lines) : run_(run), lines_(lines), generator_(run.model, run.tokenizer) {}

  // Throws std::invalid_argument naming the line for a prompt that cannot be used, when all before it are written.
  int run() {
    while (!interrupted()) {
      add_prompts();
      if (generator_.done()) break;
      for (GeneratedToken& token : generator_.step())
        texts_.at(token.request).result.append(std::move(token), run_.options.num_logprobs);
      write(false);
    }
    write(true);
    if (problem_ && !interrupted()) std::rethrow_exception(problem_);
    return exit_status();
  }

 private:
  struct Text {
    std::string prompt;
    GenerationRequest request;
    GenerationResult result = {};
  };

  // As many as are there, up to those that wait for others to end.
  void add_prompts() {
    while (!problem_ && generator_.num_waiting() < kMostWaiting) {
      std::optional<std::string> prompt = lines_.next(generator_.done());
      if (!prompt) return;
      try {
        GenerationRequest request = make_request(run_, *prompt);
        const int64_t number = generator_.add(request);
        texts_.emplace(number, Text{std::move(*prompt), std::move(request)});
      } catch (const std::invalid_argument& error) {
        problem_ =
            std::make_exception_ptr(std::invalid_argument("line " + std::to_string(lines_.num_lines()) + ": " + error.what()));
      }
    }
  }

  // Those that have ended, up to the first that has not; `all`: those that have begun.
  void write(bool all) {
    for (auto it = texts_.begin(); it != texts_.end(); it = texts_.erase(it)) {
      const Text& text = it->second;
      const bool has_ended = text.result.finish_reason.has_value();
      if (!has_ended && !all) return;
      if (has_ended || !text.result.tokens.empty())
        write_output(to_json(run_, it->first, text.prompt, text.request, text.result));
    }
  }

  static constexpr int64_t kMostWaiting = 256;
  const Run& run_;
  LineReader& lines_;
  Generator generator_;
  std::map<int64_t, Text> texts_;  // by number: those that are not written
  std::exception_ptr problem_;     // with the line after them
};

// "[generate] top_p is 2" as "--top-p is 2".
std::string with_option_name(const std::string& message, const std::vector<Option>& table) {
  for (const Option& option : table) {
    std::string name(option.name.substr(2));
    std::ranges::replace(name, '-', '_');
    const std::string start = "[generate] " + name + " ";
    if (message.starts_with(start)) return std::string(option.name) + message.substr(start.size() - 1);
  }
  return message;
}

int run_generate(const Command& command, std::span<const std::string_view> arguments) {
  GenerateOptions options;
  const std::vector<Option> table = generate_option_table(options);
  if (wants_help(arguments, table)) {
    write_output(help_text(command, table));
    return 0;
  }
  const std::vector<std::string_view> rest = parse(arguments, table);
  if (options.batch && options.echo) throw UsageError("--echo makes no sense with --batch, whose lines have the prompt");
  if (options.json && options.echo) throw UsageError("--echo makes no sense with --json, which has the prompt");
  if (options.num_logprobs >= 0 && !options.json && !options.batch) throw UsageError("--logprobs needs --json or --batch");
  if (options.sampling.temperature == 0) options.sampling.do_sample = false;
  try {
    validate(options.sampling, std::numeric_limits<int32_t>::max());
    for (const std::string& stop : options.stop) StopMatcher({stop});
  } catch (const std::invalid_argument& error) {
    throw UsageError(with_option_name(error.what(), table));
  }
  const PromptPlace place = prompt_place(options, rest);
  std::optional<LineReader> lines;
  std::string prompt;
  if (options.batch)
    place.text ? lines.emplace(LineReader::of_text(*place.text)) : lines.emplace(place.path);
  else
    prompt = read_prompt(place);

  const std::string path = chosen_model_path(options.model_path);
  Run run{options, Model::open(path, static_cast<int>(options.threads)), nullptr, {}};
  run.tokenizer = open_tokenizer(run.model->file());
  run.eos_token_ids = read_eos_token_ids(run.model->file());
  catch_interrupt();
  return with_text_of(options.prompt_path, [&] { return lines ? Batch(run, *lines).run() : run_one(run, prompt); });
}

}  // namespace

const Command kGenerateCommand = {"generate", "[OPTION]... PROMPT", "write on from a prompt", kDescription, &run_generate};

}  // namespace pythia::cli
