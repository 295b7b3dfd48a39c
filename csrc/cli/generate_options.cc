#include "cli/generate_options.h"

#include <limits>
#include <utility>

#include "cli/commands.h"
#include "model/model.h"

namespace pythia::cli {
namespace {

template <class Number>
Option number_option(std::string_view name, std::string_view value_name, std::string help, Number& target) {
  return {name, 0, value_name, std::move(help),
          [name, &target](std::string_view value) { target = static_cast<Number>(parse_number(name, value)); }};
}

// An option whose use turns sampling on.
Option sampling_option(Option option, bool& do_sample) {
  option.set = [set = std::move(option.set), &do_sample](std::string_view value) {
    set(value);
    do_sample = true;
  };
  return option;
}

std::pair<int32_t, float> parse_bias(std::string_view value) {
  const size_t colon = value.find(':');
  if (colon == std::string_view::npos)
    throw UsageError("--logit-bias is '" + std::string(value) + "', expected ID:BIAS, such as 13:-5");
  const int64_t id = parse_integer("--logit-bias", value.substr(0, colon));
  if (id < 0 || id > std::numeric_limits<int32_t>::max())
    throw UsageError("--logit-bias names token " + std::to_string(id) + ", expected an id of 0 or more");
  return {static_cast<int32_t>(id), static_cast<float>(parse_number("--logit-bias", value.substr(colon + 1)))};
}

}  // namespace

std::vector<Option> generate_option_table(GenerateOptions& o) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  SamplingOptions& s = o.sampling;
  std::vector<Option> table = {
      model_option(o.model_path),
      integer_option("--max-new-tokens", 'n', "N", with_default("write at most N tokens", o.max_new_tokens), 0, kMost,
                     o.max_new_tokens),
      file_option("--prompt-file", 'f', "read the prompt from FILE (one newline at its end is left out)", o.prompt_path),
      {"--stop", 0, "STR", "end before STR; may be given several times",
       [&o](std::string_view value) { o.stop.emplace_back(value); }},
      flag("--ignore-eos", 0, "do not end at the end-of-text token", o.ignore_eos),
      integer_option("--threads", 't', "N", "use N threads (default: all physical cores); the text is the same", 1, kMaxThreads,
                     o.threads),
      sampling_option(number_option("--temperature", "T",
                                    "divide scores by T: below 1 safer, above 1 wilder; 0 always takes\nthe most likely token, "
                                    "whatever else is given",
                                    s.temperature),
                      s.do_sample),
      sampling_option(integer_option("--top-k", 'k', "K", "draw from the K most likely tokens", 0, kMost, s.top_k),
                      s.do_sample),
      sampling_option(number_option("--top-p", "P", "draw from the fewest tokens that have probability P together", s.top_p),
                      s.do_sample),
      sampling_option(number_option("--min-p", "P", "draw from tokens at least P times as likely as the best", s.min_p),
                      s.do_sample),
      sampling_option(number_option("--typical-p", "P", "locally typical sampling of mass P", s.typical_p), s.do_sample),
      sampling_option(
          {"--seed", 0, "S", "seed of the draws, 0 to 2^64 - 1 (default: random); the same\nseed gives the same text",
           [&o](std::string_view value) { o.seed = parse_unsigned("--seed", value); }},
          s.do_sample),
      number_option("--repetition-penalty", "X", "divide scores of tokens seen before by X", s.repetition_penalty),
      number_option("--presence-penalty", "X", "subtract X from scores of tokens already written", s.presence_penalty),
      number_option("--frequency-penalty", "X", "subtract X for each time the token was written", s.frequency_penalty),
      integer_option("--no-repeat-ngram-size", 0, "N", "let no run of N tokens come twice, prompt included", 0, kMost,
                     s.no_repeat_ngram_size),
      {"--logit-bias", 0, "ID:X", "add X to the score of token ID (-inf bans it); may be given\nseveral times",
       [&s](std::string_view value) { s.logit_bias.push_back(parse_bias(value)); }},
      flag("--echo", 0, "print the prompt before the text", o.echo),
      flag("--json", 0,
           "print one JSON object at the end: prompt, text, prompt_tokens, tokens,\nfinish_reason and, of drawn texts, seed",
           o.json),
      flag("--batch", 0, "the input has one prompt a line; print such an object a line, in\norder, with its index", o.batch),
      integer_option("--logprobs", 0, "N",
                     "with --json or --batch: logprobs of the tokens, and top_logprobs, of\nthe N best in each place", 0,
                     std::numeric_limits<int32_t>::max(), o.num_logprobs),
  };
  return table;
}

}  // namespace pythia::cli
