#include "cli/score_lines.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "cli/io.h"
#include "cli/json_reader.h"
#include "cli/score_result.h"
#include "common/utf8.h"
#include "text/pre_tokenizer.h"

namespace pythia::cli {
namespace {

// Records run together until there are so many of them, or so many tokens: few at first, then what a model reads in some
// seconds, so that lines come out, and little is lost by Ctrl-C.
constexpr std::size_t kRecordsPerBatch = 256;
constexpr int64_t kFirstTokensPerBatch = 4096, kLeastTokensPerBatch = 1024;
constexpr double kSecondsPerBatch = 4;

struct Record {
  int64_t index;
  std::string id = {};  // as JSON; empty: none
  ScoreResult result = {};
  std::vector<ScoreRequest> requests = {};
};

// `text` without the white space at its end: what Python's str.rstrip takes off.
std::string_view without_trailing_space(std::string_view text) {
  while (!text.empty()) {
    const utf8::CodePoint last = utf8::decode_last(text);
    const bool separator = last.value >= 0x1c && last.value <= 0x1f;
    if (!separator && !is_white_space(last.value)) break;
    text.remove_suffix(last.size);
  }
  return text;
}

// The member of that name; null if there is none, or it is null. Throws if it is no string.
const std::string* find_text(const JsonValue& object, std::string_view name) {
  const JsonValue* member = object.find(name);
  if (member == nullptr || member->kind == JsonValue::Kind::kNull) return nullptr;
  if (member->kind != JsonValue::Kind::kString) throw std::invalid_argument("\"" + std::string(name) + "\" is not a string");
  return &member->text;
}

std::string read_id(const JsonValue& object) {
  const JsonValue* id = object.find("id");
  if (id == nullptr || id->kind == JsonValue::Kind::kNull) return {};
  if (id->kind == JsonValue::Kind::kNumber) return id->text;
  if (id->kind != JsonValue::Kind::kString) throw std::invalid_argument("\"id\" is neither a string nor a number");
  JsonWriter json;
  return json.string(id->text).text();
}

// White space at the context's end belongs to the continuation's first token, as in lm-evaluation-harness. Python has the same
// rule in ScoringModel.pair (_scoring_model.py).
ScoreRequest pair_request(const LineScoring& scoring, const std::string& context, const std::string& continuation) {
  const Config& config = scoring.model->config();
  std::vector<int32_t> before = scoring.tokenizer.encode(without_trailing_space(context));
  std::vector<int32_t> whole = scoring.tokenizer.encode(context + continuation);
  const auto num_before = static_cast<std::ptrdiff_t>(std::min(before.size(), whole.size()));
  const std::vector<int32_t> after(whole.begin() + num_before, whole.end());
  if (after.empty() && !before.empty() && !continuation.empty())
    throw std::invalid_argument("\"continuation\" adds no token to the " + std::to_string(before.size()) +
                                " of \"context\", because they are encoded together: begin it with a space");
  if (after.empty()) throw std::invalid_argument("\"continuation\" has no tokens, expected at least one");
  if (before.empty()) {
    if (config.eos_token_id < 0)
      throw std::invalid_argument("\"context\" has no tokens, and the model has no end-of-text token to stand for it");
    before = {config.eos_token_id};
  }
  ScoreRequest request = {.tokens = before, .first_target = static_cast<int64_t>(before.size())};
  request.tokens.insert(request.tokens.end(), after.begin(), after.end());
  if (static_cast<int64_t>(request.tokens.size()) > config.max_position_embeddings + 1)
    throw std::invalid_argument("context and continuation have " + std::to_string(request.tokens.size()) +
                                " tokens, expected at most " + std::to_string(config.max_position_embeddings + 1) +
                                ", the model's context and one: shorten the context");
  return request;
}

Record read_record(const LineScoring& scoring, int64_t index, std::string_view line) {
  const JsonValue object = parse_json(line);
  if (object.kind != JsonValue::Kind::kObject) throw std::invalid_argument("expected an object in { }");
  const std::string *text = find_text(object, "text"), *context = find_text(object, "context"),
                    *continuation = find_text(object, "continuation");
  if ((text != nullptr) == (context != nullptr) || (context != nullptr) != (continuation != nullptr))
    throw std::invalid_argument("expected an object with \"text\", or with \"context\" and \"continuation\"");
  Record record = {.index = index, .id = read_id(object)};
  if (text != nullptr) {
    const std::vector<int32_t> ids = scoring.tokenizer.encode(*text);
    record.requests = scoring.windows(ids);
    record.result.set_text(*text, static_cast<int64_t>(ids.size()), record.requests, scoring.tokenizer);
  } else {
    record.requests.push_back(pair_request(scoring, *context, *continuation));
    record.result.num_text_tokens = static_cast<int64_t>(record.requests[0].tokens.size()) - record.requests[0].first_target;
    const std::size_t num_before = without_trailing_space(*context).size();
    record.result.num_bytes = static_cast<int64_t>(context->size() - num_before + continuation->size());
  }
  return record;
}

// False if it was interrupted.
bool score_batch(const LineScoring& scoring, std::vector<Record>& records) {
  std::vector<ScoreRequest> requests;
  for (const Record& record : records) requests.insert(requests.end(), record.requests.begin(), record.requests.end());
  Scorer scorer(scoring.model, std::move(requests));
  while (!scorer.done()) {
    if (interrupted()) return false;
    scorer.step();
  }
  std::string lines;
  std::size_t number = 0;
  for (Record& record : records) {
    for (const ScoreRequest& request : record.requests) record.result.add(request, scorer.scores()[number++]);
    JsonWriter json;
    json.begin_object().key("index").number(record.index);
    if (!record.id.empty()) json.key("id").json(record.id);
    write_members(json, record.result, scoring.per_token);
    lines += json.end_object().text() + "\n";
  }
  write_output(lines);
  return true;
}

}  // namespace

void score_lines(const LineScoring& scoring, LineReader& lines) {
  using Clock = std::chrono::steady_clock;
  std::vector<Record> batch;
  int64_t index = 0, num_tokens = 0, most_tokens = kFirstTokensPerBatch;
  const auto score = [&] {
    if (batch.empty()) return true;
    const Clock::time_point begin = Clock::now();
    const bool scored = score_batch(scoring, batch);
    const double seconds = std::max(1e-3, std::chrono::duration<double>(Clock::now() - begin).count());
    most_tokens =
        std::max(kLeastTokensPerBatch, static_cast<int64_t>(static_cast<double>(num_tokens) / seconds * kSecondsPerBatch));
    batch.clear();
    num_tokens = 0;
    return scored;
  };
  while (!interrupted()) {
    const std::optional<std::string> line = lines.next(batch.empty());
    if (line && line->find_first_not_of(" \t") == std::string::npos) continue;
    if (line) {
      try {
        batch.push_back(read_record(scoring, index++, *line));
        for (const ScoreRequest& request : batch.back().requests) num_tokens += static_cast<int64_t>(request.tokens.size());
      } catch (const std::invalid_argument& error) {
        if (!score()) return;
        throw std::invalid_argument("line " + std::to_string(lines.num_lines()) + ": " + error.what());
      }
      if (batch.size() < kRecordsPerBatch && num_tokens < most_tokens) continue;
    }
    if (!score() || (!line && lines.done())) return;
  }
}

}  // namespace pythia::cli
